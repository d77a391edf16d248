//! Copies of dead letters, each in the dead-letter topic exactly once.
//!
//! The queue gives its dead letters numbers without gaps. Here a number becomes a producer's
//! sequence: one producer of the broker's own for each (group, partition, dead-letter topic).
//! Whoever takes over after a crash asks the topic how far the copies go, and continues there;
//! then the queue is told.
//!
//! The number at which the copies in a topic begin is kept with the producer, so that it is
//! known for good before the first copy: a dead-letter topic that was deleted begins again, with
//! what the queue does not know as written.

use std::{
    collections::BTreeSet,
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

use aqueduct_proto::{batch::Batch, compression::Compression, record::BatchBuilder};
use tokio::sync::oneshot;

use super::{
    driver::Driver,
    lane::Lane,
    reading::Reader,
    rest::{Rest, changed_nothing},
};
use crate::{
    clock,
    dead::letter::{Death, copy_headers},
    error::Refusal,
    groups::admin::dead_letter_topic,
    limits,
    metadata::{
        groups::Group,
        internals::{InitInternal, Internal},
        state::TopicConfig,
    },
    partition::{Message, Partition},
    queue::{history::PastAttempt, policy::Policy, record::Dead, state::State, time::Now},
    services::Services,
    topics::NewTopic,
};

/// How long somebody waits for the copies of all dead letters.
const PATIENCE: Duration = Duration::from_secs(5);
/// Copies of one batch.
const COPIES: usize = 100;
/// Bytes of one batch after which no further copy is added.
const COPY_BYTES: usize = 1 << 20;
/// How long dead letters are kept.
const RETENTION_MS: u64 = 14 * 86_400_000;
/// Sequences count modulo this.
const WRAP: u64 = 1 << 31;

/// The producer of the copies.
struct Ready {
    producer_id: i64,
    epoch: i16,
    target: Partition,
    /// The first copy in this topic is of the dead letter after this.
    base: u64,
}

/// Carries copies of one partition's dead letters; begins anew after every error that may have
/// changed something.
pub(super) struct Courier {
    services: Arc<Services>,
    group_id: u64,
    topic: String,
    group: String,
    partition: Partition,
    reader: Reader,
    ready: Option<Ready>,
}

/// What came of a batch of copies.
pub(super) struct Carried {
    /// `None`: the next one begins anew.
    courier: Option<Courier>,
    /// The number up to which copies are written for certain.
    done_to: u64,
    outcome: Result<(), Refusal>,
}

/// How far a lane's copies are.
#[derive(Default)]
pub(super) struct Copies {
    /// Dead letters with numbers up to this have a copy.
    pub(super) done_to: u64,
    courier: Option<Courier>,
    is_on_its_way: bool,
    rest: Rest,
    /// Why there were none the last time.
    problem: Option<Refusal>,
}

/// Somebody who waits until all dead letters of a group have their copies.
pub(super) struct Awaited {
    pub(super) until: Instant,
    pub(super) answer: oneshot::Sender<Result<(), Refusal>>,
}

impl Copies {
    /// How long no copies are tried, if so.
    pub(super) fn rest_ms(&self) -> Option<u64> {
        self.rest.left_ms(clock::monotonic_ms())
    }

    /// A batch is on its way.
    pub(super) fn are_on_their_way(&self) -> bool {
        self.is_on_its_way
    }

    /// Takes in what came of a batch.
    ///
    /// # Errors
    /// Why there are no copies; they are tried again after a rest.
    pub(super) fn conclude(&mut self, carried: Carried) -> Result<(), Refusal> {
        self.is_on_its_way = false;
        self.courier = carried.courier;
        self.done_to = self.done_to.max(carried.done_to);
        match &carried.outcome {
            Ok(()) => self.rest = Rest::default(),
            Err(_) => self.rest.begin(clock::monotonic_ms()),
        }
        self.problem = carried.outcome.clone().err();
        carried.outcome
    }
}

struct Letter {
    number: u64,
    dead: Dead,
    error: String,
    history: Vec<PastAttempt>,
}

impl Letter {
    fn by_wall(mut self, now: Now) -> Letter {
        self.dead.died_ms = now.by_wall(self.dead.died_ms);
        if self.dead.first_failure_ms > 0 {
            self.dead.first_failure_ms = now.by_wall(self.dead.first_failure_ms);
        }
        self
    }
}

impl Lane {
    /// The next copies of dead letters, to be carried beside the rounds; nothing if none wait, some
    /// are on their way, or copies rest.
    pub(super) fn copy_dead(
        &mut self,
        services: &Arc<Services>,
        group: &Group,
        policy: &Policy,
        now: Now,
    ) -> Option<impl Future<Output = Carried> + Send + 'static> {
        if self.copies.is_on_its_way || self.copies.rest_ms().is_some() {
            return None;
        }
        let (written, letters) = self.letters(policy, now)?;
        // Whoever reads a copy knows the wall clock's time.
        let letters = letters.into_iter().map(|letter| letter.by_wall(now));
        let letters: Vec<Letter> = letters.collect();
        let courier = self.copies.courier.take().unwrap_or_else(|| Courier {
            services: services.clone(),
            group_id: group.id,
            topic: group.topic.clone(),
            group: group.name.clone(),
            partition: self.partition.clone(),
            reader: Reader::new(&self.partition),
            ready: None,
        });
        self.copies.is_on_its_way = true;
        let from = written.max(self.copies.done_to);
        Some(courier.carry(from, letters))
    }

    fn letters(&mut self, policy: &Policy, now: Now) -> Option<(u64, Vec<Letter>)> {
        let copied_to = self.copies.done_to;
        let (written, letters) = self.with(policy, |state, _| {
            let written = state.dead_written_to();
            let letters = state.dead_letters(written.max(copied_to) + 1);
            let letters = letters.take(COPIES).map(|(number, dead)| Letter {
                number,
                dead,
                error: state.dead_error(number).unwrap_or_default().to_owned(),
                history: state.dead_history(number).map(|it| it.told(now)).collect(),
            });
            (written, letters.collect::<Vec<_>>())
        })?;
        (!letters.is_empty()).then_some((written, letters))
    }
}

impl Driver {
    pub(super) fn await_copies(&mut self, answer: oneshot::Sender<Result<(), Refusal>>) {
        if !self.consumers.is_empty() || !self.calls.is_empty() {
            // The group is not deleted anyway.
            return drop(answer.send(Ok(())));
        }
        let until = Instant::now() + PATIENCE;
        self.copies_awaited.push(Awaited { until, answer });
    }

    /// Answers those who wait for copies, if there are all, or have been none for too long.
    pub(super) fn answer_awaited(&mut self) {
        if self.copies_awaited.is_empty() {
            return;
        }
        let copied = self.check_copied();
        let now = Instant::now();
        for awaited in std::mem::take(&mut self.copies_awaited) {
            if copied.is_ok() || awaited.until <= now {
                // Whoever hung up does not want to know.
                let _ = awaited.answer.send(copied.clone());
            } else {
                self.copies_awaited.push(awaited);
            }
        }
    }

    /// # Errors
    /// If the group goes with dead letters that have no copy, and its policy keeps them.
    pub(super) fn check_copied(&mut self) -> Result<(), Refusal> {
        if !self.policy.dead_letters {
            return Ok(());
        }
        let policy = &self.policy;
        let count = |lane: &mut Lane| {
            let numbers = |state: &State| state.dead_numbered_to() - state.dead_written_to();
            lane.with(policy, |state, _| numbers(state)).unwrap_or(0)
        };
        let count = self.lanes.iter_mut().map(count).sum();
        if count == 0 {
            return Ok(());
        }
        let problem = self
            .lanes
            .iter()
            .find_map(|lane| lane.copies.problem.as_ref());
        Err(Refusal::DeadLettersWaiting {
            topic: self.group.topic.clone(),
            group: self.group.name.clone(),
            count,
            why: problem.map_or_else(|| "they are being copied".into(), ToString::to_string),
        })
    }
}

impl Courier {
    /// Writes copies of some of these letters, which follow the number `from`.
    async fn carry(mut self, from: u64, letters: Vec<Letter>) -> Carried {
        let made = match self.ready.take() {
            Some(ready) => Ok((ready, from)),
            None => self.make_ready(from).await,
        };
        let (ready, copied_to) = match made {
            Ok(made) => made,
            Err(refusal) => {
                return Carried {
                    courier: None,
                    done_to: 0,
                    outcome: Err(refusal),
                };
            }
        };
        let letters = letters.into_iter().filter(|l| l.number > copied_to);
        let copied = self.copy(&ready, letters.collect()).await;
        self.ready = Some(ready);
        match copied {
            Ok(last) => Carried {
                courier: Some(self),
                done_to: last.unwrap_or(copied_to),
                outcome: Ok(()),
            },
            Err(refusal) => Carried {
                courier: changed_nothing(&refusal).then_some(self),
                done_to: copied_to,
                outcome: Err(refusal),
            },
        }
    }

    /// Writes copies of some of these; the number of the last.
    async fn copy(&mut self, ready: &Ready, letters: Vec<Letter>) -> Result<Option<u64>, Refusal> {
        let Some((batch, last)) = self.batch(ready, letters).await? else {
            return Ok(None);
        };
        let permit = self.services.admit(batch.bytes().len()).await?;
        let (answer, answered) = oneshot::channel();
        let message = Message::Batch {
            batch,
            expected_offset: None,
            permit,
            answer,
        };
        ready.target.send(message).await?;
        let stored = answered.await.map_err(|_| Refusal::Unknown {
            why: "the dead-letter topic closed".into(),
        })?;
        stored?;
        Ok(Some(last))
    }

    /// The dead-letter topic, a producer that fences every earlier one, and how far they came.
    async fn make_ready(&self, from: u64) -> Result<(Ready, u64), Refusal> {
        let services = &self.services;
        let name = dead_letter_topic(&self.topic, &self.group);
        let live = match services.topics.get(&name) {
            Err(Refusal::TopicNotFound { .. }) => {
                let config = TopicConfig {
                    retention_ms: RETENTION_MS,
                    max_message_bytes: limits::MAX_MESSAGE_BYTES,
                    ..TopicConfig::standard()
                };
                let new = NewTopic {
                    name: name.clone(),
                    partitions: 1,
                    config,
                    labels: std::collections::BTreeMap::new(),
                };
                match services.topics.create(new, false).await {
                    Ok(_) | Err(Refusal::TopicExists { .. }) => services.topics.get(&name)?,
                    Err(refusal) => return Err(refusal),
                }
            }
            other => other?,
        };
        // One partition for all: another one after a change of the topic would copy again.
        let target = live.partition(0)?.clone();
        let init = InitInternal {
            name: format!(
                "copies/{}/{}/{}",
                self.group_id,
                self.number(),
                live.topic.id
            ),
            group_id: self.group_id,
            from_topic: services.topics.get(&self.topic)?.topic.id,
            to_topic: live.topic.id,
            base: from,
        };
        let Internal { producer, base, .. } = services.internal_producer(init).await?;
        let stored = target.producer(producer.id).await?;
        let stored = stored.map_or(0, |(next, _)| next);
        let ready = Ready {
            producer_id: producer.id,
            epoch: i16::try_from(producer.epoch).unwrap_or(i16::MAX),
            target,
            base,
        };
        Ok((ready, from.max(base + stored)))
    }

    fn number(&self) -> u32 {
        self.partition.shared().number
    }

    /// Copies as one batch, and the number of the last; nothing if there are no letters.
    async fn batch(
        &mut self,
        ready: &Ready,
        letters: Vec<Letter>,
    ) -> Result<Option<(Batch, u64)>, Refusal> {
        let Some(first) = letters.first() else {
            return Ok(None);
        };
        let mut last = first.number;
        let sequence = i32::try_from((first.number - 1 - ready.base) % WRAP).unwrap_or(0);
        let mut builder = BatchBuilder::new(Compression::None);
        builder.set_producer(ready.producer_id, ready.epoch, sequence);
        let shared = self.partition.shared().clone();
        let (start, dead) = (shared.log_start_offset(), |letter: &Letter| {
            letter.dead.offset
        });
        let aside: BTreeSet<u64> = shared.with_kept(|kept| {
            let dead = letters.iter().map(dead);
            dead.filter(|offset| kept.contains(*offset)).collect()
        });
        let is_there = |offset: &u64| *offset >= start || aside.contains(offset);
        let runs = runs_from(letters.iter().map(dead).filter(is_there));
        let read = self.reader.read_runs(&runs, COPY_BYTES as u64).await;
        for letter in &letters {
            let offset = letter.dead.offset;
            // A seek can let a message die twice, so it stays where it is.
            let record = read.records.get(&offset);
            // What retention was quicker with, or the disk does not give back, is copied without
            // what it was. What was just not read comes in the next batch.
            let is_gone = !is_there(&offset) || read.unreadable.contains(&offset);
            if record.is_none() && !is_gone {
                break;
            }
            let death = Death {
                topic: &self.topic,
                group: &self.group,
                partition: self.number(),
                number: letter.number,
                dead: letter.dead,
                error: &letter.error,
                history: &letter.history,
            };
            let headers = copy_headers(record, &death);
            let key = record.and_then(|record| record.key.as_deref());
            let value = record.and_then(|record| record.value.as_deref());
            builder.push(letter.dead.died_ms, key, value, &headers);
            last = letter.number;
        }
        if builder.count() == 0 {
            return Err(Refusal::Unavailable {
                why: "the messages cannot be read now".into(),
            });
        }
        let bad = |error: aqueduct_proto::batch::BatchError| Refusal::BadBatch {
            why: error.to_string(),
        };
        let bytes = builder.finish().map_err(bad)?;
        Ok(Some((Batch::check(bytes).map_err(bad)?, last)))
    }
}

/// These offsets, each once, as runs.
fn runs_from(offsets: impl Iterator<Item = u64>) -> Vec<Range<u64>> {
    let offsets: BTreeSet<u64> = offsets.collect();
    let mut runs: Vec<Range<u64>> = Vec::new();
    for offset in offsets {
        match runs.last_mut() {
            Some(last) if last.end == offset => last.end += 1,
            _ => runs.push(offset..offset + 1),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_become_runs() {
        let runs = |offsets: &[u64]| runs_from(offsets.iter().copied());
        assert_eq!(runs(&[7, 3, 4, 4, 9, 8]), [3..5, 7..10]);
        assert!(runs(&[]).is_empty());
    }
}
