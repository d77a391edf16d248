//! Publishing: what a message must be, which partition it goes to, and the answers to come.
//!
//! The doors hand over messages or batches as they decoded them; the partitions' owners decide
//! what is stored. In between lies only what concerns all partitions: limits of the topic, the
//! choice of the partition, and the node's budget of bytes that wait for their sync.

mod options;
mod results;

use std::{sync::Arc, time::Instant};

use aqueduct_proto::{
    attributes,
    batch::{Batch, BatchError, BatchHeader, Limits},
    compression::Compression,
    partitioner,
    record::Header,
    v1,
};
use bytes::Bytes;
use tokio::sync::oneshot;

pub(crate) use self::{
    options::{Options, whole_ms},
    results::{Addressed, NewResult},
};
use crate::{
    clock::Clock,
    error::Refusal,
    limits,
    metadata::state::TopicConfig,
    partition::{Message, NewRecord, RecordsAnswer, Stored},
    services::Services,
    stats::Histogram,
    topics::LiveTopic,
};

/// Memory that a message takes on its way, beside its bytes.
const MESSAGE_COST: usize = 256;
/// From this size on, compressed batches are unpacked where they hold up nobody, bytes.
const UNPACK_ELSEWHERE: usize = 256 << 10;

/// A message, its partition if the publisher insists, and what it asks of queues.
pub(crate) struct Incoming {
    pub(crate) record: NewRecord,
    pub(crate) partition: Option<u32>,
    pub(crate) options: Option<Box<Options>>,
}

/// Where a message's answer will be found.
enum Slot {
    Refused(u32, Refusal),
    Group { group: usize, place: usize },
}

/// The messages that go to one partition.
struct Group {
    partition: u32,
    records: Vec<NewRecord>,
}

/// Answers to come for some messages, in their order.
pub(crate) struct PendingMessages {
    slots: Vec<Slot>,
    groups: Vec<(u32, oneshot::Receiver<RecordsAnswer>)>,
    timer: Timer,
}

/// Measures from the hand-over to the answer.
struct Timer {
    start: Instant,
    times: Arc<Histogram>,
}

impl Timer {
    fn stop(&self) {
        self.times.observe(self.start.elapsed());
    }
}

impl PendingMessages {
    /// Waits for every partition concerned; a (partition, result) for each message.
    pub(crate) async fn wait(self) -> Vec<(u32, Result<Stored, Refusal>)> {
        let mut answers = Vec::with_capacity(self.groups.len());
        for (partition, answer) in self.groups {
            let answer = answer
                .await
                .unwrap_or_else(|_| RecordsAnswer::Refused(lost()));
            answers.push((partition, answer));
        }
        if !answers.is_empty() {
            self.timer.stop();
        }
        let result = |slot| match slot {
            Slot::Refused(partition, refusal) => (partition, Err(refusal)),
            Slot::Group { group, place } => {
                let (partition, answer): &(u32, RecordsAnswer) = &answers[group];
                (*partition, answer.get(place))
            }
        };
        self.slots.into_iter().map(result).collect()
    }
}

/// The answer to come for a batch.
pub(crate) struct PendingBatch {
    pub(crate) partition: u32,
    answer: oneshot::Receiver<Result<Stored, Refusal>>,
    timer: Timer,
}

impl PendingBatch {
    /// Waits for the partition.
    pub(crate) async fn wait(self) -> Result<Stored, Refusal> {
        let answer = self.answer.await.unwrap_or_else(|_| Err(lost()));
        self.timer.stop();
        answer
    }
}

fn lost() -> Refusal {
    Refusal::Unknown {
        why: "the partition stopped before it answered".into(),
    }
}

impl Services {
    fn timer(&self) -> Timer {
        Timer {
            start: Instant::now(),
            times: self.stats.publish_time.clone(),
        }
    }

    /// Hands messages to their partitions, in order; waits only for room.
    ///
    /// # Errors
    /// If nothing was handed over: the node drains, or `expected_offset` is given and not all
    /// messages are acceptable and go to one partition.
    pub(crate) async fn publish(
        &self,
        live: &LiveTopic,
        messages: Vec<Incoming>,
        expected_offset: Option<u64>,
    ) -> Result<PendingMessages, Refusal> {
        self.check_draining()?;
        let timer = self.timer();
        let (mut slots, groups) = sort_out(live, &self.clock, messages);
        if expected_offset.is_some() {
            check_expectable(&slots, groups.len())?;
        }
        let mut receivers = Vec::with_capacity(groups.len());
        for (index, group) in groups.into_iter().enumerate() {
            let (answer, answered) = oneshot::channel();
            let partition = group.partition;
            receivers.push((partition, answered));
            if let Err(refusal) = self.hand_over(live, group, expected_offset, answer).await {
                refuse_group(&mut slots, index, partition, &refusal);
            }
        }
        Ok(PendingMessages {
            slots,
            groups: receivers,
            timer,
        })
    }

    async fn hand_over(
        &self,
        live: &LiveTopic,
        group: Group,
        expected_offset: Option<u64>,
        answer: oneshot::Sender<RecordsAnswer>,
    ) -> Result<(), Refusal> {
        let bytes: usize = group.records.iter().map(NewRecord::bytes).sum();
        let permit = self.admit(charge(&group.records)).await?;
        let count = group.records.len() as u64;
        self.stats.received(&live.traffic, count, bytes as u64);
        let records = group.records;
        let message = Message::Records {
            records,
            expected_offset,
            permit,
            answer,
        };
        live.partition(group.partition)?.send(message).await
    }

    /// Whether a message may ask of queues what it asks.
    ///
    /// # Errors
    /// As for the first message of a request.
    pub(crate) fn check_options(&self, message: &v1::Message) -> Result<(), Refusal> {
        let header = |header: &v1::Header| Header::new(header.name.clone(), header.value.clone());
        let mut record = NewRecord {
            headers: message.headers.iter().map(header).collect(),
            ..NewRecord::default()
        };
        let options = Options::of(message);
        options::take(0, options.as_ref(), &mut record, || self.clock.wall_ms())
    }

    /// Hands a batch that the client encoded to its partition; waits only for room.
    ///
    /// # Errors
    /// If the batch is not acceptable or the node drains.
    pub(crate) async fn publish_batch(
        &self,
        live: &LiveTopic,
        partition: u32,
        records: Bytes,
        expected_offset: Option<u64>,
    ) -> Result<PendingBatch, Refusal> {
        self.check_draining()?;
        let timer = self.timer();
        let target = live.partition(partition)?;
        let config = **target.shared().config.load();
        let bytes = records.len();
        let permit = self.admit(bytes).await?;
        let batch = check_batch_somewhere(records, config).await?;
        let count = u64::from(batch.count());
        self.stats.received(&live.traffic, count, bytes as u64);
        let (answer, answered) = oneshot::channel();
        target
            .send(Message::Batch {
                batch,
                expected_offset,
                permit,
                answer,
            })
            .await?;
        Ok(PendingBatch {
            partition,
            answer: answered,
            timer,
        })
    }
}

async fn check_batch_somewhere(records: Bytes, config: TopicConfig) -> Result<Batch, Refusal> {
    let plain = BatchHeader::read(&records).is_ok_and(|header| {
        header
            .compression()
            .is_ok_and(|codec| codec == Compression::None)
    });
    if plain || records.len() < UNPACK_ELSEWHERE {
        return check_batch(records, &config);
    }
    tokio::task::spawn_blocking(move || check_batch(records, &config))
        .await
        .unwrap_or(Err(Refusal::Unavailable {
            why: "the batch was not checked".into(),
        }))
}

fn check_batch(records: Bytes, config: &TopicConfig) -> Result<Batch, Refusal> {
    let limits = Limits {
        max_batch_bytes: limits::MAX_BATCH_BYTES,
        max_message_bytes: usize::try_from(config.max_message_bytes).unwrap_or(usize::MAX),
        max_decompressed_bytes: limits::MAX_DECOMPRESSED_BYTES,
        max_records: limits::MAX_BATCH_RECORDS,
        max_record_headers: limits::MAX_HEADERS as u32,
        max_headers: limits::MAX_HEADERS_PER_REQUEST as u32,
    };
    Batch::validate(records, &limits).map_err(|error| match error {
        BatchError::MessageTooLarge { index, size, limit } => {
            too_large(format!("message {index} of the batch"), size, limit as u64)
        }
        BatchError::TooLarge { size, limit } => too_large("batch".into(), size, limit as u64),
        other => Refusal::BadBatch {
            why: other.to_string(),
        },
    })
}

fn too_large(what: String, bytes: usize, limit: u64) -> Refusal {
    Refusal::TooLarge {
        what,
        bytes: bytes as u64,
        limit,
    }
}

/// Checks each message and gathers what goes to the same partition.
fn sort_out(live: &LiveTopic, clock: &Clock, messages: Vec<Incoming>) -> (Vec<Slot>, Vec<Group>) {
    let config = live.topic.config;
    let mut keyless = None;
    let mut groups: Vec<Group> = Vec::new();
    let mut slots = Vec::with_capacity(messages.len());
    for (n, mut incoming) in messages.into_iter().enumerate() {
        let options = incoming.options.as_deref();
        let taken = take_dedup_header(n, &mut incoming.record)
            .and_then(|()| options::take(n, options, &mut incoming.record, || clock.wall_ms()));
        if let Err(refusal) = taken {
            slots.push(Slot::Refused(incoming.partition.unwrap_or(0), refusal));
            continue;
        }
        let partition = choose(live, &incoming, &mut keyless);
        if let Err(refusal) = check(n, partition, &mut incoming.record, live, &config) {
            slots.push(Slot::Refused(partition, refusal));
            continue;
        }
        let found = groups
            .iter()
            .rposition(|group| group.partition == partition);
        let group = found.unwrap_or_else(|| {
            groups.push(Group {
                partition,
                records: Vec::new(),
            });
            groups.len() - 1
        });
        slots.push(Slot::Group {
            group,
            place: groups[group].records.len(),
        });
        groups[group].records.push(incoming.record);
    }
    (slots, groups)
}

/// What messages are charged while they wait for their sync: an empty one costs memory, too.
fn charge(records: &[NewRecord]) -> usize {
    let one = |record: &NewRecord| record.bound() + MESSAGE_COST;
    records.iter().map(one).sum()
}

/// A header `aq-dedup-id` is the message's dedup id, as if the field had been given: the header
/// is what is stored, and the state machine must find there what the owner decided by.
fn take_dedup_header(n: usize, record: &mut NewRecord) -> Result<(), Refusal> {
    let is_id = |header: &Header| header.name.as_ref() == attributes::DEDUP_ID.as_bytes();
    let mut ids = record.headers.iter().filter(|header| is_id(header));
    let Some(first) = ids.next() else {
        return Ok(());
    };
    let id = first.value.clone().unwrap_or_default();
    let same = ids.all(|other| other.value.as_ref().unwrap_or(&Bytes::new()) == &id);
    if !same || record.dedup_id.as_ref().is_some_and(|field| *field != id) {
        let why = "aq-dedup-id is given more than once, and differs";
        return Err(Refusal::invalid(format!("messages[{n}].dedup_id"), why));
    }
    record.headers.retain(|header| !is_id(header));
    record.dedup_id = (!id.is_empty()).then_some(id);
    Ok(())
}

/// By wish, by key, by dedup id (the same id must meet itself again), or else all messages of a
/// request by turn to one partition.
fn choose(live: &LiveTopic, incoming: &Incoming, keyless: &mut Option<u32>) -> u32 {
    let NewRecord { key, dedup_id, .. } = &incoming.record;
    match (incoming.partition, key.as_ref().or(dedup_id.as_ref())) {
        (Some(partition), _) => partition,
        (None, Some(key)) => partitioner::for_key(key, live.partitions.len() as u32),
        (None, None) => *keyless.get_or_insert_with(|| live.next_partition()),
    }
}

fn check(
    n: usize,
    partition: u32,
    record: &mut NewRecord,
    live: &LiveTopic,
    config: &TopicConfig,
) -> Result<(), Refusal> {
    live.partition(partition)?;
    let bytes = record.bytes();
    if bytes as u64 > config.max_message_bytes {
        return Err(too_large(
            format!("messages[{n}]"),
            bytes,
            config.max_message_bytes,
        ));
    }
    if record.headers.len() > limits::MAX_HEADERS {
        let (count, limit) = (record.headers.len(), limits::MAX_HEADERS);
        let why = format!("{count} headers, the limit is {limit}");
        return Err(Refusal::invalid(format!("messages[{n}].headers"), why));
    }
    if let Some(stamp) = record.timestamp_ms.filter(|stamp| *stamp < 0) {
        let why = format!("{stamp} lies before the Unix epoch");
        return Err(Refusal::invalid(format!("messages[{n}].timestamp_ms"), why));
    }
    if let Some(id) = &record.dedup_id {
        let (length, limit) = (id.len(), limits::MAX_DEDUP_ID_BYTES);
        if length > limit {
            let why = format!("{length} bytes, the limit is {limit}");
            return Err(Refusal::invalid(format!("messages[{n}].dedup_id"), why));
        }
        if config.dedup_window_ms == 0 {
            let why = "the topic's dedup window is 0, so ids cannot be honoured";
            return Err(Refusal::invalid(format!("messages[{n}].dedup_id"), why));
        }
    }
    Ok(())
}

fn check_expectable(slots: &[Slot], groups: usize) -> Result<(), Refusal> {
    for slot in slots {
        if let Slot::Refused(_, refusal) = slot {
            return Err(refusal.clone());
        }
    }
    if groups > 1 {
        let why = format!("the messages go to {groups} partitions; name one, or send one by one");
        return Err(Refusal::invalid("expected_offset", why));
    }
    Ok(())
}

fn refuse_group(slots: &mut [Slot], index: usize, partition: u32, refusal: &Refusal) {
    for slot in slots {
        if matches!(slot, Slot::Group { group, .. } if *group == index) {
            *slot = Slot::Refused(partition, refusal.clone());
        }
    }
}
