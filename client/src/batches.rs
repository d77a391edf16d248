//! Cutting wanted records out of stored batches: pure.
//!
//! Promises: each wanted record once and in order; a batch that arrived damaged is an error that
//! names its place.

use std::ops::Range;

use aqueduct_proto::batch::{Batch, BatchHeader};
use bytes::Bytes;

use crate::{Error, Record};

/// Fewest bytes of an encoded record: bounds what a batch's count may reserve.
const SMALLEST_RECORD: usize = 7;

/// First and last offset of a batch.
pub(crate) struct Span {
    pub(crate) first: u64,
    pub(crate) last: u64,
}

impl Span {
    pub(crate) fn of(batch: &Batch) -> Self {
        Self::from_header(batch.header())
    }

    fn from_header(header: &BatchHeader) -> Self {
        let first = u64::try_from(header.base_offset).unwrap_or(0);
        let more = u64::try_from(header.last_offset_delta).unwrap_or(0);
        Self {
            first,
            last: first.saturating_add(more),
        }
    }
}

/// Checks a batch that arrived.
pub(crate) fn check(partition: u32, bytes: Bytes) -> Result<Batch, Error> {
    Batch::check(bytes).map_err(|error| {
        Error::data_loss(format!(
            "a batch of partition {partition} arrived damaged: {error}"
        ))
    })
}

/// How many offsets from `next` on these batches hold, by their headers alone; `next` moves
/// behind them. It is how the broker counts credit.
pub(crate) fn count(batches: &[Bytes], next: &mut u64) -> u64 {
    let mut count = 0;
    for bytes in batches {
        let Ok(header) = BatchHeader::read(bytes) else {
            continue;
        };
        let end = Span::from_header(&header).last.saturating_add(1);
        count += end.saturating_sub(*next);
        *next = end.max(*next);
    }
    count
}

/// The records of these batches whose offsets are in `wanted`, at most `left`; `wanted` then
/// begins at what comes next.
pub(crate) fn decode(
    partition: u32,
    batches: Vec<Bytes>,
    wanted: &mut Range<u64>,
    left: u64,
    max_decompressed: usize,
) -> Result<Vec<Record>, Error> {
    let room = batches.iter().map(Bytes::len).sum::<usize>() / SMALLEST_RECORD;
    let mut found: Vec<Record> = Vec::new();
    let mut left = usize::try_from(left).unwrap_or(usize::MAX);
    for bytes in batches {
        let batch = check(partition, bytes)?;
        let span = Span::of(&batch);
        if span.last < wanted.start || left == 0 {
            continue;
        }
        if span.first >= wanted.end {
            break;
        }
        let count = usize::try_from(batch.count()).unwrap_or(usize::MAX);
        found.reserve(count.min(room).min(left));
        let records = batch.records(max_decompressed);
        for record in records.map_err(|error| damaged(partition, span.first, &error))? {
            let record = record.map_err(|error| damaged(partition, span.first, &error))?;
            if wanted.contains(&record.offset) && left > 0 {
                left -= 1;
                wanted.start = record.offset.saturating_add(1);
                found.push(Record::from_stored(partition, record));
            }
        }
        if left > 0 {
            wanted.start = wanted.start.max((span.last + 1).min(wanted.end));
        }
    }
    Ok(found)
}

fn damaged(partition: u32, offset: u64, error: &dyn std::fmt::Display) -> Error {
    Error::data_loss(format!(
        "the batch at {partition}:{offset} cannot be read: {error}"
    ))
}
