//! What is published of a log: its segments with their ends, its pointers, its words.
//!
//! Held under a lock of moments: nothing here writes, syncs or waits. It must never know the
//! engine, the journal, or who reads.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use super::Damage;
use crate::entry::EntryId;
use crate::pool::SegmentFile;
use crate::segment::{Sealed, Segment};
use crate::state_file::{Cut, Words};

/// Positions of the newest entries that are remembered exactly.
pub(crate) const RECENT: usize = 128;

/// A segment as part of the log, with its published end.
#[derive(Clone)]
pub(crate) struct Part {
    pub(crate) segment: Arc<Segment>,
    pub(crate) end: u64,
    pub(crate) max_timestamp: i64,
}

impl Part {
    pub(crate) fn first_index(&self) -> u64 {
        self.segment.header.first_index
    }

    pub(crate) fn sealed(&self) -> Sealed {
        let salt = self.segment.header.salt;
        Sealed {
            salt,
            end: self.end,
            max_timestamp: self.max_timestamp,
        }
    }
}

/// Where a recent entry stands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Recent {
    pub(crate) index: u64,
    pub(crate) offset: u64,
    pub(crate) position: u64,
    pub(crate) salt: u64,
}

/// What is published of a log.
#[derive(Default)]
pub(crate) struct View {
    pub(crate) parts: Vec<Part>,
    pub(crate) last: Option<EntryId>,
    pub(crate) next_offset: u64,
    pub(crate) synced: Option<u64>,
    pub(crate) words: Words,
    /// The words as far as they are durable: what a drain may write down.
    pub(crate) durable: Arc<Words>,
    /// The file of the next segment, still in the pool's directory.
    pub(crate) next: Option<Arc<SegmentFile>>,
    pub(crate) preparing: bool,
    pub(crate) reserved: u64,
    /// The next append begins a new segment if there is space for one.
    pub(crate) roll: bool,
    /// The next append must begin a new segment: bytes after the end may not be overwritten.
    pub(crate) cut_here: bool,
    pub(crate) recent: VecDeque<Recent>,
    pub(crate) damage: Vec<Damage>,
    /// Index and offset at which the log began, where its first segments are missing.
    pub(crate) missing_front: Option<(u64, u64)>,
    /// The end of the log is damaged, and nothing says how much was there.
    pub(crate) end_lost: bool,
    /// Set by recovery: the log can be read but not continued.
    pub(crate) read_only: bool,
    pub(crate) waiting_checkpoints: BTreeMap<u64, (EntryId, Bytes)>,
    /// First index after each checkpoint that has a file.
    pub(crate) checkpoints: BTreeSet<u64>,
    pub(crate) retiring: Vec<Arc<Segment>>,
}

impl View {
    /// First index that is (or would be) held.
    pub(crate) fn first_index(&self) -> u64 {
        match self.words.purged {
            Some(purged) => purged.index + 1,
            None => match self.missing_front {
                Some((index, _)) => index,
                None => self.parts.first().map_or(0, Part::first_index),
            },
        }
    }

    /// First offset that is held; the next one if there is none.
    pub(crate) fn first_offset(&self) -> u64 {
        match (self.words.purged, self.missing_front, self.parts.first()) {
            (Some(_), ..) => self.words.first_offset,
            (None, Some((_, offset)), _) => offset,
            (None, None, Some(part)) => part.segment.header.base_offset,
            (None, None, None) => self.next_offset,
        }
    }

    /// The part that holds (or would hold) an index.
    pub(crate) fn part_of(&self, index: u64) -> Option<usize> {
        self.parts
            .partition_point(|part| part.first_index() <= index)
            .checked_sub(1)
    }

    /// Puts a cut into the words. From now on nothing after it counts as durable, and completions
    /// of earlier appends say nothing any more (their generation is over).
    pub(crate) fn cut_words(&mut self, cut: Cut) {
        self.words.generation += 1;
        self.words.cut = Some(cut);
        let keep = cut.keep.map(|keep| keep.index);
        self.synced = self.synced.min(keep);
    }
}
