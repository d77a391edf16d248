//! Copies of dead letters, each in the dead-letter topic exactly once.
//!
//! The queue gives its dead letters numbers without gaps. Here a number becomes a producer's
//! sequence: one named producer for each (group, partition, dead-letter topic), which nobody
//! else can be because its name is none that a client may give. Whoever takes over after a crash
//! asks the topic how far the copies go, and continues there; then the queue is told.
//!
//! The number at which the copies in a topic begin is part of the producer's name, so that it is
//! known for good before the first copy: a dead-letter topic that was deleted begins again.

use aqueduct_proto::{
    attributes,
    batch::Batch,
    compression::Compression,
    record::{BatchBuilder, Header, Record},
};
use tokio::sync::oneshot;

use super::lane::Lane;
use crate::{
    clock,
    error::Refusal,
    groups::admin::dead_letter_topic,
    limits,
    metadata::{
        groups::Group,
        state::{Change, Outcome, TopicConfig},
    },
    partition::{Message, Partition},
    queue::{command::Reason, policy::Policy, record::Dead},
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
        let prefix = format!("queue/{}/{}/{}/", group.id, self.number, live.topic.id);
        let known = {
            let view = services.metadata.view().read();
            let names = view.producers.range(prefix.clone()..);
            let mut names = names.take_while(|(name, _)| name.starts_with(&prefix));
            names
                .next()
                .and_then(|(name, _)| name[prefix.len()..].parse().ok())
        };
        let base: u64 = known.unwrap_or(written.max(self.copied_to));
        let change = Change::InitProducer(format!("{prefix}{base}"));
        let producer = match services.metadata.propose(change).await? {
            Outcome::Producer(producer) => producer,
            _ => {
                return Err(Refusal::LimitReached {
                    what: "named producers".into(),
                    limit: limits::MAX_NAMED_PRODUCERS as u64,
                });
            }
        };
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
        let mut last = first.number;
        let sequence = i32::try_from((first.number - 1 - ready.base) % WRAP).unwrap_or(0);
        let mut builder = BatchBuilder::new(Compression::None);
        builder.set_producer(ready.producer_id, ready.epoch, sequence);
        for letter in &letters {
            if builder.count() > 0 && builder.len_bytes() >= COPY_BYTES {
                break;
            }
            // Retention may have been quicker: then the copy says what there was, without it.
            let record = self.read_one(letter.dead.offset).await.unwrap_or_default();
            let headers = headers(&record, letter, group, self.number);
            let (key, value) = (record.key.as_deref(), record.value.as_deref());
            builder.push(letter.dead.died_ms, key, value, &headers);
            last = letter.number;
        }
        let bad = |error: aqueduct_proto::batch::BatchError| Refusal::BadBatch {
            why: error.to_string(),
        };
        let bytes = builder.finish().map_err(bad)?;
        Ok((Some(Batch::check(bytes).map_err(bad)?), last))
    }
}

/// The message's own headers (but for those that would delay or expire the copy), and its end.
fn headers(record: &Record, letter: &Letter, group: &Group, partition: u32) -> Vec<Header> {
    let timed = [attributes::DELAY_UNTIL, attributes::TTL];
    let own = record.headers.iter();
    let mut headers: Vec<Header> = own
        .filter(|header| !timed.contains(&header.name_str()))
        .cloned()
        .collect();
    let dead = &letter.dead;
    let mut say = |name: &str, value: String| headers.push(Header::new(name, value));
    say("__dlq.errors.topic", group.topic.clone());
    say("__dlq.errors.partition", partition.to_string());
    say("__dlq.errors.offset", dead.offset.to_string());
    say("__dlq.errors.group", group.name.clone());
    say("__dlq.errors.delivery.count", dead.hand_outs.to_string());
    say("__dlq.errors.message", letter.error.clone());
    say("aq-dead-reason", name(dead.reason).to_owned());
    say("aq-dead-attempts", dead.failed.to_string());
    say("aq-dead-number", letter.number.to_string());
    if dead.first_failure_ms > 0 {
        say("aq-dead-first-failure", dead.first_failure_ms.to_string());
    }
    headers
}

fn name(reason: Reason) -> &'static str {
    match reason {
        Reason::Unknown => "UNKNOWN",
        Reason::Attempts => "ATTEMPTS",
        Reason::HandOuts => "HAND_OUTS",
        Reason::Rejected => "REJECTED",
        Reason::Ttl => "EXPIRED",
        Reason::Parked => "PARKED",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
