//! Raft groups: the only place where openraft is named.
//!
//! A group of one voter is the same code path as a group of three: proposals go through
//! openraft, the entry is written by [`log_store`], made durable by storage's sync engine,
//! committed, and applied by [`machine`]. What is left out with one voter are the timers (see
//! [`types::single_voter_config`]) and the peers ([`network`]).

pub(crate) mod engine;
pub(crate) mod log_store;
pub(crate) mod machine;
mod network;
#[cfg(test)]
mod suite;
pub(crate) mod types;

use std::{collections::BTreeMap, io, time::Duration};

use aqueduct_storage::{EntryId, Log};
use futures::future::BoxFuture;
use openraft::{ReadPolicy, ServerState, errors::Fatal, impls::BasicNode};

use self::{
    engine::{Data, Pending, ProposeError, ReplicaEngine},
    log_store::LogStore,
    machine::{Adapter, Machine},
    network::NoPeers,
    types::{Raft, TypeConfig, WriteResponder, single_voter_config},
};

/// Which log lines a broker shows unless told otherwise: the consensus library reports each step
/// of each group as news, so only its errors are.
pub const DEFAULT_LOG: &str = "info,openraft=error,aqueduct::request=off";

/// How long a group of one may take to elect itself and apply its log.
const START_TIMEOUT: Duration = Duration::from_secs(300);

/// One replica, run by openraft.
pub(crate) struct Replica<M: Machine> {
    raft: Raft<M>,
    log: Log,
}

impl<M: Machine> Replica<M> {
    /// Starts the only voter of a group on the current runtime and waits until it leads and has
    /// applied everything its log holds, so that the high watermark never steps back.
    ///
    /// # Errors
    /// If the checkpoint or the log cannot be read, or the group does not come up in time.
    pub(crate) async fn start(id: u64, log: Log, machine: M) -> io::Result<Replica<M>> {
        let store = LogStore::new(log.clone());
        let adapter = Adapter::open(machine, log.clone(), store.tail())?;
        let fresh = log.last_id().is_none() && log.vote().is_none();
        let raft = Raft::new(id, single_voter_config()?, NoPeers, store, adapter)
            .await
            .map_err(io::Error::other)?;
        if fresh {
            let members = BTreeMap::from([(id, BasicNode::default())]);
            raft.initialize(members).await.map_err(io::Error::other)?;
        } else {
            raft.trigger()
                .elect(false)
                .await
                .map_err(io::Error::other)?;
        }
        raft.wait(Some(START_TIMEOUT))
            .state(ServerState::Leader, "the only voter leads")
            .await
            .map_err(io::Error::other)?;
        raft.ensure_linearizable(ReadPolicy::ReadIndex)
            .await
            .map_err(io::Error::other)?;
        Ok(Replica { raft, log })
    }
}

fn stopped(error: Fatal<TypeConfig>) -> ProposeError {
    ProposeError::Unknown(error.to_string())
}

impl<M: Machine> ReplicaEngine for Replica<M> {
    fn propose(&self, data: Data) -> BoxFuture<'_, Result<Pending, ProposeError>> {
        Box::pin(async move {
            let (responder, rx) = WriteResponder::new_pair();
            self.raft
                .client_write_ff(data, Some(responder))
                .await
                .map_err(stopped)?;
            Ok(Pending(rx))
        })
    }

    fn trim(&self, last: EntryId) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move {
            let log = self.log.clone();
            tokio::task::spawn_blocking(move || log.set_snapshot(last))
                .await
                .map_err(|error| error.to_string())?
                .map_err(|error| error.to_string())?;
            self.raft
                .trigger()
                .snapshot()
                .await
                .map_err(|error| error.to_string())
        })
    }

    fn shutdown(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            if let Err(error) = self.raft.shutdown().await {
                tracing::warn!(%error, "a replica did not stop cleanly");
            }
        })
    }
}
