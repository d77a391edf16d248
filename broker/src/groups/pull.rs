//! A member that pulls: the session is kept between its calls.
//!
//! A pull commits first, then answers what there is, or waits for it. What the coordinator asks
//! back is given back at the member's next pull (or during its wait): what it had pulled of it
//! and not committed comes again elsewhere. Of two pulls at a time the older one waits no
//! longer. A pull that was cut off before its answer does not count: the next one begins
//! where it began. Nor does an answer that was lost on the way, if the member says which one
//! arrived last: answers are numbered, and what any other one held is handed out again, as far
//! as it is not committed.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use aqueduct_proto::record::Record;
use tokio::{
    sync::{Mutex, Notify},
    time::Instant,
};

use super::{
    commit::Held,
    requests::Request,
    session::{Happening, MemberSession},
    skips::Skips,
    terms::{Assignment, LostReason},
};
use crate::{error::Refusal, lanes::Event, services::Services};

/// What is pulled.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PullSpec {
    pub(crate) max_messages: u64,
    pub(crate) max_bytes: u64,
    pub(crate) wait: Duration,
    /// The last answer that arrived; `None` if the member does not count them.
    pub(crate) received: Option<u64>,
}

/// What a pull answers.
#[derive(Debug, Default)]
pub(crate) struct Pulled {
    /// Partition and records, in order within a partition.
    pub(crate) records: Vec<(u32, Vec<Record>)>,
    pub(crate) assignments: Vec<Assignment>,
    /// By this the member says that it has arrived.
    pub(crate) answer: u64,
}

struct State {
    session: MemberSession,
    /// Where the lanes stood after the last answer that is known to have arrived.
    began: Vec<Assignment>,
    /// The answer that was made since, if one was.
    unconfirmed: Option<u64>,
    /// Number of the last answer.
    answer: u64,
    skips: Skips,
    /// Partitions of which nothing is delivered until a seek.
    stuck: Vec<(u32, LostReason)>,
}

/// A pulling member.
pub(crate) struct PullSession {
    pub(crate) member_id: String,
    held: Arc<Held>,
    state: Mutex<State>,
    /// Counts pulls: only the newest one waits.
    newest: AtomicU64,
    /// Wakes the pull that another one replaces.
    replaced: Notify,
}

impl PullSession {
    pub(super) fn new(member_id: String, session: MemberSession) -> PullSession {
        PullSession {
            member_id,
            held: session.held().clone(),
            state: Mutex::new(State {
                session,
                began: Vec::new(),
                unconfirmed: None,
                // A number of an earlier session of this member must not be taken for one of this.
                answer: u64::from(rand::random::<u32>()),
                skips: Skips::default(),
                stuck: Vec::new(),
            }),
            newest: AtomicU64::new(0),
            replaced: Notify::new(),
        }
    }

    pub(super) fn held(&self) -> &Arc<Held> {
        &self.held
    }

    /// Answers messages, or nothing after the wait.
    ///
    /// # Errors
    /// If the member has lost its place, or all it has waits for a seek.
    pub(super) async fn pull(
        &self,
        services: &Services,
        spec: PullSpec,
    ) -> Result<Pulled, Refusal> {
        let _calling = self.held.calling();
        let number = self.newest.fetch_add(1, Relaxed) + 1;
        self.replaced.notify_waiters();
        let mut state = self.state.lock().await;
        let until = Instant::now() + spec.wait;
        state.begin(spec.received);
        let mut pulled = Pulled::default();
        loop {
            state.obey().await?;
            state.take(spec, &mut pulled).await?;
            if !pulled.records.is_empty() {
                break;
            }
            if let Some(refusal) = state.refusal() {
                return Err(refusal);
            }
            let replaced = self.replaced.notified();
            tokio::pin!(replaced);
            replaced.as_mut().enable();
            if self.newest.load(Relaxed) != number {
                break;
            }
            let changed = tokio::select! {
                changed = state.session.changed() => changed,
                () = replaced => Ok(false),
                () = tokio::time::sleep_until(until) => Ok(false),
                () = services.drained() => Err(Refusal::Draining),
            };
            if !changed? {
                break;
            }
        }
        (pulled.assignments, pulled.answer) = state.end();
        Ok(pulled)
    }
}

impl State {
    /// Goes back to where the member is, as far as it has said.
    fn begin(&mut self, received: Option<u64>) {
        let arrived = match (self.unconfirmed.take(), received) {
            // The last pull was cut off before its answer was made.
            (None, _) => false,
            (Some(_), None) => true,
            (Some(answer), Some(received)) => answer == received,
        };
        if arrived {
            self.skips.arrived();
        } else {
            self.session.go_back(&self.began);
            self.skips.lost();
        }
        self.began = self.session.standing();
    }

    /// The partitions as they stand after this pull, each with what it skipped, and the number
    /// of this answer.
    fn end(&mut self) -> (Vec<Assignment>, u64) {
        let mut assignments = self.session.standing();
        self.skips.tell(&mut assignments);
        self.answer += 1;
        self.unconfirmed = Some(self.answer);
        (assignments, self.answer)
    }

    /// Takes in what the coordinator has said.
    async fn obey(&mut self) -> Result<(), Refusal> {
        while let Some(happening) = self.session.told()? {
            match happening {
                Happening::Assigned(assignments) => {
                    self.stuck
                        .retain(|(p, _)| !assignments.iter().any(|a| a.partition == *p));
                    self.skips.note(&assignments);
                    self.note(&assignments);
                }
                Happening::Revoking { partitions, .. } => {
                    self.session.held().lose(&partitions);
                    self.skips.forget(&partitions);
                    let conn = self.session.link().conn;
                    let released = Request::Released { conn, partitions };
                    self.session.link().send(released).await;
                }
                Happening::Lost { partitions, reason } => {
                    self.stuck.retain(|(p, _)| !partitions.contains(p));
                    if reason == LostReason::Revoked {
                        self.skips.forget(&partitions);
                    }
                    if matches!(
                        reason,
                        LostReason::Overrun | LostReason::NoPosition | LostReason::Damaged
                    ) {
                        self.stuck.extend(partitions.iter().map(|p| (*p, reason)));
                    }
                }
                Happening::Delivered(_) | Happening::Committed(_) => {}
            }
        }
        Ok(())
    }

    /// New lanes are part of where this pull began.
    fn note(&mut self, assignments: &[Assignment]) {
        let began = &mut self.began;
        began.retain(|a| !assignments.iter().any(|new| new.partition == a.partition));
        began.extend_from_slice(assignments);
    }

    /// A lane that has given to this answer is not given up in it: if the answer is lost, the
    /// lane has to give the same again.
    async fn take(&mut self, spec: PullSpec, pulled: &mut Pulled) -> Result<(), Refusal> {
        let (mut messages, mut bytes) = (spec.max_messages, spec.max_bytes);
        while messages > 0 && bytes > 0 {
            let gave = |number| pulled.records.iter().any(|(p, _)| *p == number);
            let left = (messages, bytes);
            let Some(step) = self.session.look(false, left, gave).await? else {
                return Ok(());
            };
            messages = messages.saturating_sub(step.messages);
            bytes = bytes.saturating_sub(step.bytes);
            if let Event::Records { partition, records } = step.event
                && !records.is_empty()
            {
                pulled.records.push((partition, records));
            }
        }
        Ok(())
    }

    /// Everything that the member has waits for a seek.
    fn refusal(&self) -> Option<Refusal> {
        let (number, reason) = self.stuck.first()?;
        if !self.session.standing().is_empty() {
            return None;
        }
        self.session.stuck(*number, *reason)
    }
}
