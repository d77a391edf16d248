//! The metadata group: proposes changes, and holds the view that everybody reads.
//!
//! Raft group 0 of every node. What it decides is in [`state`]; starting and stopping the
//! partitions that follow from it is the node's work.

pub(crate) mod groups;
pub(crate) mod internals;
pub(crate) mod queues;
pub(crate) mod schedules;
pub(crate) mod state;
#[cfg(test)]
mod tests;

use std::{io, sync::Arc};

use aqueduct_storage::{Kind, Log, stored_len};
use parking_lot::RwLock;
use prost::Message;

use self::state::{Answer, Change, Command, Denied, Outcome, State};
use crate::{
    clock::Clock,
    error::Refusal,
    raft::{
        Replica,
        engine::{Data, ProposeError, ReplicaEngine, Reply},
        machine::Machine,
        types::invalid,
    },
};

/// The Raft group of the metadata.
pub(crate) const METADATA_GROUP: u64 = 0;

/// Reads without Raft, writes through it.
#[derive(Clone)]
pub(crate) struct Metadata {
    engine: Arc<dyn ReplicaEngine>,
    view: View,
    log: Log,
    clock: Clock,
}

/// The applied state, shared with whoever checks against it.
pub(crate) type View = Arc<RwLock<State>>;

struct MetadataMachine(View);

impl Machine for MetadataMachine {
    fn apply(&mut self, data: &Data) -> Reply {
        let outcome = match Command::decode(data.payload.as_ref()) {
            Ok(command) => self.0.write().apply(command),
            Err(_) => Outcome::Denied(Denied::Unreadable as i32),
        };
        Reply::Answer(
            Answer {
                outcome: Some(outcome),
            }
            .encode_to_vec()
            .into(),
        )
    }

    fn applied(&mut self) {}

    fn checkpoint(&self) -> Vec<u8> {
        self.0.read().encode_to_vec()
    }

    fn restore(&mut self, state: &[u8]) -> io::Result<()> {
        let state = State::decode(state)
            .map_err(|error| invalid("metadata checkpoint", &error.to_string()))?;
        *self.0.write() = state;
        Ok(())
    }

    fn next_offset(&self) -> u64 {
        0
    }
}

/// Space for a command, kept until it is applied or given up. An append takes only batches off
/// what is reserved, so whoever reserves for a command gives it back.
struct Room<'a> {
    log: &'a Log,
    bytes: u64,
}

impl Room<'_> {
    fn keep(log: &Log, bytes: u64) -> Result<Room<'_>, Refusal> {
        let reserved = log.reserve_to_free(bytes);
        reserved.map_err(|error| no_room(&error))?;
        Ok(Room { log, bytes })
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        self.log.unreserve(self.bytes);
    }
}

impl Metadata {
    /// Starts the group on the current runtime.
    ///
    /// # Errors
    /// If its log or checkpoint cannot be read.
    pub(crate) async fn start(log: Log, clock: Clock) -> io::Result<Metadata> {
        let view = View::default();
        let machine = MetadataMachine(view.clone());
        let engine = Replica::start(1, log.clone(), machine).await?;
        Ok(Metadata {
            engine: Arc::new(engine),
            view,
            log,
            clock,
        })
    }

    /// What is applied.
    pub(crate) fn view(&self) -> &View {
        &self.view
    }

    /// The node's clock.
    pub(crate) fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Proposes a change and waits until it is applied.
    ///
    /// # Errors
    /// `Unavailable` if it was not logged, `Unknown` if that is not known.
    pub(crate) async fn propose(&self, change: Change) -> Result<Outcome, Refusal> {
        let command = Command {
            now_ms: self.clock.wall_ms(),
            change: Some(change),
        };
        let payload = command.encode_to_vec().into();
        let data = Data {
            kind: Kind::Command,
            flags: 0,
            payload,
        };
        // An append that finds no room would stop the group for good.
        let _room = Room::keep(&self.log, stored_len(data.payload.len()))?;
        let pending = self.engine.propose(data).await.map_err(refusal)?;
        match pending.await.map_err(refusal)? {
            Reply::Answer(answer) => Answer::decode(answer)
                .ok()
                .and_then(|answer| answer.outcome)
                .ok_or_else(|| Refusal::Unknown {
                    why: "an answer without outcome".into(),
                }),
            other => Err(Refusal::Unknown {
                why: format!("unexpected reply {other:?}"),
            }),
        }
    }

    /// Drops the log below its newest checkpoint, once there is enough of it.
    pub(crate) async fn compact(&self) {
        if self.log.segments().len() <= 2 {
            return;
        }
        let checkpoint = match self.log.newest_checkpoint() {
            Ok(Some(checkpoint)) => checkpoint,
            Ok(None) => return,
            Err(error) => return tracing::warn!(%error, "metadata checkpoint cannot be read"),
        };
        if let Err(error) = self.engine.trim(checkpoint.last).await {
            tracing::warn!(%error, "metadata log was not trimmed");
        }
    }

    pub(crate) async fn shutdown(&self) {
        self.engine.shutdown().await;
    }
}

/// What a failed reservation means to the caller.
pub(crate) fn no_room(error: &aqueduct_storage::Error) -> Refusal {
    let why = error.to_string();
    match error {
        aqueduct_storage::Error::Full { .. } => Refusal::DiskFull { why },
        _ => Refusal::Unavailable { why },
    }
}

/// What a failed proposal means to the caller.
pub(crate) fn refusal(error: ProposeError) -> Refusal {
    match error {
        ProposeError::NotLeader => Refusal::Unavailable {
            why: error.to_string(),
        },
        ProposeError::Unknown(why) => Refusal::Unknown { why },
    }
}
