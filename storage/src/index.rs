//! The sparse index of a segment: every 16 KiB, which index, offset and time stand at a position.
//!
//! It is a hint: every position is checked by decoding the entry that stands there, and an index
//! that is missing or damaged is built again from the segment. Deleting every `.idx` file loses
//! nothing. What lives here must never know: logs, the disk.
//!
//! File `<first index>.idx`, little endian: magic `AQDIDX01`, checksum of the rest (u32), number of
//! points (u32), salt of the segment (u64), end (u64); then per point index, offset, position,
//! latest timestamp before it (8 bytes each).

use std::sync::Arc;

use aqueduct_proto::crc::crc32c;

use crate::entry::{u32_at, u64_at};
use crate::segment::NO_TIMESTAMP;

/// Bytes between two points.
const SPACING: u64 = 16 << 10;
const MAGIC: &[u8; 8] = b"AQDIDX01";
const HEAD: usize = 32;
const POINT: usize = 32;

/// One point of the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Point {
    pub(crate) index: u64,
    /// Next offset before the entry here.
    pub(crate) offset: u64,
    pub(crate) position: u64,
    /// Latest timestamp of all batches of the segment before this position.
    pub(crate) max_timestamp: i64,
}

/// The points of one segment, from `from` up to `end`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SparseIndex {
    points: Vec<Point>,
    end: u64,
    max_timestamp: i64,
    /// Index after the last entry; 0 if none was noted (or if the index comes from a file).
    next_index: u64,
}

impl SparseIndex {
    pub(crate) fn new(from: u64) -> SparseIndex {
        SparseIndex {
            points: Vec::new(),
            end: from,
            max_timestamp: NO_TIMESTAMP,
            next_index: 0,
        }
    }

    /// Leaves a hole: the next entry stands at this position.
    pub(crate) fn skip_to(&mut self, position: u64) {
        self.end = position;
    }

    /// Index after the last entry that was noted.
    pub(crate) fn next_index(&self) -> Option<u64> {
        (self.next_index > 0).then_some(self.next_index)
    }

    /// Latest timestamp of all batches.
    pub(crate) fn max_timestamp(&self) -> i64 {
        self.max_timestamp
    }

    /// Notes an entry that stands at the end.
    pub(crate) fn push(&mut self, index: u64, offset: u64, len: u64, max_timestamp: i64) {
        let position = self.end;
        if self
            .points
            .last()
            .is_none_or(|last| position - last.position >= SPACING)
        {
            self.points.push(Point {
                index,
                offset,
                position,
                max_timestamp: self.max_timestamp,
            });
        }
        self.end += len;
        self.next_index = index + 1;
        self.max_timestamp = self.max_timestamp.max(max_timestamp);
    }

    /// The last point whose key is not above what is looked for.
    fn last_where(&self, holds: impl Fn(&Point) -> bool) -> Option<Point> {
        let at = self.points.partition_point(holds);
        at.checked_sub(1).map(|at| self.points[at])
    }

    pub(crate) fn by_index(&self, index: u64) -> Option<Point> {
        self.last_where(|point| point.index <= index)
    }

    pub(crate) fn by_offset(&self, offset: u64) -> Option<Point> {
        self.last_where(|point| point.offset <= offset)
    }

    /// Where to begin looking for the first batch at or after a time.
    pub(crate) fn by_timestamp(&self, timestamp: i64) -> Option<Point> {
        self.last_where(|point| point.max_timestamp < timestamp)
    }

    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    pub(crate) fn encode(&self, salt: u64) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEAD + self.points.len() * POINT);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&(self.points.len() as u32).to_le_bytes());
        out.extend_from_slice(&salt.to_le_bytes());
        out.extend_from_slice(&self.end.to_le_bytes());
        for point in &self.points {
            out.extend_from_slice(&point.index.to_le_bytes());
            out.extend_from_slice(&point.offset.to_le_bytes());
            out.extend_from_slice(&point.position.to_le_bytes());
            out.extend_from_slice(&point.max_timestamp.to_le_bytes());
        }
        out.extend_from_slice(&self.max_timestamp.to_le_bytes());
        let crc = crc32c(&out[12..]);
        out[8..12].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// The index of the segment with this salt; `None` for anything else.
    pub(crate) fn decode(bytes: &[u8], salt: u64) -> Option<SparseIndex> {
        if bytes.len() < HEAD + 8 || bytes[..8] != MAGIC[..] || u64_at(bytes, 16) != salt {
            return None;
        }
        let count = u32_at(bytes, 12) as usize;
        if bytes.len() != HEAD + count * POINT + 8 || u32_at(bytes, 8) != crc32c(&bytes[12..]) {
            return None;
        }
        let points = bytes[HEAD..HEAD + count * POINT]
            .chunks_exact(POINT)
            .map(|point| Point {
                index: u64_at(point, 0),
                offset: u64_at(point, 8),
                position: u64_at(point, 16),
                max_timestamp: u64_at(point, 24) as i64,
            });
        Some(SparseIndex {
            points: points.collect(),
            end: u64_at(bytes, 24),
            max_timestamp: u64_at(bytes, bytes.len() - 8) as i64,
            next_index: 0,
        })
    }
}

/// The index of a segment as far as it is in memory.
pub(crate) enum IndexSlot {
    /// Appends are noted; `from` is where it began.
    Growing(SparseIndex),
    /// Not in memory.
    Absent,
    /// Read or built on demand.
    Loaded(Arc<SparseIndex>),
}

impl IndexSlot {
    pub(crate) fn growing(from: u64) -> IndexSlot {
        IndexSlot::Growing(SparseIndex::new(from))
    }
}
