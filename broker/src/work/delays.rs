//! Messages of a queue group that wait for their delay: listed, looked at, cancelled, and given
//! another time.
//!
//! Worked off between rounds, when nothing of the group is on its way into the log. What is
//! listed is what the schedule has met; so a list waits until the log is scanned as far as it
//! is scanned at all, and says whether that is its end.

use std::time::{Duration, Instant};

use aqueduct_proto::{attributes, record::Record};
use tokio::sync::oneshot;

use super::{Request, driver::Driver, stopped};
use crate::{
    error::Refusal,
    partition::queues::Step,
    queue::{
        command::{Batch, Command, Delay, DropReason, Dropping, Kind, Reply, Run, Status},
        record::Phase,
        view::Standing,
    },
    services::Services,
};

/// How long an answer waits for the log to be scanned.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where a delayed message lies, behind its time: what lists are ordered by.
pub(crate) type Place = (i64, u32, u64);

/// A message that waits.
#[derive(Debug, Clone)]
pub(crate) struct Delayed {
    pub(crate) partition: u32,
    pub(crate) offset: u64,
    /// Milliseconds since 1970 by the wall clock.
    pub(crate) until_ms: i64,
    /// Not in lists.
    pub(crate) record: Option<Record>,
}

/// A page of messages that wait, in order of their times.
#[derive(Debug, Clone, Default)]
pub(crate) struct DelayedPage {
    pub(crate) messages: Vec<Delayed>,
    /// There are more behind the last.
    pub(crate) has_more: bool,
    /// The log was scanned to its end.
    pub(crate) is_complete: bool,
}

/// What is to become of one delayed message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// Nothing: it is only looked at.
    Nothing,
    Cancel,
    /// It waits for this time instead.
    Until(i64),
}

/// What was asked of a group's task.
pub(crate) enum Ask {
    List {
        behind: Place,
        most: usize,
        answer: oneshot::Sender<Result<DelayedPage, Refusal>>,
    },
    One {
        partition: u32,
        offset: u64,
        change: Change,
        answer: oneshot::Sender<Result<Delayed, Refusal>>,
    },
}

/// An ask, and how long it may wait.
pub(super) struct Asked {
    pub(super) ask: Ask,
    pub(super) until: Instant,
}

impl Asked {
    pub(super) fn new(ask: Ask) -> Asked {
        let until = Instant::now() + PATIENCE;
        Asked { ask, until }
    }

    pub(super) fn refuse(self, why: &Refusal) {
        // Whoever hung up does not want to know.
        match self.ask {
            Ask::List { answer, .. } => drop(answer.send(Err(why.clone()))),
            Ask::One { answer, .. } => drop(answer.send(Err(why.clone()))),
        }
    }
}

impl Driver {
    /// Answers what can be answered now.
    pub(super) async fn answer_asked(&mut self) {
        if self.asked.is_empty() {
            return;
        }
        let (is_begun, is_complete, is_scanned) = self.how_far();
        for asked in std::mem::take(&mut self.asked) {
            let is_late = asked.until <= Instant::now();
            let can_be = match asked.ask {
                Ask::List { .. } => is_scanned,
                Ask::One { .. } => is_begun,
            };
            if !can_be && !is_late {
                self.asked.push(asked);
                continue;
            }
            match asked.ask {
                Ask::List {
                    behind,
                    most,
                    answer,
                } => {
                    let mut page = self.page(behind, most);
                    page.is_complete = is_complete;
                    drop(answer.send(Ok(page)));
                }
                Ask::One {
                    partition,
                    offset,
                    change,
                    answer,
                } => drop(answer.send(self.change(partition, offset, change).await)),
            }
        }
    }

    /// Whether the queue has begun everywhere, is scanned to the end, and as far as it wants.
    fn how_far(&mut self) -> (bool, bool, bool) {
        let policy = &self.policy;
        let (mut is_begun, mut is_complete, mut is_scanned) = (true, true, true);
        for lane in &mut self.lanes {
            let end = lane.partition.shared().high_watermark();
            let far = lane.with(policy, |_, schedule| {
                let wanted = schedule.scan_wanted(end);
                (wanted.start >= end, wanted.is_empty())
            });
            is_begun &= far.is_some();
            let (to_end, enough) = far.unwrap_or((false, false));
            is_complete &= to_end;
            is_scanned &= enough;
        }
        (is_begun, is_complete, is_scanned)
    }

    fn page(&mut self, behind: Place, most: usize) -> DelayedPage {
        let wall_ms = self.now().wall_ms;
        let mut messages = Vec::new();
        for lane in &mut self.lanes {
            let partition = lane.number;
            let found = lane.with(&self.policy, |_, schedule| {
                let waits = |(until_ms, _): &(i64, u64)| *until_ms > wall_ms;
                // Places are ordered by time, partition and offset.
                let (until_ms, at, offset) = behind;
                let from = match at.cmp(&partition) {
                    std::cmp::Ordering::Less => (until_ms, 0),
                    std::cmp::Ordering::Equal => (until_ms, offset.saturating_add(1)),
                    std::cmp::Ordering::Greater => (until_ms.saturating_add(1), 0),
                };
                let delays = schedule.delays(from).filter(waits);
                delays.take(most + 1).collect::<Vec<_>>()
            });
            let found = found.unwrap_or_default().into_iter();
            messages.extend(found.map(|(until_ms, offset)| Delayed {
                partition,
                offset,
                until_ms,
                record: None,
            }));
        }
        messages.sort_unstable_by_key(|one| (one.until_ms, one.partition, one.offset));
        let has_more = messages.len() > most;
        messages.truncate(most);
        DelayedPage {
            messages,
            has_more,
            is_complete: false,
        }
    }

    async fn change(
        &mut self,
        partition: u32,
        offset: u64,
        change: Change,
    ) -> Result<Delayed, Refusal> {
        let mut found = self.delayed(partition, offset).await?;
        let now = self.now();
        let lane = &mut self.lanes[partition as usize];
        let epoch = lane.with(&self.policy, |state, _| state.epoch());
        let epoch = epoch.unwrap_or(0);
        let kind = match change {
            Change::Nothing => return Ok(found),
            Change::Cancel => Kind::Drop(Dropping {
                runs: vec![Run::from(offset..offset + 1)],
                reason: DropReason::Cancelled as i32,
                discard: false,
                epoch,
            }),
            Change::Until(until_ms) => {
                found.until_ms = until_ms;
                Kind::Delay(Delay {
                    offset,
                    until_ms,
                    epoch,
                })
            }
        };
        let batch = Batch {
            now_ms: now.steady_ms,
            discard_dead: !self.policy.dead_letters,
            commands: vec![Command::new(kind)],
        };
        let group_id = self.group.id;
        let begun = lane.partition.begin_step(Step { group_id, batch }).await?;
        let replies = begun.outcome().await?.replies;
        match replies.first().map(result_of) {
            Some(Status::Done) => Ok(found),
            Some(_) => Err(not_delayed(partition, offset)),
            None => Err(Refusal::Unknown {
                why: "the partition answered for another command".into(),
            }),
        }
    }

    /// The message, if it waits for its delay.
    async fn delayed(&mut self, partition: u32, offset: u64) -> Result<Delayed, Refusal> {
        self.live.partition(partition)?;
        let wall_ms = self.now().wall_ms;
        let Some(lane) = self.lanes.get_mut(partition as usize) else {
            return Err(stopped());
        };
        let missing = Refusal::MessageNotFound { partition, offset };
        if offset >= lane.partition.shared().high_watermark() {
            return Err(missing);
        }
        let standing = lane.with(&self.policy, |state, _| state.standing(offset));
        let standing = standing.ok_or_else(stopped)?;
        let record = lane.reader.read_one(offset).await.ok_or(missing)?;
        let until_ms = match standing {
            Standing::Fresh => attributes::delay_until_ms(&record.headers),
            Standing::Open(open) => match open.phase {
                Phase::Delayed { until_ms } => Some(until_ms),
                Phase::Ready | Phase::Retry { .. } | Phase::Leased(_) => None,
            },
            Standing::Settled => None,
        };
        let until_ms = until_ms.filter(|until_ms| *until_ms > wall_ms);
        Ok(Delayed {
            partition,
            offset,
            until_ms: until_ms.ok_or_else(|| not_delayed(partition, offset))?,
            record: Some(record),
        })
    }
}

/// Of the only message that a command names.
fn result_of(reply: &Reply) -> Status {
    let span = reply.spans.first();
    span.map_or(reply.status(), |span| span.status())
}

fn not_delayed(partition: u32, offset: u64) -> Refusal {
    Refusal::NotDelayed { partition, offset }
}

impl Services {
    /// Messages of a queue group that wait for their delay, in order of time.
    ///
    /// # Errors
    /// If there is no such queue group.
    pub(crate) async fn list_delayed(
        self: &std::sync::Arc<Self>,
        (topic, group): (&str, &str),
        behind: Place,
        most: usize,
    ) -> Result<DelayedPage, Refusal> {
        let (answer, answered) = oneshot::channel();
        let ask = Ask::List {
            behind,
            most,
            answer,
        };
        self.ask_delayed((topic, group), ask).await?;
        answered.await.map_err(|_| stopped())?
    }

    /// One message that waits for its delay, and what shall become of it.
    ///
    /// # Errors
    /// If there is no such queue group or message, or it does not wait (any more).
    pub(crate) async fn change_delayed(
        self: &std::sync::Arc<Self>,
        (topic, group): (&str, &str),
        (partition, offset): (u32, u64),
        change: Change,
    ) -> Result<Delayed, Refusal> {
        let (answer, answered) = oneshot::channel();
        let ask = Ask::One {
            partition,
            offset,
            change,
            answer,
        };
        self.ask_delayed((topic, group), ask).await?;
        answered.await.map_err(|_| Refusal::Unknown {
            why: "the group's task stopped".into(),
        })?
    }

    async fn ask_delayed(
        self: &std::sync::Arc<Self>,
        (topic, group): (&str, &str),
        ask: Ask,
    ) -> Result<(), Refusal> {
        let group = self.group(topic, group)?;
        let (driver, _) = self.driver(&group)?;
        let asked = driver.send(Request::Delayed(ask)).await;
        asked.map_err(|_| stopped())
    }
}
