//! `trait Machine`: a pure state machine over committed entries; and the adapter that lets
//! openraft drive one.
//!
//! The adapter writes a checkpoint at each segment boundary: the state after the last entry
//! before the segment, handed to storage *before* the segment's first entry is applied. Storage
//! writes it down once the log is durable that far (never ahead of it). The current Raft
//! snapshot is such a checkpoint, the one that retention chose; so taking a snapshot copies
//! nothing and may lie far behind what is applied.
//!
//! Must never know what a machine means by its state.

use std::{io, sync::Arc};

use aqueduct_storage::{Checkpoint, Log};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures::{Stream, StreamExt as _};
use openraft::{
    EntryPayload, OptionalSend, RaftSnapshotBuilder,
    storage::{EntryResponder, RaftStateMachine, Snapshot},
};
use parking_lot::Mutex;

use super::{
    log_store::Tail,
    types::{
        Data, RaftLogId, Reply, SnapshotMeta, StoredMembership, TypeConfig, decode_membership,
        encode_membership, entry_id, invalid, log_id,
    },
};

/// A deterministic state machine: same entries, same state, on every node, after every restart.
pub(crate) trait Machine: Send + Sync + 'static {
    /// Applies one committed entry.
    fn apply(&mut self, data: &Data) -> Reply;
    /// Called after a run of entries was applied, so that waiters are woken once a run.
    fn applied(&mut self);
    /// The whole state, versioned.
    fn checkpoint(&self) -> Vec<u8>;
    /// Replaces the state.
    ///
    /// # Errors
    /// `InvalidData` if the bytes are not a checkpoint of this machine.
    fn restore(&mut self, state: &[u8]) -> io::Result<()>;
    /// The offset after the last applied record; 0 for machines without records.
    fn next_offset(&self) -> u64;
}

type RaftSnapshot = openraft::alias::SnapshotOf<TypeConfig, Vec<u8>>;

/// Where the machine stands, and the snapshot that openraft may ask for.
struct Position {
    last_applied: Option<RaftLogId>,
    membership: StoredMembership,
}

/// Drives a [`Machine`] for openraft.
pub(crate) struct Adapter<M> {
    machine: M,
    log: Log,
    tail: Arc<Mutex<Tail>>,
    position: Position,
    current: Arc<Mutex<Option<RaftSnapshot>>>,
}

impl<M: Machine> Adapter<M> {
    /// Restores the machine from the log's newest checkpoint.
    ///
    /// # Errors
    /// If the checkpoint can be read by neither storage nor the machine.
    pub(crate) fn open(mut machine: M, log: Log, tail: Arc<Mutex<Tail>>) -> io::Result<Adapter<M>> {
        let mut position = Position {
            last_applied: None,
            membership: StoredMembership::default(),
        };
        if let Some(checkpoint) = log.newest_checkpoint().map_err(io::Error::other)? {
            let (membership, state) = decode_state(&checkpoint.state)?;
            machine.restore(state)?;
            position = Position {
                last_applied: Some(log_id(checkpoint.last)),
                membership,
            };
        }
        let current = log
            .snapshot()
            .map_err(io::Error::other)?
            .map(snapshot_of)
            .transpose()?;
        let current = Arc::new(Mutex::new(current));
        Ok(Adapter {
            machine,
            log,
            tail,
            position,
            current,
        })
    }

    fn checkpoint_if_boundary(&self, index: u64) {
        let Some(last) = &self.position.last_applied else {
            return;
        };
        if last.index + 1 == index && self.log.is_boundary(index) {
            self.log
                .save_checkpoint(entry_id(last), self.encode_state());
        }
    }

    fn encode_state(&self) -> Bytes {
        encode_state(&self.position.membership, &self.machine.checkpoint())
    }
}

/// | field | size |
/// |---|---|
/// | version | 1 |
/// | membership has a log id | 1, then term, leader, index: 8 each |
/// | membership | see `encode_membership` |
/// | state of the machine | the rest |
fn encode_state(membership: &StoredMembership, state: &[u8]) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u8(1);
    out.put_u8(u8::from(membership.log_id().is_some()));
    if let Some(id) = membership.log_id() {
        out.put_u64(id.leader_id.term);
        out.put_u64(id.leader_id.node_id);
        out.put_u64(id.index);
    }
    out.put_slice(&encode_membership(membership.membership()));
    out.put_slice(state);
    out.freeze()
}

fn decode_state(mut bytes: &[u8]) -> io::Result<(StoredMembership, &[u8])> {
    let cut = |_| invalid("checkpoint", "cut short");
    if bytes.try_get_u8().map_err(cut)? != 1 {
        return Err(invalid("checkpoint", "unknown version"));
    }
    let mut id = None;
    if bytes.try_get_u8().map_err(cut)? == 1 {
        let (term, leader, index) = (
            bytes.try_get_u64().map_err(cut)?,
            bytes.try_get_u64().map_err(cut)?,
            bytes.try_get_u64().map_err(cut)?,
        );
        id = Some(log_id(aqueduct_storage::EntryId {
            term,
            leader,
            index,
        }));
    }
    let membership = decode_membership(&mut bytes)?;
    Ok((StoredMembership::new(id, membership), bytes))
}

fn snapshot_of(checkpoint: Checkpoint) -> io::Result<RaftSnapshot> {
    let (last_membership, _) = decode_state(&checkpoint.state)?;
    let meta = SnapshotMeta {
        last_log_id: Some(log_id(checkpoint.last)),
        last_membership,
    };
    Ok(Snapshot {
        meta,
        snapshot: checkpoint.state.to_vec(),
    })
}

/// Hands out the snapshot that retention chose, or the present state where none was chosen.
pub(crate) struct Builder {
    log: Log,
    last_applied: Option<RaftLogId>,
    membership: StoredMembership,
    state: Bytes,
    current: Arc<Mutex<Option<RaftSnapshot>>>,
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = Vec<u8>;

    async fn build_snapshot(&mut self) -> Result<RaftSnapshot, io::Error> {
        let chosen = self.log.snapshot().map_err(io::Error::other)?;
        let snapshot = match chosen {
            Some(checkpoint) => snapshot_of(checkpoint)?,
            None => Snapshot {
                meta: SnapshotMeta {
                    last_log_id: self.last_applied,
                    last_membership: self.membership.clone(),
                },
                snapshot: self.state.to_vec(),
            },
        };
        *self.current.lock() = Some(snapshot.clone());
        Ok(snapshot)
    }
}

impl<M: Machine> RaftStateMachine<TypeConfig> for Adapter<M> {
    type SnapshotData = Vec<u8>;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<RaftLogId>, StoredMembership), io::Error> {
        Ok((self.position.last_applied, self.position.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        let mut answers = Vec::new();
        while let Some(next) = entries.next().await {
            let (entry, responder) = next?;
            self.checkpoint_if_boundary(entry.log_id.index);
            let reply = match &entry.payload {
                EntryPayload::Blank => Reply::Done,
                EntryPayload::Normal(data) => self.machine.apply(data),
                EntryPayload::Membership(membership) => {
                    self.position.membership =
                        StoredMembership::new(Some(entry.log_id), membership.clone());
                    Reply::Done
                }
            };
            self.position.last_applied = Some(entry.log_id);
            if let Some(responder) = responder {
                answers.push((responder, reply));
            }
        }
        // The high watermark moves before the answers leave: who has an answer can read.
        self.machine.applied();
        if let Some(last) = &self.position.last_applied {
            self.tail.lock().release(last.index);
        }
        for (responder, reply) in answers {
            responder.send(reply);
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder {
            log: self.log.clone(),
            last_applied: self.position.last_applied,
            membership: self.position.membership.clone(),
            state: self.encode_state(),
            current: self.current.clone(),
        }
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: Vec<u8>,
    ) -> Result<(), io::Error> {
        let last = meta
            .last_log_id
            .ok_or_else(|| invalid("snapshot", "has no last log id"))?;
        let (membership, state) = decode_state(&snapshot)?;
        self.machine.restore(state)?;
        let state = Bytes::from(snapshot.clone());
        let checkpoint = Checkpoint {
            last: entry_id(&last),
            state,
        };
        self.log
            .install(checkpoint, self.machine.next_offset())
            .map_err(io::Error::other)?;
        self.position = Position {
            last_applied: Some(last),
            membership,
        };
        self.machine.applied();
        *self.current.lock() = Some(Snapshot {
            meta: meta.clone(),
            snapshot,
        });
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<RaftSnapshot>, io::Error> {
        Ok(self.current.lock().clone())
    }
}
