//! One file of entries: its header block and how its entries are walked.
//!
//! A segment ends where the next one begins. What is sealed about it (its end, its latest
//! timestamp) stands in the header of the segment after it, so that opening a log reads one block
//! per segment. Published bytes never change.
//!
//! | Bytes | Field | |
//! |---|---|---|
//! | 0..8 | magic | `AQDSEG` and the version, two digits |
//! | 8..12 | checksum | CRC-32C of bytes 12..136 |
//! | 12..16 | reserved | 0 |
//! | 16..24 | raft id | |
//! | 24..32 | salt | unique per use of the file |
//! | 32..40 | generation | truncations of the log before this segment was begun |
//! | 40..48 | first index | |
//! | 48..56 | base offset | next offset before the first entry |
//! | 56..64 | capacity | bytes of the file |
//! | 64..72 | synced mark | 1 + highest index known durable when this was written, 0 = none |
//! | 72..80 | has previous | 1 if the next three say what stands before the first index |
//! | 80..104 | previous id | term, leader, index |
//! | 104..112 | previous salt | 0 if no segment stood before |
//! | 112..120 | previous end | position at which that segment ends |
//! | 120..128 | previous latest timestamp | `i64::MIN` if it holds no batch |
//! | 128..136 | reserved | 0 |
//!
//! The same bytes stand again at 2048 (one bad sector does not cost the segment). The rest of the
//! 4 KiB block is zero; entries follow at 4096 without gaps. All little endian.

use std::io::IoSlice;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use aqueduct_proto::crc::crc32c;
use bytes::Bytes;
use parking_lot::Mutex;

use crate::disk::{BLOCK, DiskFile};
use crate::entry::{self, EntryId, HEADER_LEN, RaftId, u64_at};
use crate::error::Error;
use crate::index::IndexSlot;
use crate::pool::SegmentFile;

/// Position of the first entry.
pub(crate) const FIRST_ENTRY: u64 = BLOCK as u64;
/// No batch yet.
pub(crate) const NO_TIMESTAMP: i64 = i64::MIN;
/// How many bytes one sequential read takes.
pub(crate) const CHUNK: usize = 1 << 20;

const MAGIC: &[u8; 8] = b"AQDSEG01";
const USED: usize = 136;
const COPY_AT: usize = BLOCK / 2;

/// What stands before a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sealed {
    pub(crate) salt: u64,
    pub(crate) end: u64,
    pub(crate) max_timestamp: i64,
}

/// The header block of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) raft_id: RaftId,
    pub(crate) salt: u64,
    pub(crate) generation: u64,
    pub(crate) first_index: u64,
    pub(crate) base_offset: u64,
    pub(crate) capacity: u64,
    pub(crate) synced: Option<u64>,
    pub(crate) previous: Option<EntryId>,
    pub(crate) sealed: Sealed,
}

/// What a header block was found to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeaderFound {
    Valid(SegmentHeader),
    /// Nothing at all, or a whole header of the file's last use: the new one was never durable.
    Torn,
    /// Ours, and not whole. The header lies in one sector, so no crash leaves this.
    Rotten,
    /// Another program's, or a newer version's.
    Foreign,
}

impl SegmentHeader {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut used = [0; USED];
        used[..8].copy_from_slice(MAGIC);
        let previous = self.previous.unwrap_or(EntryId {
            term: 0,
            leader: 0,
            index: 0,
        });
        let fields = [
            self.raft_id,
            self.salt,
            self.generation,
            self.first_index,
            self.base_offset,
            self.capacity,
            self.synced.map_or(0, |index| index + 1),
            u64::from(self.previous.is_some()),
            previous.term,
            previous.leader,
            previous.index,
            self.sealed.salt,
            self.sealed.end,
            self.sealed.max_timestamp as u64,
        ];
        for (at, field) in fields.iter().enumerate() {
            used[16 + at * 8..24 + at * 8].copy_from_slice(&field.to_le_bytes());
        }
        let crc = crc32c(&used[12..]);
        used[8..12].copy_from_slice(&crc.to_le_bytes());
        let mut block = vec![0; BLOCK];
        block[..USED].copy_from_slice(&used);
        block[COPY_AT..COPY_AT + USED].copy_from_slice(&used);
        block
    }

    /// The header of a file. Each copy is read by itself: an unreadable sector costs one of them,
    /// and is never taken for a header that was not written.
    pub(crate) fn read(handle: &dyn DiskFile) -> HeaderFound {
        let copy = |at: usize| {
            let mut bytes = [0; USED];
            match handle.read_at(at as u64, &mut bytes) {
                Ok(got) => Self::decode_copy(&bytes[..got]),
                Err(_) => HeaderFound::Rotten,
            }
        };
        let first = copy(0);
        let is_short = handle.len().is_ok_and(|len| len <= COPY_AT as u64);
        if matches!(first, HeaderFound::Valid(_)) || is_short {
            return first;
        }
        match (first, copy(COPY_AT)) {
            (_, HeaderFound::Valid(header)) => HeaderFound::Valid(header),
            (HeaderFound::Foreign, HeaderFound::Foreign) => HeaderFound::Foreign,
            (HeaderFound::Torn, HeaderFound::Torn) => HeaderFound::Torn,
            // One copy is of this program, or damaged: the magic cannot be the other's.
            _ => HeaderFound::Rotten,
        }
    }

    pub(crate) fn decode_copy(bytes: &[u8]) -> HeaderFound {
        let Some(bytes) = bytes.get(..USED) else {
            return HeaderFound::Torn;
        };
        if bytes[..8] != MAGIC[..] {
            let zero = bytes.iter().all(|byte| *byte == 0);
            return if zero {
                HeaderFound::Torn
            } else {
                HeaderFound::Foreign
            };
        }
        if entry::u32_at(bytes, 8) != crc32c(&bytes[12..]) {
            return HeaderFound::Rotten;
        }
        let field = |at: usize| u64_at(bytes, 16 + at * 8);
        let previous = EntryId {
            term: field(8),
            leader: field(9),
            index: field(10),
        };
        HeaderFound::Valid(SegmentHeader {
            raft_id: field(0),
            salt: field(1),
            generation: field(2),
            first_index: field(3),
            base_offset: field(4),
            capacity: field(5),
            synced: field(6).checked_sub(1),
            previous: (field(7) == 1).then_some(previous),
            sealed: Sealed {
                salt: field(11),
                end: field(12),
                max_timestamp: field(13) as i64,
            },
        })
    }
}

/// Name of a segment in its log's directory.
pub(crate) fn segment_name(id: RaftId, first_index: u64) -> String {
    format!("logs/{id}/{first_index:020}.seg")
}

/// A segment that is part of a log.
pub(crate) struct Segment {
    pub(crate) file: Arc<SegmentFile>,
    pub(crate) header: SegmentHeader,
    /// The file and its name are durable.
    pub(crate) anchored: AtomicBool,
    /// Its creation is in the journal (so that recovery can repeat it).
    pub(crate) journaled: AtomicBool,
    /// Everything below this position is durable in the file itself.
    pub(crate) synced_to: AtomicU64,
    /// Held during each sync; true once one has failed. The system tells each failure once for an
    /// open file: whoever asks next would hear that all is well.
    pub(crate) syncing: Mutex<bool>,
    /// No window of it is kept any more.
    pub(crate) retired: AtomicBool,
    /// End of what the background was asked to sync ahead of the journal's drain.
    pub(crate) asked_to: AtomicU64,
    pub(crate) index: Mutex<IndexSlot>,
}

impl Segment {
    pub(crate) fn new(file: Arc<SegmentFile>, header: SegmentHeader, index: IndexSlot) -> Segment {
        Segment {
            file,
            header,
            anchored: AtomicBool::new(false),
            journaled: AtomicBool::new(false),
            synced_to: AtomicU64::new(0),
            syncing: Mutex::new(false),
            retired: AtomicBool::new(false),
            asked_to: AtomicU64::new(0),
            index: Mutex::new(index),
        }
    }

    pub(crate) fn name(&self) -> String {
        self.file.name()
    }

    /// Writes the header block and moves the file to its place. Nothing is durable yet.
    pub(crate) fn begin(file: Arc<SegmentFile>, header: SegmentHeader) -> Result<Segment, Error> {
        let block = header.encode();
        let write = file.handle.write_at(0, &[IoSlice::new(&block)]);
        write.map_err(|e| Error::io(&file.name(), "write", e))?;
        file.rename(segment_name(header.raft_id, header.first_index))?;
        Ok(Segment::new(file, header, IndexSlot::growing(FIRST_ENTRY)))
    }

    /// Notes that everything below `position` is durable in the file.
    pub(crate) fn note_synced(&self, position: u64) {
        self.synced_to.fetch_max(position, Ordering::AcqRel);
    }

    /// Reads up to `len` bytes; fewer only at the end of the file.
    pub(crate) fn read(&self, position: u64, len: usize) -> Result<Bytes, Error> {
        let mut bytes = vec![0; len];
        let got = self.file.handle.read_at(position, &mut bytes);
        let got = got.map_err(|e| Error::io(&self.name(), "read", e))?;
        bytes.truncate(got);
        Ok(Bytes::from(bytes))
    }
}

/// What stands at a position of a segment.
pub(crate) enum Found {
    /// A whole entry, checksums right.
    Entry(At),
    /// The end that was given.
    End,
    /// Not an entry, or not a whole one.
    Bad { position: u64, why: &'static str },
}

/// An entry that was walked over.
pub(crate) struct At {
    pub(crate) header: entry::Header,
    pub(crate) payload: Bytes,
}

/// Walks entries with large reads.
pub(crate) struct Walker<'a> {
    segment: &'a Segment,
    position: u64,
    end: u64,
    chunk: Bytes,
    chunk_at: u64,
    chunk_len: usize,
}

impl<'a> Walker<'a> {
    /// From an entry's position up to `end`, reading `chunk_len` bytes at a time.
    pub(crate) fn new(segment: &'a Segment, position: u64, end: u64, chunk_len: usize) -> Self {
        Walker {
            segment,
            position,
            end,
            chunk: Bytes::new(),
            chunk_at: 0,
            chunk_len,
        }
    }

    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// The next entry with its payload, both verified.
    pub(crate) fn next_entry(&mut self) -> Result<Found, Error> {
        let header = match self.header()? {
            Ok(header) => header,
            Err(found) => return Ok(found),
        };
        let len = header.stored_len() as usize;
        let bytes = self.bytes(len)?;
        if bytes.len() < len {
            return Ok(self.bad("entry is cut short"));
        }
        let payload = bytes.slice(HEADER_LEN..len);
        if !header.fits(&payload) {
            return Ok(self.bad("payload checksum"));
        }
        self.position += len as u64;
        Ok(Found::Entry(At { header, payload }))
    }

    /// The next entry; one before `index` is passed by its header alone.
    pub(crate) fn next_from(&mut self, index: u64) -> Result<Found, Error> {
        match self.header()? {
            Ok(header) if header.index < index => {
                self.position += header.stored_len();
                Ok(Found::Entry(At {
                    header,
                    payload: Bytes::new(),
                }))
            }
            Ok(_) => self.next_entry(),
            Err(found) => Ok(found),
        }
    }

    /// The next entry with the first bytes of its payload only (enough for a batch's header);
    /// only the entry header is verified.
    pub(crate) fn next_header(&mut self) -> Result<Found, Error> {
        let header = match self.header()? {
            Ok(header) => header,
            Err(found) => return Ok(found),
        };
        let head = (header.payload_len as usize).min(aqueduct_proto::batch::HEADER_LEN);
        let bytes = self.bytes(HEADER_LEN + head)?;
        if bytes.len() < HEADER_LEN + head {
            return Ok(self.bad("entry is cut short"));
        }
        self.position += header.stored_len();
        let payload = bytes.slice(HEADER_LEN..HEADER_LEN + head);
        Ok(Found::Entry(At { header, payload }))
    }

    fn bad(&self, why: &'static str) -> Found {
        Found::Bad {
            position: self.position,
            why,
        }
    }

    fn header(&mut self) -> Result<Result<entry::Header, Found>, Error> {
        if self.position >= self.end {
            return Ok(Err(Found::End));
        }
        let bytes = self.bytes(HEADER_LEN)?;
        let salt = self.segment.header.salt;
        let Some(header) = entry::Header::decode(&bytes, salt, self.position) else {
            return Ok(Err(self.bad("no entry header")));
        };
        if self.position + header.stored_len() > self.end {
            return Ok(Err(self.bad("entry reaches past the end")));
        }
        Ok(Ok(header))
    }

    /// At least `len` bytes from the position on, unless the file ends.
    fn bytes(&mut self, len: usize) -> Result<Bytes, Error> {
        let held = self.chunk_at + self.chunk.len() as u64;
        if self.position < self.chunk_at || self.position + len as u64 > held {
            let left = (self.end - self.position).min(self.chunk_len as u64) as usize;
            self.chunk = match self.segment.read(self.position, left.max(len)) {
                // A bad sector costs the entry it lies in, not what is read together with it.
                Err(_) if left > len => self.segment.read(self.position, len)?,
                other => other?,
            };
            self.chunk_at = self.position;
        }
        let at = (self.position - self.chunk_at) as usize;
        Ok(self.chunk.slice(at.min(self.chunk.len())..))
    }
}
