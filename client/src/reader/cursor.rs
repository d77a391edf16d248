//! Where reading is in each partition, and which records of a batch are wanted: pure.

use std::collections::{BTreeMap, BTreeSet};

use aqueduct_proto::v1;
use bytes::Bytes;

use super::RawBatches;
use crate::{
    Error, From, Record, Until,
    batches::{self, Span, check},
};

/// `next..until` of one partition is still to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cursor {
    next: u64,
    /// `None`: without end.
    until: Option<u64>,
    caught_up: bool,
    done: bool,
}

impl Cursor {
    fn end(&self) -> u64 {
        self.until.unwrap_or(u64::MAX)
    }
}

/// All partitions that are read.
#[derive(Clone, Debug, Default)]
pub(super) struct Cursors {
    /// `None` until the broker has said what will be read.
    cursors: Option<BTreeMap<u32, Cursor>>,
    /// Found later, and asked for since the last failure: their ranges may be on their way.
    asked: BTreeSet<u32>,
}

impl Cursors {
    /// Takes the ranges of the first call, and of calls for new partitions. Those of other calls
    /// are what was asked for.
    pub(super) fn open(&mut self, ranges: &[v1::ReadRange]) {
        let cursors = self.cursors.get_or_insert_default();
        for range in ranges {
            let done = range.until.is_some_and(|until| range.from >= until);
            cursors.entry(range.partition).or_insert(Cursor {
                next: range.from,
                until: range.until,
                caught_up: done,
                done,
            });
        }
    }

    /// The broker has said what will be read.
    pub(super) fn are_known(&self) -> bool {
        self.cursors.is_some()
    }

    /// Those of so many partitions that are neither read nor asked for.
    pub(super) fn missing(&self, partitions: u32) -> Vec<u32> {
        let is_read = |partition: &u32| {
            let cursors = self.cursors.as_ref();
            cursors.is_some_and(|it| it.contains_key(partition)) || self.asked.contains(partition)
        };
        (0..partitions).filter(|it| !is_read(it)).collect()
    }

    /// There is a call for a partition that was missing.
    pub(super) fn asked_for(&mut self, partition: u32) {
        self.asked.insert(partition);
    }

    /// Notes what the broker says; returns the next offset.
    pub(super) fn caught_up(&mut self, caught_up: &v1::CaughtUp) -> u64 {
        let cursor = self.cursor(caught_up.partition);
        cursor.next = cursor.next.max(caught_up.next_offset);
        cursor.caught_up = true;
        cursor.done |= caught_up.done;
        cursor.next
    }

    pub(super) fn all_caught_up(&self) -> bool {
        let cursors = self.cursors.as_ref();
        cursors.is_some_and(|cursors| cursors.values().all(|cursor| cursor.caught_up))
    }

    pub(super) fn all_done(&self) -> bool {
        let cursors = self.cursors.as_ref();
        cursors.is_some_and(|cursors| cursors.values().all(|cursor| cursor.done))
    }

    pub(super) fn positions(&self) -> impl Iterator<Item = (u32, u64)> + '_ {
        let cursors = self.cursors.iter().flatten();
        cursors.map(|(partition, cursor)| (*partition, cursor.next))
    }

    /// True if this record is wanted; then the next one is wanted after it.
    pub(super) fn pass(&mut self, partition: u32, offset: u64) -> bool {
        let cursor = self.cursor(partition);
        let wanted = offset >= cursor.next && offset < cursor.end();
        if wanted {
            cursor.next = offset.saturating_add(1);
            cursor.done = cursor.until == Some(cursor.next);
        }
        wanted
    }

    /// The wanted records of these batches, at most `left`.
    pub(super) fn decode(
        &mut self,
        partition: u32,
        batches: Vec<Bytes>,
        left: u64,
        max_decompressed: usize,
    ) -> Result<Vec<Record>, Error> {
        let cursor = self.cursor(partition);
        let mut wanted = cursor.next..cursor.end();
        let found = batches::decode(partition, batches, &mut wanted, left, max_decompressed)?;
        cursor.next = wanted.start;
        cursor.caught_up = false;
        cursor.done |= cursor.next >= cursor.end();
        Ok(found)
    }

    /// The batches that hold wanted offsets, at most about `left` of them, unopened.
    pub(super) fn select(
        &mut self,
        partition: u32,
        batches: Vec<Bytes>,
        left: u64,
    ) -> Result<RawBatches, Error> {
        let cursor = self.cursor(partition);
        let from = cursor.next;
        let end = cursor.end().min(from.saturating_add(left));
        let mut selected = Vec::with_capacity(batches.len());
        for bytes in batches {
            let batch = check(partition, bytes)?;
            let span = Span::of(&batch);
            if span.last >= cursor.next && span.first < end {
                cursor.next = (span.last + 1).min(end);
                selected.push(batch.into_bytes());
            }
        }
        cursor.caught_up = false;
        cursor.done |= cursor.next >= cursor.end();
        Ok(RawBatches {
            partition,
            batches: selected,
            from,
            until: cursor.next,
        })
    }

    /// What to ask for after a failure. A partition whose range had not arrived by then is
    /// missing again.
    pub(super) fn requests(&mut self, first: &v1::ReadRequest, left: u64) -> Vec<v1::ReadRequest> {
        self.asked.clear();
        let max_messages = if left == u64::MAX { 0 } else { left };
        let Some(cursors) = &self.cursors else {
            return vec![v1::ReadRequest {
                max_messages,
                ..first.clone()
            }];
        };
        let open = cursors.iter().filter(|(_, cursor)| !cursor.done);
        let request = |(partition, cursor): (&u32, &Cursor)| v1::ReadRequest {
            partitions: vec![*partition],
            from: Some(From::Offset(cursor.next).into_proto()),
            until: cursor.until.map(|until| Until::Offset(until).into_proto()),
            max_messages,
            ..first.clone()
        };
        open.map(request).collect()
    }

    /// A partition that was not announced is read from wherever it comes.
    fn cursor(&mut self, partition: u32) -> &mut Cursor {
        let cursors = self.cursors.get_or_insert_default();
        let new = Cursor {
            next: 0,
            until: None,
            caught_up: false,
            done: false,
        };
        cursors.entry(partition).or_insert(new)
    }
}

#[cfg(test)]
mod tests;
