//! One partition: its handle, and what its owner task, its machine and its readers share.
//!
//! ```text
//!  door ── Message ──► owner ── propose ──► Raft ──► log, sync ──► machine
//!                        ▲                                            │ high watermark
//!                        └──────────── answers, in log order ◄────────┴──► readers wake
//! ```
//!
//! The owner alone decides what is stored and which offset it gets; the machine alone moves the
//! high watermark; readers stop there and never ask anybody.

mod accumulator;
#[cfg(test)]
mod cut_trial;
mod cutting;
pub(crate) mod dedup;
mod flying;
mod judging;
pub(crate) mod kept;
mod moves;
mod owner;
pub(crate) mod positions;
pub(crate) mod producers;
mod proposals;
pub(crate) mod queues;
mod read;
mod stamps;
pub(crate) mod state;
mod steps;
pub(crate) mod taken;
mod taking;
mod waiters;

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use aqueduct_proto::{batch::Batch, record::Header};
use aqueduct_storage::{Damage, Log};
use arc_swap::ArcSwap;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedSemaphorePermit, mpsc, oneshot};

pub(crate) use self::read::{Chunk, Cursor, Place};
use self::{
    owner::Owner,
    positions::{Move, MoveResult, Position},
    queues::{Queues, Step},
    stamps::Stamps,
    state::State,
    waiters::Waiters,
};
use crate::{
    clock::Clock,
    error::Refusal,
    metadata::{Metadata, state::TopicConfig},
    queue::command::Replies,
    raft::{
        Replica,
        engine::{Data, ReplicaEngine, Reply},
        machine::Machine,
        types::invalid,
    },
};

/// Requests that may wait for the owner; the bytes they carry are bounded by permits.
const INBOX: usize = 1_024;

/// A message on its way into the log. Its parts are slices of the request.
#[derive(Debug, Clone, Default)]
pub(crate) struct NewRecord {
    pub(crate) timestamp_ms: Option<i64>,
    pub(crate) key: Option<Bytes>,
    pub(crate) value: Option<Bytes>,
    pub(crate) headers: Vec<Header>,
    pub(crate) dedup_id: Option<Bytes>,
    /// Becomes a point in time when the record is appended.
    pub(crate) delay_ms: Option<i64>,
}

/// Where a message lies now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) offset: u64,
    /// It lay there before.
    pub(crate) duplicate: bool,
}

/// The answer for a run of records.
#[derive(Debug, Clone)]
pub(crate) enum RecordsAnswer {
    /// All are new and consecutive.
    Run { base_offset: u64 },
    /// One answer each.
    Each(Vec<Stored>),
    /// None is stored, or (`Unknown`) nobody knows.
    Refused(Refusal),
}

impl RecordsAnswer {
    /// The answer for the n-th record.
    pub(crate) fn get(&self, n: usize) -> Result<Stored, Refusal> {
        match self {
            RecordsAnswer::Run { base_offset } => Ok(Stored {
                offset: base_offset + n as u64,
                duplicate: false,
            }),
            RecordsAnswer::Each(stored) => stored.get(n).copied().ok_or_else(|| Refusal::Unknown {
                why: "the partition answered for fewer messages".into(),
            }),
            RecordsAnswer::Refused(refusal) => Err(refusal.clone()),
        }
    }
}

/// Bytes of the node's budget, given back when the answer is out.
pub(crate) type Permit = OwnedSemaphorePermit;

/// Everything the owner can be asked.
pub(crate) enum Message {
    Records {
        records: Vec<NewRecord>,
        expected_offset: Option<u64>,
        permit: Permit,
        answer: oneshot::Sender<RecordsAnswer>,
    },
    Batch {
        batch: Batch,
        expected_offset: Option<u64>,
        permit: Permit,
        answer: oneshot::Sender<Result<Stored, Refusal>>,
    },
    /// Forget messages below this offset (at most the high watermark).
    Trim {
        before: u64,
        answer: oneshot::Sender<Result<u64, Refusal>>,
    },
    /// The log's start moves on; what is still needed is kept aside.
    Cut {
        cut: kept::Cut,
        answer: oneshot::Sender<Result<bool, Refusal>>,
    },
    /// A consumer group claims, commits or seeks.
    Move {
        change: Move,
        answer: oneshot::Sender<Result<MoveResult, Refusal>>,
    },
    /// A queue group leases, settles or expires.
    Step {
        step: Step,
        answer: oneshot::Sender<Result<Replies, Refusal>>,
    },
    /// Dead letters are redriven or discarded.
    Take {
        taking: taken::Taking,
        answer: oneshot::Sender<Result<u64, Refusal>>,
    },
    /// What of this producer is stored, once all that was accepted is settled.
    Producer {
        id: i64,
        answer: oneshot::Sender<Option<(u64, u64)>>,
    },
    /// Refuse everything from now on and stop.
    Close { why: Refusal },
}

impl Message {
    /// Answers that nothing of it was done.
    fn refuse(self, why: Refusal) {
        match self {
            Message::Records { answer, .. } => drop(answer.send(RecordsAnswer::Refused(why))),
            Message::Batch { answer, .. } => drop(answer.send(Err(why))),
            Message::Trim { answer, .. } => drop(answer.send(Err(why))),
            Message::Cut { answer, .. } => drop(answer.send(Err(why))),
            Message::Move { answer, .. } => drop(answer.send(Err(why))),
            Message::Step { answer, .. } => drop(answer.send(Err(why))),
            Message::Take { answer, .. } => drop(answer.send(Err(why))),
            // Dropping the sender says that the partition is closed.
            Message::Producer { .. } | Message::Close { .. } => {}
        }
    }
}

/// What owner, machine and readers of a partition share.
pub(crate) struct Shared {
    pub(crate) topic: Arc<str>,
    pub(crate) number: u32,
    pub(crate) log: Log,
    pub(crate) config: ArcSwap<TopicConfig>,
    pub(crate) clock: Clock,
    /// One past the last applied record.
    high_watermark: AtomicU64,
    log_start_offset: AtomicU64,
    /// The owner has answered everything and is gone.
    stopped: AtomicBool,
    state: Mutex<State>,
    waiters: Waiters,
    stamps: Stamps,
    /// Why nothing can be published; `None` in normal service.
    unavailable: Mutex<Option<Refusal>>,
}

impl Shared {
    pub(crate) fn high_watermark(&self) -> u64 {
        self.high_watermark.load(Ordering::Acquire)
    }

    pub(crate) fn log_start_offset(&self) -> u64 {
        self.log_start_offset.load(Ordering::Acquire)
    }

    /// Where a consumer group stands here.
    pub(crate) fn position(&self, group_id: u64) -> Option<Position> {
        self.state.lock().positions.get(group_id)
    }

    /// The consumer groups that have a position here.
    pub(crate) fn group_ids(&self) -> Vec<u64> {
        let state = self.state.lock();
        let mut ids = state.positions.ids();
        ids.extend(state.queues.ids());
        ids
    }

    /// Looks at, or takes from, the queues of this partition. Short: nothing is applied
    /// meanwhile.
    pub(crate) fn with_queues<T>(&self, look: impl FnOnce(&mut Queues) -> T) -> T {
        look(&mut self.state.lock().queues)
    }

    /// The refusal for readers of a topic that was deleted under them.
    fn gone(&self) -> Option<Refusal> {
        let unavailable = self.unavailable.lock();
        unavailable
            .clone()
            .filter(|why| matches!(why, Refusal::TopicNotFound { .. }))
    }

    /// Ends when every offset below `offset` is applied, or, with false, when that cannot happen
    /// any more.
    pub(crate) async fn applied(&self, offset: u64) -> bool {
        let notify = Arc::new(Notify::new());
        self.waiters.register(&notify);
        loop {
            // Looked at first: what was applied before the stop counts.
            let stopped = self.stopped.load(Ordering::Acquire);
            if self.high_watermark() >= offset {
                return true;
            }
            if stopped {
                return false;
            }
            notify.notified().await;
        }
    }

    /// Nothing is applied from now on.
    fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        self.waiters.wake();
    }

    fn publish_pointers(&self) {
        let (next, start) = {
            let state = self.state.lock();
            (state.next_offset, state.log_start_offset)
        };
        self.log_start_offset.store(start, Ordering::Release);
        self.high_watermark.store(next, Ordering::Release);
        self.waiters.wake();
    }
}

struct PartitionMachine(Arc<Shared>);

impl Machine for PartitionMachine {
    fn apply(&mut self, data: &Data) -> Reply {
        self.0.state.lock().apply(data)
    }

    fn applied(&mut self) {
        self.0.publish_pointers();
    }

    fn checkpoint(&self) -> Vec<u8> {
        self.0.state.lock().save()
    }

    fn restore(&mut self, state: &[u8]) -> io::Result<()> {
        let state = State::load(state)
            .map_err(|error| invalid("partition checkpoint", &error.to_string()))?;
        let mut present = self.0.state.lock();
        // Whoever watches a queue goes on watching.
        let mut queues = std::mem::take(&mut present.queues);
        *present = state;
        queues.replace(std::mem::take(&mut present.queues));
        present.queues = queues;
        drop(present);
        self.0.publish_pointers();
        Ok(())
    }

    fn next_offset(&self) -> u64 {
        self.0.state.lock().next_offset
    }
}

/// A change of a position that has its place in the log.
pub(crate) struct Moving(oneshot::Receiver<Result<MoveResult, Refusal>>);

impl Moving {
    /// What became of it.
    ///
    /// # Errors
    /// If it was not logged, or that is not known.
    pub(crate) async fn outcome(self) -> Result<MoveResult, Refusal> {
        self.0.await.map_err(|_| Refusal::Unknown {
            why: "the partition closed".into(),
        })?
    }
}

/// Commands of a queue that have their place in the log.
pub(crate) struct Stepping(oneshot::Receiver<Result<Replies, Refusal>>);

impl Stepping {
    /// What became of them.
    ///
    /// # Errors
    /// If they were not logged, or that is not known.
    pub(crate) async fn outcome(self) -> Result<Replies, Refusal> {
        self.0.await.map_err(|_| Refusal::Unknown {
            why: "the partition closed".into(),
        })?
    }
}

/// A partition, to talk to.
#[derive(Clone)]
pub(crate) struct Partition {
    shared: Arc<Shared>,
    inbox: mpsc::Sender<Message>,
    engine: Option<Arc<dyn ReplicaEngine>>,
}

impl Partition {
    /// Starts the partition on the current runtime: its Raft group, then its owner.
    ///
    /// A log with damage in what must be applied is served read-only: what can be read is, and
    /// publishing is refused.
    pub(crate) async fn start(
        topic: Arc<str>,
        number: u32,
        config: TopicConfig,
        log: Log,
        metadata: Metadata,
    ) -> Partition {
        let shared = Arc::new(Shared {
            topic,
            number,
            log: log.clone(),
            config: ArcSwap::from_pointee(config),
            clock: metadata.clock().clone(),
            high_watermark: AtomicU64::new(0),
            log_start_offset: AtomicU64::new(0),
            stopped: AtomicBool::new(false),
            state: Mutex::default(),
            waiters: Waiters::default(),
            stamps: Stamps::default(),
            unavailable: Mutex::default(),
        });
        let (inbox, messages) = mpsc::channel(INBOX);
        if let Some(damage) = log.damage().first() {
            let Damage {
                file,
                position,
                why,
                ..
            } = damage;
            shared.serve_read_only(&format!("{file} at byte {position}: {why}"));
            return Partition {
                shared,
                inbox,
                engine: None,
            };
        }
        let machine = PartitionMachine(shared.clone());
        let engine: Arc<dyn ReplicaEngine> = match Replica::start(1, log, machine).await {
            Ok(replica) => Arc::new(replica),
            // One partition that does not come up must not keep the others from serving.
            Err(error) => {
                shared.serve_read_only(&error.to_string());
                return Partition {
                    shared,
                    inbox,
                    engine: None,
                };
            }
        };
        let view = metadata.view().clone();
        let owner = Owner::new(shared.clone(), engine.clone(), messages, view);
        tokio::spawn(owner.run());
        Partition {
            shared,
            inbox,
            engine: Some(engine),
        }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Why nothing can be published, if so.
    pub(crate) fn unavailable(&self) -> Option<Refusal> {
        self.shared.unavailable.lock().clone()
    }

    /// Hands a message to the owner.
    ///
    /// # Errors
    /// The reason why the partition takes nothing.
    pub(crate) async fn send(&self, message: Message) -> Result<(), Refusal> {
        if let Some(refusal) = self.unavailable() {
            return Err(refusal);
        }
        self.inbox.send(message).await.map_err(|_| {
            self.unavailable().unwrap_or(Refusal::Unavailable {
                why: "partition closed".into(),
            })
        })
    }

    /// Forgets messages below `before`; answers the first offset that is left.
    ///
    /// # Errors
    /// If the partition takes no commands.
    pub(crate) async fn trim(&self, before: u64) -> Result<u64, Refusal> {
        let (answer, answered) = oneshot::channel();
        self.send(Message::Trim { before, answer }).await?;
        answered.await.map_err(|_| Refusal::Unknown {
            why: "the partition closed".into(),
        })?
    }

    /// Hands a change of a group's position to the log: when this ends, it has its place in the
    /// order, and the receiver gets the answer once it is applied, which means durable.
    ///
    /// # Errors
    /// If the partition takes no commands.
    pub(crate) async fn begin_move(&self, change: Move) -> Result<Moving, Refusal> {
        let (answer, answered) = oneshot::channel();
        self.send(Message::Move { change, answer }).await?;
        Ok(Moving(answered))
    }

    /// Changes a group's position; see [`Partition::begin_move`].
    ///
    /// # Errors
    /// If the partition takes no commands, or the outcome is not known.
    pub(crate) async fn change_position(&self, change: Move) -> Result<MoveResult, Refusal> {
        self.begin_move(change).await?.outcome().await
    }

    /// Hands a queue's commands to the log: when this ends, they have their place in the order,
    /// and the receiver gets the replies once they are applied, which means durable.
    ///
    /// # Errors
    /// If the partition takes no commands.
    pub(crate) async fn begin_step(&self, step: Step) -> Result<Stepping, Refusal> {
        let (answer, answered) = oneshot::channel();
        self.send(Message::Step { step, answer }).await?;
        Ok(Stepping(answered))
    }

    /// Next number and last offset of a producer, once all that was accepted is settled.
    ///
    /// # Errors
    /// If the partition takes no requests.
    pub(crate) async fn producer(&self, id: i64) -> Result<Option<(u64, u64)>, Refusal> {
        let (answer, answered) = oneshot::channel();
        self.send(Message::Producer { id, answer }).await?;
        answered.await.map_err(|_| Refusal::Unavailable {
            why: "the partition closed".into(),
        })
    }

    /// Drops segments that lie whole below the first readable offset.
    pub(crate) async fn drop_trimmed_segments(&self) {
        let Some(engine) = &self.engine else { return };
        let start = self.shared.log_start_offset();
        let log = self.shared.log.clone();
        let found = tokio::task::spawn_blocking(move || {
            let segments = log.segments();
            let keep = segments
                .iter()
                .rev()
                .find(|segment| segment.base_offset <= start)?;
            if segments
                .first()
                .is_some_and(|first| first.first_index == keep.first_index)
            {
                return None;
            }
            log.checkpoint_before(keep.first_index).ok().flatten()
        });
        let Ok(Some(checkpoint)) = found.await else {
            return;
        };
        if self
            .shared
            .log
            .purged_id()
            .is_some_and(|purged| purged >= checkpoint.last)
        {
            return;
        }
        if let Err(error) = engine.trim(checkpoint.last).await {
            tracing::warn!(topic = %self.shared.topic, partition = self.shared.number, error,
                "old segments were not dropped");
        }
    }

    /// Refuses everything from now on, answers what was accepted, stops the group.
    pub(crate) async fn close(&self, why: Refusal) {
        let Some(engine) = &self.engine else {
            // Read-only: nobody but its readers has to hear of it.
            *self.shared.unavailable.lock() = Some(why);
            return self.shared.stop();
        };
        // The inbox only refuses when the owner has already gone.
        let _ = self.inbox.send(Message::Close { why }).await;
        self.inbox.closed().await;
        engine.shutdown().await;
        self.shared.waiters.wake();
    }
}

impl Shared {
    /// What can be read is; publishing is refused with the reason.
    fn serve_read_only(&self, why: &str) {
        tracing::error!(topic = %self.topic, partition = self.number, why, "partition read-only");
        self.high_watermark
            .store(self.log.next_offset(), Ordering::Release);
        self.log_start_offset
            .store(self.log.first_offset(), Ordering::Release);
        let (topic, partition) = (self.topic.to_string(), self.number);
        let why = why.to_owned();
        *self.unavailable.lock() = Some(Refusal::PartitionDamaged {
            topic,
            partition,
            why,
        });
    }
}
