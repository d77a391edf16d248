//! A lane: one partition on its way to one reader. Readers without a group and members of
//! groups are made of lanes.
//!
//! A lane delivers stored batches as they lie, or decoded records, never more than its reader's
//! credit allows (a whole batch may go over it), and says once when it has caught up. It must
//! never know who reads, or why from here.

use aqueduct_proto::{
    batch::{Batch, BatchHeader},
    compression::Compression,
    record::{Header, Record},
};
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::{
    error::Refusal,
    limits::{MAX_DECOMPRESSED_BYTES, READ_CHUNK_BYTES},
    partition::{Chunk, Cursor},
};

/// What a lane yields.
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

/// How much may still be sent: given by the reader, taken by the session. A batch that goes over
/// it is owed: what the reader gives next pays for that first.
pub(crate) struct Credit {
    left: Mutex<(i64, i64)>,
    more: Notify,
}

impl Credit {
    pub(crate) fn new(messages: u64, bytes: u64) -> Credit {
        Credit {
            left: Mutex::new((signed(messages), signed(bytes))),
            more: Notify::new(),
        }
    }

    /// Without bound: the transport's flow control is all there is.
    pub(crate) fn unbounded() -> Credit {
        Credit::new(u64::MAX, u64::MAX)
    }

    pub(crate) fn add(&self, messages: u64, bytes: u64) {
        let mut left = self.left.lock();
        left.0 = left.0.saturating_add(signed(messages));
        left.1 = left.1.saturating_add(signed(bytes));
        self.more.notify_one();
    }

    pub(crate) fn take(&self, messages: u64, bytes: u64) {
        let mut left = self.left.lock();
        left.0 = left.0.saturating_sub(signed(messages));
        left.1 = left.1.saturating_sub(signed(bytes));
    }

    /// What is left, if there is some of both.
    pub(crate) fn now(&self) -> Option<(u64, u64)> {
        let left = *self.left.lock();
        let some = left.0 > 0 && left.1 > 0;
        some.then_some((left.0.unsigned_abs(), left.1.unsigned_abs()))
    }

    /// Waits until there is some of both.
    pub(crate) async fn some(&self) -> (u64, u64) {
        loop {
            if let Some(left) = self.now() {
                return left;
            }
            self.more.notified().await;
        }
    }
}

fn signed(amount: u64) -> i64 {
    i64::try_from(amount).unwrap_or(i64::MAX)
}

/// What one step of a lane delivers.
pub(crate) struct Step {
    pub(crate) event: Event,
    pub(crate) messages: u64,
    pub(crate) bytes: u64,
}

/// One partition, from a place to a place.
pub(crate) struct Lane {
    cursor: Cursor,
    until: Option<u64>,
    told: bool,
    done: bool,
}

impl Lane {
    /// From the cursor on, up to `until` (exclusive) if given.
    pub(crate) fn new(cursor: Cursor, until: Option<u64>) -> Lane {
        Lane {
            cursor,
            until,
            told: false,
            done: false,
        }
    }

    pub(crate) fn partition(&self) -> u32 {
        self.cursor.partition()
    }

    /// The offset that comes next.
    pub(crate) fn next(&self) -> u64 {
        self.cursor.next()
    }

    /// Goes back to an offset that it delivered before.
    pub(crate) fn go_back(&mut self, offset: u64) {
        self.cursor.go_to(offset);
        self.told = false;
    }

    /// Nothing more will come.
    pub(crate) fn is_done(&self) -> bool {
        self.done
    }

    /// One turn: `None` if there is nothing to say now.
    ///
    /// # Errors
    /// Where the partition cannot be read on.
    pub(crate) async fn step(
        &mut self,
        raw: bool,
        credit: (u64, u64),
    ) -> Result<Option<Step>, Refusal> {
        if self.done {
            return Ok(None);
        }
        let bytes = usize::try_from(credit.1)
            .unwrap_or(usize::MAX)
            .min(READ_CHUNK_BYTES);
        let Some(chunk) = self.cursor.read(self.until, bytes).await? else {
            return Ok(self.caught_up());
        };
        self.told = false;
        if raw {
            Ok(Some(self.batches(chunk, credit.0)))
        } else {
            self.records(chunk, credit).await.map(Some)
        }
    }

    /// Says once that there is nothing more, for now or for good.
    fn caught_up(&mut self) -> Option<Step> {
        let next = self.cursor.next();
        self.done = self.until.is_some_and(|until| next >= until);
        if self.told && !self.done {
            return None;
        }
        self.told = true;
        Some(Step {
            event: Event::CaughtUp {
                partition: self.cursor.partition(),
                next,
                done: self.done,
            },
            messages: 0,
            bytes: 0,
        })
    }

    /// Whole batches, at least one, until `messages` are reached.
    fn batches(&mut self, chunk: Chunk, messages: u64) -> Step {
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
        Step {
            event: Event::Batches {
                partition,
                batches,
                high_watermark,
            },
            messages: count,
            bytes,
        }
    }

    /// Decoded records between the cursor and the end, within the credit but at least one.
    async fn records(&mut self, chunk: Chunk, credit: (u64, u64)) -> Result<Step, Refusal> {
        let messages = credit.0;
        let until = self.until.unwrap_or(u64::MAX).min(chunk.next);
        let wanted = chunk.from..until.min(chunk.from.saturating_add(messages));
        let end = wanted.end;
        let partition = self.cursor.partition();
        let from = chunk.from;
        let compressed = chunk.batches.iter().any(|batch| is_compressed(batch));
        let decoded = if compressed {
            let decoding = tokio::task::spawn_blocking(move || decode_some(chunk.batches, wanted));
            decoding
                .await
                .unwrap_or_else(|error| Err(error.to_string()))
        } else {
            decode_some(chunk.batches, wanted)
        };
        let mut records = decoded.map_err(|why| Refusal::Damaged {
            partition,
            offset: from,
            file: "the stored batch".into(),
            position: 0,
            why,
        })?;
        // Offsets have no holes: what was not decoded follows the last record.
        let end = records.last().map_or(end, |last| last.offset + 1);
        let (fit, bytes) = fitting(&records, credit.1);
        let next = records.get(fit).map_or(end, |record| record.offset);
        records.truncate(fit);
        self.cursor.go_to(next);
        let messages = records.len() as u64;
        Ok(Step {
            event: Event::Records { partition, records },
            messages,
            bytes,
        })
    }
}

/// How many records fit into so many bytes (at least one), and what they take.
fn fitting(records: &[Record], limit: u64) -> (usize, u64) {
    let mut taken = 0;
    for (count, record) in records.iter().enumerate() {
        let bytes = record_bytes(record);
        if count > 0 && taken + bytes > limit {
            return (count, taken);
        }
        taken += bytes;
    }
    (records.len(), taken)
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
    decode_up_to(batches, wanted, u64::MAX)
}

/// Memory that records of compressed batches may take, once they are decoded.
const DECOMPRESSED_WINDOW: u64 = 4 << 20;

/// The first of these records from an offset on, in bounded memory. Compressed batches are
/// decoded on another thread, and their records keep nothing of them alive.
pub(crate) async fn decode_from(batches: Vec<Bytes>, from: u64) -> Result<Vec<Record>, String> {
    let wanted = from..u64::MAX;
    if !batches.iter().any(|batch| is_compressed(batch)) {
        return decode_some(batches, wanted);
    }
    let decoding = tokio::task::spawn_blocking(move || {
        let records = decode_up_to(batches, wanted, DECOMPRESSED_WINDOW)?;
        Ok(records.into_iter().map(detached).collect())
    });
    decoding
        .await
        .unwrap_or_else(|error| Err(error.to_string()))
}

/// The same record in memory of its own.
pub(crate) fn detached(mut record: Record) -> Record {
    let copy = |bytes: &Bytes| Bytes::copy_from_slice(bytes);
    record.key = record.key.as_ref().map(copy);
    record.value = record.value.as_ref().map(copy);
    for header in &mut record.headers {
        header.name = copy(&header.name);
        header.value = header.value.as_ref().map(copy);
    }
    record
}

/// The first of these records, until they take about [`READ_CHUNK_BYTES`] of memory: what is
/// small compressed may be large, and an empty record costs more than its bytes.
pub(crate) fn decode_some(
    batches: Vec<Bytes>,
    wanted: std::ops::Range<u64>,
) -> Result<Vec<Record>, String> {
    decode_up_to(batches, wanted, READ_CHUNK_BYTES as u64)
}

fn decode_up_to(
    batches: Vec<Bytes>,
    wanted: std::ops::Range<u64>,
    memory: u64,
) -> Result<Vec<Record>, String> {
    let (mut records, mut taken) = (Vec::new(), 0);
    for batch in batches {
        let batch = Batch::check(batch).map_err(|error| error.to_string())?;
        let all = batch
            .records(MAX_DECOMPRESSED_BYTES)
            .map_err(|error| error.to_string())?;
        for record in all {
            let record = record.map_err(|error| error.to_string())?;
            if record.offset >= wanted.end || taken >= memory {
                return Ok(records);
            }
            if wanted.contains(&record.offset) {
                let headers = record.headers.len() * size_of::<Header>();
                taken += record_bytes(&record) + (size_of::<Record>() + headers) as u64;
                records.push(record);
            }
        }
    }
    Ok(records)
}

/// Bytes of key, value and headers.
pub(crate) fn record_bytes(record: &Record) -> u64 {
    let headers: usize = record
        .headers
        .iter()
        .map(|header| header.name.len() + header.value.as_ref().map_or(0, Bytes::len))
        .sum();
    let key = record.key.as_ref().map_or(0, Bytes::len);
    (headers + key + record.value.as_ref().map_or(0, Bytes::len)) as u64
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use aqueduct_proto::record::BatchBuilder;

    use super::*;

    fn empty_records(count: usize, headers: usize) -> Bytes {
        let headers = vec![Header::new("", ""); headers];
        let mut builder = BatchBuilder::new(Compression::Zstd);
        for _ in 0..count {
            builder.push(0, None, None, &headers);
        }
        builder.finish().unwrap()
    }

    #[test]
    fn decoding_stops_when_the_records_take_enough_memory() {
        let batch = empty_records(50_000, 2);
        assert!(batch.len() < 32 << 10, "{} bytes", batch.len());
        let some = decode_some(vec![batch.clone(); 4], 7..40_000).unwrap();
        assert_eq!(some.first().unwrap().offset, 7);
        assert!((100..4_000).contains(&some.len()), "{} records", some.len());
        let heavy = decode_some(vec![empty_records(100, 1_000)], 0..100).unwrap();
        assert!(heavy.len() < 10, "{} records", heavy.len());
        let all = decode(vec![batch], 7..40_000).unwrap();
        assert_eq!(all.len(), 40_000 - 7);
    }
}
