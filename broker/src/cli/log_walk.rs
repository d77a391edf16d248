//! Reading a whole log entry by entry, past whatever is damaged.
//!
//! Promises: every entry that storage can read is given to the visitor, in order of its index;
//! every place that cannot be read is reported once, with its file and position.

use std::io;

use aqueduct_proto::batch::{Batch, BatchError, BatchHeader};
use aqueduct_storage::{Damage, Entry, Error, Kind, Log};

/// Bytes of entries that are read at once.
const READ_BYTES: usize = 4 << 20;
/// Bytes that one batch may decompress to.
const MAX_DECOMPRESSED: usize = 128 << 20;
/// Entries behind a damaged one that are tried one by one: those after it can be found only from
/// the next place that the sparse index knows.
const PROBES: u64 = 1000;

/// Gives every readable entry to `visit`, in order; returns what is damaged.
pub(super) fn walk(
    log: &Log,
    mut visit: impl FnMut(&Entry) -> Result<(), WalkError>,
) -> anyhow::Result<Vec<Damage>> {
    let mut problems: Vec<Damage> = Vec::new();
    let end = log.last_id().map_or(0, |last| last.index + 1);
    let mut index = log.first_index();
    let mut next_offset = log.first_offset();
    let mut at_once = READ_BYTES;
    while index < end {
        let entries = match log.read_entries(index..end, at_once) {
            Ok(entries) => entries,
            // Something in there is damaged: what lies before it is read one by one.
            Err(Error::Corrupt { .. }) if at_once > 1 => {
                at_once = 1;
                continue;
            }
            Err(Error::Corrupt {
                file,
                position,
                why,
            }) => {
                let next = readable_after(log, index, end);
                problems.push(Damage {
                    first_index: index,
                    last_index: next.map(|next| next - 1),
                    base_offset: next_offset,
                    file,
                    position,
                    why,
                });
                index = next.unwrap_or(end);
                at_once = READ_BYTES;
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        let Some(last) = entries.last() else { break };
        index = last.id.index + 1;
        next_offset = offset_after(last);
        for entry in &entries {
            match visit(entry) {
                Ok(()) => {}
                Err(WalkError::Output(error)) => return Err(error.into()),
                Err(WalkError::Content(why)) => problems.push(content_problem(log, entry, why)),
            }
        }
    }
    for known in log.damage() {
        if !problems
            .iter()
            .any(|it| it.file == known.file && it.position == known.position)
        {
            problems.push(known);
        }
    }
    problems.sort_by_key(|problem| problem.first_index);
    Ok(problems)
}

/// Why an entry was not taken.
pub(super) enum WalkError {
    /// Nobody takes the output.
    Output(io::Error),
    /// The entry is whole, but what is in it is not.
    Content(String),
}

/// The first index behind a damaged one that can be read: one of the next, where the damage found by
/// recovery ends, or where a segment begins.
fn readable_after(log: &Log, index: u64, end: u64) -> Option<u64> {
    let damage = log.damage();
    let known = damage
        .iter()
        .filter_map(|it| it.last_index)
        .map(|last| last + 1);
    let segments = log.segments();
    let begins = segments.iter().map(|segment| segment.first_index);
    let mut candidates: Vec<u64> = known
        .chain(begins)
        .chain(index + 1..index + PROBES)
        .collect();
    candidates.retain(|next| (index + 1..end).contains(next));
    candidates.sort_unstable();
    candidates
        .into_iter()
        .find(|next| log.read_entries(*next..end, 1).is_ok())
}

/// The offset that follows an entry.
fn offset_after(entry: &Entry) -> u64 {
    let header = BatchHeader::read(&entry.payload)
        .ok()
        .filter(|_| entry.kind == Kind::Batch);
    let delta = header.and_then(|header| u64::try_from(header.last_offset_delta).ok());
    entry.base_offset + delta.map_or(0, |delta| delta + 1)
}

fn content_problem(log: &Log, entry: &Entry, why: String) -> Damage {
    let segments = log.segments();
    let holding = segments
        .iter()
        .rev()
        .find(|segment| segment.first_index <= entry.id.index);
    let first = holding.map_or(0, |segment| segment.first_index);
    Damage {
        first_index: entry.id.index,
        last_index: Some(entry.id.index),
        base_offset: entry.base_offset,
        file: format!("logs/{}/{first:020}.seg", log.id()),
        position: 0,
        why,
    }
}

/// Number of records of an entry, each of them decoded.
pub(super) fn records(entry: &Entry) -> Result<u64, WalkError> {
    if entry.kind != Kind::Batch {
        return Ok(0);
    }
    let content = |error: BatchError| WalkError::Content(error.to_string());
    let batch = Batch::check(entry.payload.clone()).map_err(content)?;
    let mut count = 0;
    for record in batch.records(MAX_DECOMPRESSED).map_err(content)? {
        record.map_err(content)?;
        count += 1;
    }
    Ok(count)
}
