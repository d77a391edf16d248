//! Messages of a queue group that wait for their delay: listed, looked at, cancelled, and given
//! another time.
//!
//! Worked off between rounds, when nothing of the group is on its way into the log. What is
//! listed is what the schedule has met; so a list waits until the log is scanned as far as it
//! is scanned at all, and says whether that is its end.

use std::{
    collections::{BTreeMap, HashSet},
    time::{Duration, Instant},
};

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
/// Requests that are answered before the next round. Changes of one partition are one entry.
const ANSWERED_AT_A_TIME: usize = 1_000;

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

/// A change on its way into the log, who waits for it, and what it is answered with.
struct Changing {
    kind: Kind,
    found: Delayed,
    answer: oneshot::Sender<Result<Delayed, Refusal>>,
}

/// Changes by partition.
#[derive(Default)]
struct Changes {
    by_partition: BTreeMap<u32, Vec<Changing>>,
    offsets: HashSet<(u32, u64)>,
}

impl Driver {
    /// Answers what can be answered now, a bounded number; whether more can be at once.
    pub(super) async fn answer_asked(&mut self) -> bool {
        if self.asked.is_empty() {
            return false;
        }
        let (is_begun, is_complete, is_scanned) = self.how_far();
        let (mut room, mut more) = (ANSWERED_AT_A_TIME, false);
        let mut changes = Changes::default();
        for asked in std::mem::take(&mut self.asked) {
            let is_late = asked.until <= Instant::now();
            let can_be = match asked.ask {
                Ask::List { .. } => is_scanned,
                Ask::One { .. } => is_begun,
            };
            if (!can_be && !is_late) || room == 0 {
                more |= can_be || is_late;
                self.asked.push(asked);
                continue;
            }
            room -= 1;
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
                } => {
                    // What becomes of a message is known before the next change of it is judged.
                    if !changes.offsets.insert((partition, offset)) {
                        self.log_changes(std::mem::take(&mut changes)).await;
                        changes.offsets.insert((partition, offset));
                    }
                    let found = self.delayed(partition, offset).await;
                    match found.map(|found| self.changed(found, change)) {
                        Ok((found, Some(kind))) => {
                            let changing = Changing {
                                kind,
                                found,
                                answer,
                            };
                            let known = changes.by_partition.entry(partition);
                            known.or_default().push(changing);
                        }
                        Ok((found, None)) => drop(answer.send(Ok(found))),
                        Err(refusal) => drop(answer.send(Err(refusal))),
                    }
                }
            }
        }
        self.log_changes(changes).await;
        more
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

    /// What a change makes of a message, and the command that does it.
    fn changed(&mut self, mut found: Delayed, change: Change) -> (Delayed, Option<Kind>) {
        let offset = found.offset;
        let lane = self.lanes.get_mut(found.partition as usize);
        let epoch = lane.and_then(|lane| lane.with(&self.policy, |state, _| state.epoch()));
        let epoch = epoch.unwrap_or(0);
        let kind = match change {
            Change::Nothing => None,
            Change::Cancel => Some(Kind::Drop(Dropping {
                runs: vec![Run::from(offset..offset + 1)],
                reason: DropReason::Cancelled as i32,
                discard: false,
                epoch,
            })),
            Change::Until(until_ms) => {
                found.until_ms = until_ms;
                Some(Kind::Delay(Delay {
                    offset,
                    until_ms,
                    epoch,
                }))
            }
        };
        (found, kind)
    }

    /// Logs changes, one entry for each partition, and answers them.
    async fn log_changes(&mut self, changes: Changes) {
        let now_ms = self.now().steady_ms;
        let mut begun = Vec::new();
        for (partition, changes) in changes.by_partition {
            let Some(lane) = self.lanes.get(partition as usize) else {
                continue;
            };
            let (kinds, waiting): (Vec<Kind>, Vec<_>) = changes
                .into_iter()
                .map(|it| (it.kind, (it.found, it.answer)))
                .unzip();
            let step = Step {
                group_id: self.group.id,
                batch: Batch {
                    now_ms,
                    discard_dead: !self.policy.dead_letters,
                    commands: kinds.into_iter().map(Command::new).collect(),
                },
            };
            begun.push((lane.partition.begin_step(step).await, waiting));
        }
        for (begun, waiting) in begun {
            let outcome = match begun {
                Ok(stepping) => stepping.outcome().await,
                Err(refusal) => Err(refusal),
            };
            let replies = outcome.map(|replies| replies.replies);
            for (nth, (found, answer)) in waiting.into_iter().enumerate() {
                let place = (found.partition, found.offset);
                let result = match &replies {
                    Err(refusal) => Err(refusal.clone()),
                    Ok(replies) => match replies.get(nth).map(result_of) {
                        Some(Status::Done) => Ok(found),
                        Some(_) => Err(not_delayed(place.0, place.1)),
                        None => Err(Refusal::Unknown {
                            why: "the partition answered for other commands".into(),
                        }),
                    },
                };
                // Whoever hung up does not want to know.
                drop(answer.send(result));
            }
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
