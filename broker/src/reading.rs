//! A read without a group: several partitions, from a place to a place, followed or not.
//!
//! One session has a lane per partition and gives each its turn. It waits for publishes by
//! being woken, never by looking again, and sends no more than its credit allows.

use std::sync::Arc;

use aqueduct_proto::{
    batch::{Batch, BatchHeader},
    compression::Compression,
    record::Record,
};
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::{
    error::Refusal,
    limits::{MAX_DECOMPRESSED_BYTES, READ_CHUNK_BYTES},
    partition::{Chunk, Cursor, Place},
    services::Services,
    stats::Traffic,
};

/// What is to be read.
#[derive(Debug, Clone)]
pub(crate) struct ReadSpec {
    pub(crate) topic: String,
    /// Empty: all.
    pub(crate) partitions: Vec<u32>,
    pub(crate) from: Option<Place>,
    /// Exclusive.
    pub(crate) until: Option<Place>,
    pub(crate) follow: bool,
    pub(crate) raw: bool,
    pub(crate) max_messages: Option<u64>,
}

/// What a partition will deliver.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Range {
    pub(crate) partition: u32,
    pub(crate) from: u64,
    pub(crate) until: Option<u64>,
}

/// What a session yields.
pub(crate) enum Event {
    Batches {
        partition: u32,
        batches: Vec<Bytes>,
        high_watermark: u64,
    },
    Records {
        partition: u32,
        records: Vec<Record>,
    },
    CaughtUp {
        partition: u32,
        next: u64,
        done: bool,
    },
}

/// How much may still be sent: given by the reader, taken by the session.
pub(crate) struct Credit {
    left: Mutex<(u64, u64)>,
    more: Notify,
}

impl Credit {
    pub(crate) fn new(messages: u64, bytes: u64) -> Credit {
        Credit {
            left: Mutex::new((messages, bytes)),
            more: Notify::new(),
        }
    }

    /// Without bound: the transport's flow control is all there is.
    pub(crate) fn unbounded() -> Credit {
        Credit::new(u64::MAX, u64::MAX)
    }

    pub(crate) fn add(&self, messages: u64, bytes: u64) {
        let mut left = self.left.lock();
        left.0 = left.0.saturating_add(messages);
        left.1 = left.1.saturating_add(bytes);
        self.more.notify_one();
    }

    fn take(&self, messages: u64, bytes: u64) {
        let mut left = self.left.lock();
        left.0 = left.0.saturating_sub(messages);
        left.1 = left.1.saturating_sub(bytes);
    }

    /// Waits until there is some of both.
    async fn some(&self) -> (u64, u64) {
        loop {
            let left = *self.left.lock();
            if left.0 > 0 && left.1 > 0 {
                return left;
            }
            self.more.notified().await;
        }
    }
}

struct Lane {
    cursor: Cursor,
    until: Option<u64>,
    told: bool,
    done: bool,
}

/// A read in progress.
pub(crate) struct ReadSession {
    services: Arc<Services>,
    traffic: Arc<Traffic>,
    lanes: Vec<Lane>,
    turn: usize,
    wake: Arc<Notify>,
    credit: Arc<Credit>,
    left: Option<u64>,
    raw: bool,
}

impl ReadSession {
    /// Finds the places in every partition.
    ///
    /// # Errors
    /// If the topic, a partition or an offset does not exist.
    pub(crate) async fn open(
        services: Arc<Services>,
        spec: ReadSpec,
        credit: Arc<Credit>,
    ) -> Result<(ReadSession, Vec<Range>), Refusal> {
        let live = services.topics.get(&spec.topic)?;
        let mut numbers = spec.partitions.clone();
        if numbers.is_empty() {
            numbers = (0..live.partitions.len() as u32).collect();
        }
        numbers.sort_unstable();
        numbers.dedup();
        if spec.follow && matches!(spec.until, Some(Place::Time(_))) {
            let why = "a time can be the end of a read that does not follow";
            return Err(Refusal::invalid("until", why));
        }
        let wake = Arc::new(Notify::new());
        let (mut lanes, mut ranges) = (Vec::new(), Vec::new());
        for number in numbers {
            let partition = live.partition(number)?;
            // The end first: what is published in between is not part of a bounded read.
            let until = until_of(partition, &spec).await?;
            let start = if spec.follow {
                Place::End
            } else {
                Place::Start
            };
            let from = partition.offset_of(spec.from.unwrap_or(start)).await?;
            let cursor = partition.cursor(from);
            cursor.register(&wake);
            ranges.push(Range {
                partition: number,
                from,
                until,
            });
            lanes.push(Lane {
                cursor,
                until,
                told: false,
                done: false,
            });
        }
        let left = spec.max_messages;
        let raw = spec.raw;
        Ok((
            ReadSession {
                services,
                traffic: live.traffic.clone(),
                lanes,
                turn: 0,
                wake,
                credit,
                left,
                raw,
            },
            ranges,
        ))
    }

    /// The next thing to tell; `None` at the end.
    ///
    /// # Errors
    /// Where a partition cannot be read on; the session is over then.
    pub(crate) async fn next(&mut self) -> Result<Option<Event>, Refusal> {
        loop {
            if self.left == Some(0) || self.lanes.iter().all(|lane| lane.done) {
                return Ok(None);
            }
            let credit = self.credit.some().await;
            for _ in 0..self.lanes.len() {
                self.turn = (self.turn + 1) % self.lanes.len();
                if let Some(event) = self.step(credit).await? {
                    return Ok(Some(event));
                }
            }
            self.wake.notified().await;
        }
    }

    /// One turn of one lane.
    async fn step(&mut self, credit: (u64, u64)) -> Result<Option<Event>, Refusal> {
        let messages = credit.0.min(self.left.unwrap_or(u64::MAX));
        let bytes = usize::try_from(credit.1)
            .unwrap_or(usize::MAX)
            .min(READ_CHUNK_BYTES);
        let lane = &mut self.lanes[self.turn];
        if lane.done {
            return Ok(None);
        }
        let Some(chunk) = lane.cursor.read(lane.until, bytes).await? else {
            return Ok(lane.caught_up());
        };
        lane.told = false;
        let (event, count, bytes) = if self.raw {
            lane.batches(chunk, messages)
        } else {
            lane.records(chunk, messages).await?
        };
        self.credit.take(count, bytes);
        self.left = self.left.map(|left| left.saturating_sub(count));
        self.services.stats.sent(&self.traffic, count, bytes);
        Ok(event)
    }
}

/// Where the lane ends: a place, or without following the end as of now.
async fn until_of(
    partition: &crate::partition::Partition,
    spec: &ReadSpec,
) -> Result<Option<u64>, Refusal> {
    let end = partition.shared().high_watermark();
    match spec.until {
        None if spec.follow => Ok(None),
        None => Ok(Some(end)),
        Some(Place::Offset(offset)) if spec.follow => Ok(Some(offset)),
        Some(Place::Offset(offset)) => Ok(Some(offset.min(end))),
        Some(place) => partition.offset_of(place).await.map(Some),
    }
}

impl Lane {
    /// Says once that there is nothing more, for now or for good.
    fn caught_up(&mut self) -> Option<Event> {
        let next = self.cursor.next();
        self.done = self.until.is_some_and(|until| next >= until);
        if self.told && !self.done {
            return None;
        }
        self.told = true;
        Some(Event::CaughtUp {
            partition: self.cursor.partition(),
            next,
            done: self.done,
        })
    }

    /// Whole batches, at least one, until `messages` are reached.
    fn batches(&mut self, chunk: Chunk, messages: u64) -> (Option<Event>, u64, u64) {
        let (mut count, mut bytes, mut next) = (0, 0, chunk.from);
        let mut batches = Vec::with_capacity(chunk.batches.len());
        for batch in chunk.batches {
            if count >= messages {
                break;
            }
            let Ok(header) = BatchHeader::read(&batch) else {
                break;
            };
            let base = header.base_offset.unsigned_abs();
            let end = base + u64::from(header.last_offset_delta.unsigned_abs()) + 1;
            count += end - base.max(next);
            bytes += batch.len() as u64;
            next = end;
            batches.push(batch);
        }
        self.cursor.go_to(next);
        let (partition, high_watermark) = (self.cursor.partition(), self.cursor.high_watermark());
        (
            Some(Event::Batches {
                partition,
                batches,
                high_watermark,
            }),
            count,
            bytes,
        )
    }

    /// Decoded records between the cursor and the end, at most `messages`.
    async fn records(
        &mut self,
        chunk: Chunk,
        messages: u64,
    ) -> Result<(Option<Event>, u64, u64), Refusal> {
        let until = self.until.unwrap_or(u64::MAX).min(chunk.next);
        let wanted = chunk.from..until.min(chunk.from.saturating_add(messages));
        let next = wanted.end;
        let partition = self.cursor.partition();
        let from = chunk.from;
        let compressed = chunk.batches.iter().any(|batch| is_compressed(batch));
        let decoded = if compressed {
            let decoding = tokio::task::spawn_blocking(move || decode(chunk.batches, wanted));
            decoding
                .await
                .unwrap_or_else(|error| Err(error.to_string()))
        } else {
            decode(chunk.batches, wanted)
        };
        let records = decoded.map_err(|why| Refusal::Damaged {
            partition,
            offset: from,
            file: "the stored batch".into(),
            position: 0,
            why,
        })?;
        self.cursor.go_to(next);
        let bytes = records.iter().map(record_bytes).sum();
        let count = records.len() as u64;
        Ok((Some(Event::Records { partition, records }), count, bytes))
    }
}

fn is_compressed(batch: &[u8]) -> bool {
    BatchHeader::read(batch)
        .and_then(|header| header.compression())
        .ok()
        != Some(Compression::None)
}

/// The records of these batches whose offsets lie in `wanted`.
pub(crate) fn decode(
    batches: Vec<Bytes>,
    wanted: std::ops::Range<u64>,
) -> Result<Vec<Record>, String> {
    let mut records = Vec::new();
    for batch in batches {
        let batch = Batch::check(batch).map_err(|error| error.to_string())?;
        let all = batch
            .records(MAX_DECOMPRESSED_BYTES)
            .map_err(|error| error.to_string())?;
        for record in all {
            let record = record.map_err(|error| error.to_string())?;
            if wanted.contains(&record.offset) {
                records.push(record);
            }
        }
    }
    Ok(records)
}

fn record_bytes(record: &Record) -> u64 {
    let headers: usize = record
        .headers
        .iter()
        .map(|header| header.name.len() + header.value.as_ref().map_or(0, Bytes::len))
        .sum();
    let key = record.key.as_ref().map_or(0, Bytes::len);
    (headers + key + record.value.as_ref().map_or(0, Bytes::len)) as u64
}

impl Services {
    /// The one message at an offset.
    ///
    /// # Errors
    /// If there is none, or it cannot be read.
    pub(crate) async fn message_at(
        &self,
        topic: &str,
        number: u32,
        offset: u64,
    ) -> Result<Record, Refusal> {
        let live = self.topics.get(topic)?;
        let partition = live.partition(number)?;
        let mut cursor = partition.cursor(partition.offset_of(Place::Offset(offset)).await?);
        let missing = Refusal::MessageNotFound {
            partition: number,
            offset,
        };
        let Some(chunk) = cursor.read(Some(offset + 1), 1).await? else {
            return Err(missing);
        };
        let decoding =
            tokio::task::spawn_blocking(move || decode(chunk.batches, offset..offset + 1));
        let decoded = decoding
            .await
            .unwrap_or_else(|error| Err(error.to_string()));
        decoded
            .ok()
            .and_then(|records| records.into_iter().next())
            .ok_or(missing)
    }
}
