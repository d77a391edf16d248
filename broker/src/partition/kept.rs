//! Messages that are kept aside: the log that held them is gone, and somebody still needs them.
//! Pure.
//!
//! Of a topic with `retain = until-done` the finished part of the log goes. What is not finished
//! in it, if that is little, moves here in the same entry that moves the log's start: the record as a
//! batch of its own, under its old offset. Checkpoints carry it. Queue groups find it here; for
//! everybody else the log begins at its start.
//!
//! Whoever proposes a [`Cut`] has looked at the groups before, so it is judged again when it is
//! applied: a seek or a commit may have come between.

use std::collections::BTreeMap;

use aqueduct_proto::batch::BatchHeader;
use bytes::Bytes;
use prost::Message;

use crate::queue::offsets::Offsets;

/// The log's start moves on, and what is below it is kept aside, or given up.
#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct Cut {
    /// The log begins here.
    #[prost(uint64, tag = "1")]
    pub(crate) before: u64,
    /// Of the messages below that the log still has: those to be kept.
    #[prost(message, repeated, tag = "2")]
    pub(crate) keep: Vec<KeptRecord>,
    /// Messages that were kept until now, and that nobody needs any more.
    #[prost(uint64, repeated, tag = "3")]
    pub(crate) drop: Vec<u64>,
}

/// A message that is kept, also as a checkpoint has it.
#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct KeptRecord {
    #[prost(uint64, tag = "1")]
    pub(crate) offset: u64,
    /// A batch of this one record, with its offset.
    #[prost(bytes = "bytes", tag = "2")]
    pub(crate) batch: Bytes,
}

/// What came of a [`Cut`].
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(crate) struct CutReply {
    /// The log begins where it should.
    #[prost(bool, tag = "1")]
    pub(crate) is_made: bool,
}

/// The messages that are kept, by offset; all lie below the log's start.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Kept {
    batches: BTreeMap<u64, Bytes>,
    /// The keys of `batches`.
    offsets: Offsets,
    bytes: u64,
}

impl Eq for Kept {}

impl Kept {
    pub(crate) fn insert(&mut self, offset: u64, batch: Bytes) {
        self.bytes += batch.len() as u64;
        self.offsets.insert(offset);
        if let Some(before) = self.batches.insert(offset, batch) {
            self.bytes -= before.len() as u64;
        }
    }

    pub(crate) fn remove(&mut self, offset: u64) {
        if let Some(batch) = self.batches.remove(&offset) {
            self.bytes -= batch.len() as u64;
            self.offsets.remove(offset);
        }
    }

    /// Gives up everything below an offset.
    pub(crate) fn remove_below(&mut self, offset: u64) {
        self.batches = self.batches.split_off(&offset);
        self.offsets.remove_range(0..offset);
        self.bytes = self.batches.values().map(|batch| batch.len() as u64).sum();
    }

    pub(crate) fn contains(&self, offset: u64) -> bool {
        self.batches.contains_key(&offset)
    }

    pub(crate) fn offsets(&self) -> &Offsets {
        &self.offsets
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// How many there are, and their bytes.
    pub(crate) fn size(&self) -> (u64, u64) {
        (self.batches.len() as u64, self.bytes)
    }

    /// The first that is kept at or after an offset.
    pub(crate) fn first_from(&self, offset: u64) -> Option<u64> {
        self.batches.range(offset..).next().map(|(first, _)| *first)
    }

    /// The first that is stamped at or after a time, milliseconds since the Unix epoch.
    pub(crate) fn first_stamped(&self, timestamp_ms: i64) -> Option<u64> {
        let mut batches = self.batches.iter();
        let is_later = |batch: &Bytes| {
            let header = BatchHeader::read(batch);
            header.is_ok_and(|header| header.max_timestamp >= timestamp_ms)
        };
        let found = batches.find(|(_, batch)| is_later(batch));
        found.map(|(offset, _)| *offset)
    }

    /// Batches of neighbouring offsets from this one on, at most about so many bytes; nothing
    /// if the first is not kept.
    pub(crate) fn run_from(&self, offset: u64, max_bytes: usize) -> Vec<Bytes> {
        let (mut run, mut left) = (Vec::new(), max_bytes);
        for (expected, (found, batch)) in (offset..).zip(self.batches.range(offset..)) {
            if *found != expected || (batch.len() > left && !run.is_empty()) {
                break;
            }
            left = left.saturating_sub(batch.len());
            run.push(batch.clone());
        }
        run
    }

    /// For a checkpoint.
    pub(crate) fn save(&self) -> Vec<KeptRecord> {
        let batches = self.batches.iter();
        let record = |(offset, batch): (&u64, &Bytes)| KeptRecord {
            offset: *offset,
            batch: batch.clone(),
        };
        batches.map(record).collect()
    }

    /// The inverse of [`Kept::save`].
    pub(crate) fn load(saved: Vec<KeptRecord>) -> Kept {
        let mut kept = Kept::default();
        for KeptRecord { offset, batch } in saved {
            kept.insert(offset, batch);
        }
        kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(offsets: &[u64]) -> Kept {
        let mut kept = Kept::default();
        for offset in offsets {
            kept.insert(*offset, Bytes::from(vec![0; 10]));
        }
        kept
    }

    #[test]
    fn size_and_offsets_follow_what_is_there() {
        let mut some = kept(&[2, 3, 7, 7]);
        assert_eq!(some.size(), (3, 30));
        some.remove(3);
        some.remove(3);
        assert_eq!((some.size(), some.offsets().len()), ((2, 20), 2));
        some.remove_below(7);
        assert_eq!(some, kept(&[7]));
        some.remove_below(8);
        assert!(some.is_empty() && some.size() == (0, 0));
    }

    #[test]
    fn runs_are_neighbours_and_one_at_least() {
        let some = kept(&[2, 3, 4, 6]);
        assert_eq!(some.run_from(2, 1_000).len(), 3);
        assert_eq!(some.run_from(2, 25).len(), 2);
        assert_eq!(some.run_from(3, 1).len(), 1);
        assert_eq!(some.run_from(5, 1_000).len(), 0);
        assert_eq!((some.first_from(5), some.first_from(7)), (Some(6), None));
    }

    #[test]
    fn what_is_saved_comes_back() {
        let some = kept(&[2, 9]);
        assert_eq!(Kept::load(some.save()), some);
    }
}
