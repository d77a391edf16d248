//! The node's configuration: one struct, a default for every field, checked once.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    thread,
    time::Duration,
};

use crate::limits;

/// What a node is started with.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where everything durable lies. Created if absent.
    pub data_dir: PathBuf,
    /// Address of the API; port 0 picks a free one.
    pub listen: SocketAddr,
    /// Allow listening beyond loopback without TLS and authentication.
    pub insecure: bool,
    /// Create a topic when somebody publishes to it (`aqueduct dev`).
    pub auto_create_topics: bool,
    /// Partitions of a topic that was created by publishing to it.
    pub auto_create_partitions: u32,
    /// Threads that serve; each runs its own share of connections and partitions.
    /// Default: the number of cores less one, at least one, at most eight.
    pub threads: usize,
    /// Bytes of publishes that may wait for their sync.
    pub in_flight_bytes: usize,
    /// Publishing stops when the data directory holds this many bytes; none = the disk's size.
    pub disk_limit_bytes: Option<u64>,
    /// Publishing stops when less than this is free on the file system.
    pub min_free_bytes: u64,
    /// Largest segment file.
    pub max_segment_bytes: u64,
    /// How often retention looks at each partition.
    pub retention_interval: Duration,
}

impl Config {
    /// The defaults with this data directory.
    pub fn new(data_dir: impl Into<PathBuf>) -> Config {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        Config {
            data_dir: data_dir.into(),
            listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7320),
            insecure: false,
            auto_create_topics: false,
            auto_create_partitions: 1,
            threads: cores.saturating_sub(1).clamp(1, 8),
            in_flight_bytes: limits::DEFAULT_IN_FLIGHT_BYTES,
            disk_limit_bytes: None,
            min_free_bytes: 64 << 20,
            max_segment_bytes: 128 << 20,
            retention_interval: Duration::from_secs(30),
        }
    }

    /// Relations between the fields.
    ///
    /// # Errors
    /// A sentence that names the field and what to do.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if !self.listen.ip().is_loopback() && !self.insecure {
            return Err(ConfigError::Exposed {
                listen: self.listen,
            });
        }
        in_range("threads", self.threads as u64, 1, 256)?;
        in_range(
            "in_flight_bytes",
            self.in_flight_bytes as u64,
            32 << 20,
            16 << 30,
        )?;
        in_range(
            "max_segment_bytes",
            self.max_segment_bytes,
            1 << 20,
            1 << 30,
        )?;
        let partitions = u64::from(self.auto_create_partitions);
        in_range("auto_create_partitions", partitions, 1, 10_000)
    }
}

fn in_range(field: &'static str, value: u64, min: u64, max: u64) -> Result<(), ConfigError> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    Err(ConfigError::OutOfRange {
        field,
        value,
        min,
        max,
    })
}

/// Why a configuration cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    #[error(
        "listen {listen} is reachable from other machines, but there is no TLS and no \
         authentication; listen on 127.0.0.1, or give --insecure to accept the risk"
    )]
    Exposed { listen: SocketAddr },
    #[error("{field} is {value}, it must lie between {min} and {max}")]
    OutOfRange {
        field: &'static str,
        value: u64,
        min: u64,
        max: u64,
    },
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn only_loopback_without_insecure() {
        let mut config = Config::new("x");
        config.validate().unwrap();
        config.listen = "0.0.0.0:0".parse().unwrap();
        assert!(matches!(
            config.validate(),
            Err(ConfigError::Exposed { .. })
        ));
        config.insecure = true;
        config.validate().unwrap();
    }
}
