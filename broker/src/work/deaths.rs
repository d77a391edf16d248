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

use std::{collections::BTreeSet, ops::Range};

use aqueduct_proto::{batch::Batch, compression::Compression, record::BatchBuilder};
use tokio::sync::oneshot;

use super::lane::Lane;
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
    queue::{policy::Policy, record::Dead, time::Now},
    services::Services,
    topics::NewTopic,
};

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

/// Writes copies; begins anew after every error.
#[derive(Default)]
pub(super) struct Copier {
    ready: Option<Ready>,
    rest: Rest,
}

/// How long copies are left alone after an error: longer each time, and nothing else of the
/// partition waits meanwhile.
#[derive(Debug, Default, PartialEq, Eq)]
struct Rest {
    wait_ms: u64,
    until_ms: u64,
}

/// The first rest, and the longest.
const REST_MS: (u64, u64) = (200, 5_000);

impl Rest {
    fn begin(&mut self, now_ms: u64) {
        let (first, longest) = REST_MS;
        self.wait_ms = (self.wait_ms * 2).clamp(first, longest);
        self.until_ms = now_ms + self.wait_ms;
    }

    fn left_ms(&self, now_ms: u64) -> Option<u64> {
        let left = self.until_ms.saturating_sub(now_ms);
        (left > 0).then_some(left)
    }
}

struct Letter {
    number: u64,
    dead: Dead,
    error: String,
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
    /// Copies some of the dead letters that wait; whether there were any.
    ///
    /// # Errors
    /// If that cannot be done just now.
    pub(super) async fn copy_dead(
        &mut self,
        services: &std::sync::Arc<Services>,
        group: &Group,
        policy: &Policy,
        now: Now,
    ) -> Result<bool, Refusal> {
        let Some((written, letters)) = self.letters(policy) else {
            return Ok(false);
        };
        let ready = match self.copier.ready.take() {
            Some(ready) => ready,
            None => self.make_ready(services, group, written).await?,
        };
        let copied_to = self.copied_to;
        let letters = letters.into_iter().filter(|l| l.number > copied_to);
        // Whoever reads a copy knows the wall clock's time.
        let letters = letters.map(|letter| letter.by_wall(now));
        let (batch, last) = self.batch(&ready, group, letters.collect()).await?;
        if let Some(batch) = batch {
            let permit = services.admit(batch.bytes().len()).await?;
            let (answer, answered) = oneshot::channel();
            let expected_offset = None;
            let message = Message::Batch {
                batch,
                expected_offset,
                permit,
                answer,
            };
            ready.target.send(message).await?;
            let stored = answered.await.map_err(|_| Refusal::Unknown {
                why: "the dead-letter topic closed".into(),
            })?;
            stored?;
            self.copied_to = last;
        }
        self.copier = Copier {
            ready: Some(ready),
            rest: Rest::default(),
        };
        Ok(true)
    }

    /// Copies cannot be written just now.
    pub(super) fn rest_copies(&mut self) {
        self.copier.rest.begin(clock::monotonic_ms());
    }

    /// How long no copies are tried, if so.
    pub(super) fn copies_rest_ms(&self) -> Option<u64> {
        self.copier.rest.left_ms(clock::monotonic_ms())
    }

    fn letters(&mut self, policy: &Policy) -> Option<(u64, Vec<Letter>)> {
        let copied_to = self.copied_to;
        let (written, letters) = self.with(policy, |state, _| {
            let written = state.dead_written_to();
            let letters = state.dead_letters(written.max(copied_to) + 1);
            let letters = letters.take(COPIES).map(|(number, dead)| Letter {
                number,
                dead,
                error: state.dead_error(number).unwrap_or_default().to_owned(),
            });
            (written, letters.collect::<Vec<_>>())
        })?;
        (!letters.is_empty()).then_some((written, letters))
    }

    /// The dead-letter topic, a producer that fences every earlier one, and how far they came.
    async fn make_ready(
        &mut self,
        services: &std::sync::Arc<Services>,
        group: &Group,
        written: u64,
    ) -> Result<Ready, Refusal> {
        let name = dead_letter_topic(&group.topic, &group.name);
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
            name: format!("copies/{}/{}/{}", group.id, self.number, live.topic.id),
            group_id: group.id,
            from_topic: services.topics.get(&group.topic)?.topic.id,
            to_topic: live.topic.id,
            base: written.max(self.copied_to),
        };
        let Internal { producer, base, .. } = services.internal_producer(init).await?;
        let stored = target.producer(producer.id).await?;
        let stored = stored.map_or(0, |(next, _)| next);
        self.copied_to = self.copied_to.max(base + stored);
        Ok(Ready {
            producer_id: producer.id,
            epoch: i16::try_from(producer.epoch).unwrap_or(i16::MAX),
            target,
            base,
        })
    }

    /// Copies as one batch, and the number of the last.
    async fn batch(
        &mut self,
        ready: &Ready,
        group: &Group,
        letters: Vec<Letter>,
    ) -> Result<(Option<Batch>, u64), Refusal> {
        let Some(first) = letters.first() else {
            return Ok((None, self.copied_to));
        };
        let mut last = self.copied_to;
        let sequence = i32::try_from((first.number - 1 - ready.base) % WRAP).unwrap_or(0);
        let mut builder = BatchBuilder::new(Compression::None);
        builder.set_producer(ready.producer_id, ready.epoch, sequence);
        let start = self.partition.shared().log_start_offset();
        let runs = runs_from(letters.iter().map(|letter| letter.dead.offset), start);
        let read = self.read_runs(&runs, COPY_BYTES as u64).await;
        for letter in &letters {
            let offset = letter.dead.offset;
            // A seek can let a message die twice, so it stays where it is.
            let record = read.records.get(&offset);
            // What retention was quicker with, or the disk does not give back, is copied without
            // what it was. What was just not read comes in the next batch.
            let is_gone = offset < start || read.unreadable.contains(&offset);
            if record.is_none() && !is_gone {
                break;
            }
            let death = Death {
                topic: &group.topic,
                group: &group.name,
                partition: self.number,
                number: letter.number,
                dead: letter.dead,
                error: &letter.error,
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
        Ok((Some(Batch::check(bytes).map_err(bad)?), last))
    }
}

/// These offsets from `start` on, each once, as runs.
fn runs_from(offsets: impl Iterator<Item = u64>, start: u64) -> Vec<Range<u64>> {
    let offsets: BTreeSet<u64> = offsets.filter(|offset| *offset >= start).collect();
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
    fn offsets_become_runs_of_what_is_kept() {
        let runs = |offsets: &[u64], start| runs_from(offsets.iter().copied(), start);
        assert_eq!(runs(&[7, 3, 4, 4, 9, 8], 4), [4..5, 7..10]);
        assert!(runs(&[1, 2], 3).is_empty());
    }

    #[test]
    fn rests_grow_and_stay_bounded() {
        let mut rest = Rest::default();
        assert_eq!(rest.left_ms(0), None);
        let mut now_ms = 1_000;
        let mut rests = Vec::new();
        for _ in 0..7 {
            rest.begin(now_ms);
            let left = rest.left_ms(now_ms).unwrap();
            rests.push(left);
            now_ms += left;
            assert_eq!(rest.left_ms(now_ms), None);
        }
        assert_eq!(rests, [200, 400, 800, 1_600, 3_200, 5_000, 5_000]);
    }
}
