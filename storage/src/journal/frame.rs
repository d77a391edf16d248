//! A frame of the journal: built, sealed for its place, and its records read back.
//!
//! Bytes in memory only (the tables are in `journal.rs`). It must never know files, nor what a
//! record means to a log.

use aqueduct_proto::crc::Crc32c;
use bytes::Bytes;

use crate::disk::BLOCK;
use crate::entry::{RaftId, u32_at, u64_at};
use crate::error::Error;
use crate::segment::{HeaderFound, SegmentHeader};
use crate::state_file::Words;

/// Frames are closed when they reach this size.
pub(crate) const FRAME_BYTES: usize = 1 << 20;

pub(super) const FRAME_HEAD: usize = 16;
const RECORD_HEAD: usize = 16;
const ENTRIES_HEAD: usize = 32;
const SEGMENT_HEAD: usize = 512;

/// Where the bytes of an append belong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) raft_id: RaftId,
    pub(crate) salt: u64,
    pub(crate) first_index: u64,
    pub(crate) position: u64,
    pub(crate) last_index: u64,
}

/// A record as read back.
#[derive(Clone, Debug)]
pub(crate) enum Record {
    Entries { place: Place, bytes: Bytes },
    Words { raft_id: RaftId, words: Box<Words> },
    Begun { header: SegmentHeader },
}

/// A frame being built, in memory that direct I/O accepts.
pub(crate) struct Frame {
    memory: Vec<u8>,
    begin: usize,
    records: u32,
}

impl Frame {
    pub(crate) fn new() -> Frame {
        let mut frame = Frame {
            memory: Vec::new(),
            begin: 0,
            records: 0,
        };
        frame.grow(FRAME_BYTES / 4);
        frame.clear();
        frame
    }

    /// Makes room and moves what is there to an aligned address.
    fn grow(&mut self, bytes: usize) {
        let mut memory: Vec<u8> = Vec::with_capacity(bytes + 2 * BLOCK);
        let begin = memory.as_ptr().align_offset(BLOCK);
        assert!(begin < BLOCK, "byte pointers can be aligned");
        memory.resize(begin, 0);
        memory.extend_from_slice(&self.memory[self.begin..]);
        self.memory = memory;
        self.begin = begin;
    }

    pub(crate) fn clear(&mut self) {
        self.memory.truncate(self.begin);
        self.records = 0;
        self.put(&[0; FRAME_HEAD]);
    }

    fn put(&mut self, bytes: &[u8]) {
        // The padding must fit as well, without moving the memory.
        let wanted = self.memory.len() + bytes.len() + BLOCK;
        if wanted > self.memory.capacity() {
            self.grow((wanted - self.begin) * 2);
        }
        self.memory.extend_from_slice(bytes);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// Bytes so far.
    pub(crate) fn len(&self) -> usize {
        self.memory.len() - self.begin
    }

    fn head(&mut self, kind: u8, raft_id: RaftId, body: usize) {
        let mut head = [0; RECORD_HEAD];
        head[..4].copy_from_slice(&(body as u32).to_le_bytes());
        head[4] = kind;
        head[8..].copy_from_slice(&raft_id.to_le_bytes());
        self.put(&head);
        self.records += 1;
    }

    pub(crate) fn entries(&mut self, place: &Place, pieces: &[Bytes]) {
        let len: usize = pieces.iter().map(Bytes::len).sum();
        self.head(1, place.raft_id, ENTRIES_HEAD + len);
        for number in [
            place.salt,
            place.first_index,
            place.position,
            place.last_index,
        ] {
            self.put(&number.to_le_bytes());
        }
        for piece in pieces {
            self.put(piece);
        }
    }

    pub(crate) fn words(&mut self, raft_id: RaftId, words: &Words) {
        let body = words.encode();
        self.head(2, raft_id, body.len());
        self.put(&body);
    }

    pub(crate) fn begun(&mut self, header: &SegmentHeader) {
        self.head(3, header.raft_id, SEGMENT_HEAD);
        self.put(&header.encode()[..SEGMENT_HEAD]);
    }

    /// Pads, numbers and signs the frame for its place.
    pub(super) fn seal(&mut self, salt: u64, position: u64, number: u32) -> &[u8] {
        let len = self.len();
        let padded = len.next_multiple_of(BLOCK);
        self.memory.resize(self.begin + padded, 0);
        let frame = &mut self.memory[self.begin..];
        frame[4..8].copy_from_slice(&(len as u32).to_le_bytes());
        frame[8..12].copy_from_slice(&self.records.to_le_bytes());
        frame[12..16].copy_from_slice(&number.to_le_bytes());
        let crc = frame_checksum(&frame[..len], salt, position);
        frame[..4].copy_from_slice(&crc.to_le_bytes());
        frame
    }
}

pub(super) fn frame_checksum(frame: &[u8], salt: u64, position: u64) -> u32 {
    let mut crc = Crc32c::new();
    crc.update(&salt.to_le_bytes());
    crc.update(&position.to_le_bytes());
    crc.update(&frame[4..]);
    crc.finish()
}

/// False if the records do not add up (which no write of ours produces).
pub(super) fn read_records(
    frame: &Bytes,
    each: &mut dyn FnMut(Record) -> Result<(), Error>,
) -> Result<bool, Error> {
    let mut at = FRAME_HEAD;
    for _ in 0..u32_at(frame, 8) {
        let Some(head) = frame.get(at..at + RECORD_HEAD) else {
            return Ok(false);
        };
        let len = u32_at(head, 0) as usize;
        let (kind, raft_id) = (head[4], u64_at(head, 8));
        at += RECORD_HEAD;
        if len > frame.len() - at {
            return Ok(false);
        }
        let Some(record) = decode_record(kind, raft_id, frame.slice(at..at + len)) else {
            return Ok(false);
        };
        each(record)?;
        at += len;
    }
    Ok(true)
}

fn decode_record(kind: u8, raft_id: RaftId, body: Bytes) -> Option<Record> {
    match kind {
        1 if body.len() >= ENTRIES_HEAD => {
            let place = Place {
                raft_id,
                salt: u64_at(&body, 0),
                first_index: u64_at(&body, 8),
                position: u64_at(&body, 16),
                last_index: u64_at(&body, 24),
            };
            Some(Record::Entries {
                place,
                bytes: body.slice(ENTRIES_HEAD..),
            })
        }
        2 => Some(Record::Words {
            raft_id,
            words: Box::new(Words::decode(&body)?),
        }),
        3 => match SegmentHeader::decode_copy(&body) {
            HeaderFound::Valid(header) => Some(Record::Begun { header }),
            _ => None,
        },
        _ => None,
    }
}
