//! A broker inside your own tests: the real engine, on a free port, in a directory that goes
//! away with it.
//!
//! ```no_run
//! let broker = aqueduct_broker::testing::Broker::temp()?;
//! println!("connect to {}", broker.address());
//! # Ok::<(), aqueduct_broker::node::StartError>(())
//! ```

use std::{net::SocketAddr, time::Duration};

use tempfile::TempDir;

pub use crate::clock::Hand;
use crate::{
    clock::Clock,
    config::Config,
    node::{Node, StartError},
};

/// A running broker; dropping it stops it and removes its data.
pub struct Broker {
    node: Option<Node>,
    address: SocketAddr,
    clock: Hand,
    _dir: TempDir,
}

impl Broker {
    /// Starts a broker with an empty temporary directory. Topics are created by publishing.
    ///
    /// # Errors
    /// If there is no temporary directory or no free port.
    pub fn temp() -> Result<Broker, StartError> {
        let dir = TempDir::with_prefix("aqueduct-")?;
        let mut config = Config::new(dir.path());
        config.listen = SocketAddr::from(([127, 0, 0, 1], 0));
        config.auto_create_topics = true;
        let (clock, hand) = Clock::by_hand();
        let node = Node::start_by(config, clock)?;
        Ok(Broker {
            address: node.address(),
            node: Some(node),
            clock: hand,
            _dir: dir,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What its doors work with, for tests that look behind them.
    #[cfg(test)]
    pub(crate) fn services(&self) -> Option<&std::sync::Arc<crate::services::Services>> {
        self.node.as_ref().map(Node::services)
    }

    /// Its clock: an hour of backoff, delay or time to live passes with
    /// `broker.clock().advance(Duration::from_secs(3600))`.
    pub fn clock(&self) -> &Hand {
        &self.clock
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if let Some(node) = self.node.take() {
            node.shutdown(Duration::from_secs(1));
        }
    }
}
