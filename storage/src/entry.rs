//! Entries: what a log holds, and the 48-byte header that goes before each of them on disk.
//!
//! What is promised: a header decodes only at the position and in the use of the file it was
//! written for (its checksum covers the file's salt and the position), so stale bytes of a recycled
//! file and zeros never parse. What this file must never know: files, segments, the journal.
//!
//! | Bytes | Field | |
//! |---|---|---|
//! | 0..4 | checksum | CRC-32C over salt (8 bytes), position (8 bytes) and bytes 4..48 |
//! | 4..8 | payload length | bytes after the header |
//! | 8 | kind and version | low half: kind 1..=4, high half: version 1 |
//! | 9 | flags | the caller's |
//! | 10..12 | queue id | reserved, 0 |
//! | 12..16 | payload checksum | CRC-32C of the payload; for a batch a copy of the one it carries |
//! | 16..20 | term | |
//! | 20..24 | leader | replica id |
//! | 24..32 | index | |
//! | 32..40 | base offset | next offset before this entry |
//! | 40..48 | synced mark | 1 + highest index known durable when this was written, 0 = none |
//!
//! All little endian. A batch's bytes 21.. are covered by Kafka's CRC, its bytes 0..17 are compared
//! with the header and with the format, bytes 17..21 are that CRC and are compared too: without
//! that, a torn write over a file of the same layout could join a new header to an old batch.

use aqueduct_proto::batch::{self, BatchHeader};
use aqueduct_proto::crc::crc32c;
use bytes::Bytes;

use crate::error::Error;

/// A Raft group on this node; names the directory `logs/<id>/`. Never reused.
pub type RaftId = u64;

/// Called exactly once when what was asked is durable (or can no longer become so), in order per
/// log, from the sync thread. Dropped uncalled when the call that took it returned an error.
pub type Done = Box<dyn FnOnce(Result<(), Error>) + Send>;

/// Bytes of an entry header on disk.
pub const HEADER_LEN: usize = 48;

/// Bytes that an entry with this payload takes in a segment (what `Log::reserve` counts).
pub const fn stored_len(payload_len: usize) -> u64 {
    (HEADER_LEN + payload_len) as u64
}

/// Raft's name of an entry. Term and leader are `u32` on disk: larger values are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId {
    /// Raft term.
    pub term: u64,
    /// Replica id of the leader that created the entry.
    pub leader: u64,
    /// Raft index.
    pub index: u64,
}

/// What an entry's payload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// One record batch; the only kind that takes offsets.
    Batch = 1,
    /// A command of the state machine.
    Command = 2,
    /// A Raft membership.
    Membership = 3,
    /// Nothing; a new leader's first entry.
    Blank = 4,
}

/// An entry to append.
#[derive(Clone, Debug)]
pub struct NewEntry {
    /// Raft's name of it; the index must continue the log.
    pub id: EntryId,
    /// What the payload is.
    pub kind: Kind,
    /// Free for the caller, given back on read.
    pub flags: u8,
    /// `Batch`: one whole RecordBatch v2 (its base offset and leader epoch are ignored and set).
    pub payload: Bytes,
}

/// An entry as read back.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Raft's name of it.
    pub id: EntryId,
    /// What the payload is.
    pub kind: Kind,
    /// As given on append.
    pub flags: u8,
    /// Next offset of the log before this entry; a batch's own base offset.
    pub base_offset: u64,
    /// As given on append; a batch comes with its offset and leader epoch set.
    pub payload: Bytes,
}

/// Version of the entry format.
const VERSION: u8 = 1;

/// What stands before each payload in a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) kind: Kind,
    pub(crate) flags: u8,
    pub(crate) payload_len: u32,
    pub(crate) payload_crc: u32,
    pub(crate) term: u32,
    pub(crate) leader: u32,
    pub(crate) index: u64,
    pub(crate) base_offset: u64,
    pub(crate) synced: Option<u64>,
}

impl Kind {
    fn from_code(code: u8) -> Option<Kind> {
        match code {
            1 => Some(Kind::Batch),
            2 => Some(Kind::Command),
            3 => Some(Kind::Membership),
            4 => Some(Kind::Blank),
            _ => None,
        }
    }
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    let mut out = [0; 2];
    out.copy_from_slice(&bytes[at..at + 2]);
    u16::from_le_bytes(out)
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut out = [0; 4];
    out.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(out)
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut out = [0; 8];
    out.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(out)
}

fn checksum(bytes: &[u8], salt: u64, position: u64) -> u32 {
    let mut covered = [0; 16 + HEADER_LEN - 4];
    covered[..8].copy_from_slice(&salt.to_le_bytes());
    covered[8..16].copy_from_slice(&position.to_le_bytes());
    covered[16..].copy_from_slice(&bytes[4..HEADER_LEN]);
    crc32c(&covered)
}

impl Header {
    /// The bytes of this header at a position of a file in its use `salt`.
    pub(crate) fn encode(&self, salt: u64, position: u64) -> [u8; HEADER_LEN] {
        let mut out = [0; HEADER_LEN];
        out[4..8].copy_from_slice(&self.payload_len.to_le_bytes());
        out[8] = self.kind as u8 | (VERSION << 4);
        out[9] = self.flags;
        out[12..16].copy_from_slice(&self.payload_crc.to_le_bytes());
        out[16..20].copy_from_slice(&self.term.to_le_bytes());
        out[20..24].copy_from_slice(&self.leader.to_le_bytes());
        out[24..32].copy_from_slice(&self.index.to_le_bytes());
        out[32..40].copy_from_slice(&self.base_offset.to_le_bytes());
        let mark = self.synced.map_or(0, |index| index + 1);
        out[40..48].copy_from_slice(&mark.to_le_bytes());
        let crc = checksum(&out, salt, position);
        out[..4].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// The header at this place; `None` for anything that was not written for it.
    pub(crate) fn decode(bytes: &[u8], salt: u64, position: u64) -> Option<Header> {
        if bytes.len() < HEADER_LEN || bytes[8] >> 4 != VERSION || u16_at(bytes, 10) != 0 {
            return None;
        }
        let kind = Kind::from_code(bytes[8] & 0x0f)?;
        if u32_at(bytes, 0) != checksum(bytes, salt, position) {
            return None;
        }
        Some(Header {
            kind,
            flags: bytes[9],
            payload_len: u32_at(bytes, 4),
            payload_crc: u32_at(bytes, 12),
            term: u32_at(bytes, 16),
            leader: u32_at(bytes, 20),
            index: u64_at(bytes, 24),
            base_offset: u64_at(bytes, 32),
            synced: u64_at(bytes, 40).checked_sub(1),
        })
    }

    pub(crate) fn id(&self) -> EntryId {
        EntryId {
            term: self.term.into(),
            leader: self.leader.into(),
            index: self.index,
        }
    }

    /// Bytes of header and payload.
    pub(crate) fn stored_len(&self) -> u64 {
        HEADER_LEN as u64 + u64::from(self.payload_len)
    }

    /// Whether these bytes are the payload that was written after this header.
    pub(crate) fn fits(&self, payload: &[u8]) -> bool {
        if payload.len() != self.payload_len as usize {
            return false;
        }
        if self.kind != Kind::Batch {
            return crc32c(payload) == self.payload_crc;
        }
        let Ok(found) = BatchHeader::read(payload) else {
            return false;
        };
        payload[..16] == batch::patched_prefix(payload, self.base_offset, self.term)
            && found.total_len() == payload.len()
            && found.crc == self.payload_crc
            && found.crc == crc32c(&payload[21..])
    }

    /// Offsets that this entry takes.
    pub(crate) fn offsets(&self, payload: &[u8]) -> u64 {
        match self.kind {
            Kind::Batch => batch_facts(payload).map_or(0, |facts| facts.offsets),
            _ => 0,
        }
    }
}

/// The checksum that goes into the header of an entry with this payload.
pub(crate) fn payload_crc(kind: Kind, payload: &[u8]) -> u32 {
    match kind {
        Kind::Batch => BatchHeader::read(payload).map_or(0, |header| header.crc),
        _ => crc32c(payload),
    }
}

/// What the log needs to know of a batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BatchFacts {
    pub(crate) offsets: u64,
    pub(crate) max_timestamp: i64,
}

/// Reads the first 61 bytes of a batch; `None` if they cannot be a batch's.
pub(crate) fn batch_facts(payload: &[u8]) -> Option<BatchFacts> {
    let header = BatchHeader::read(payload).ok()?;
    let offsets = u64::try_from(header.last_offset_delta)
        .ok()?
        .checked_add(1)?;
    Some(BatchFacts {
        offsets,
        max_timestamp: header.max_timestamp,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn header() -> Header {
        Header {
            kind: Kind::Command,
            flags: 7,
            payload_len: 5,
            payload_crc: crc32c(b"hello"),
            term: 3,
            leader: 9,
            index: 77,
            base_offset: 1000,
            synced: Some(76),
        }
    }

    #[test]
    fn header_comes_back_only_in_its_place() {
        let bytes = header().encode(11, 4096);
        assert_eq!(Header::decode(&bytes, 11, 4096), Some(header()));
        assert_eq!(Header::decode(&bytes, 12, 4096), None);
        assert_eq!(Header::decode(&bytes, 11, 4097), None);
        assert_eq!(Header::decode(&[0; HEADER_LEN], 0, 0), None);
        assert!(header().fits(b"hello"));
        assert!(!header().fits(b"hellp"));
        assert!(!header().fits(b"hell"));
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let bytes = header().encode(11, 4096);
        for bit in 0..HEADER_LEN * 8 {
            let mut bad = bytes;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Header::decode(&bad, 11, 4096), None, "bit {bit}");
        }
    }
}
