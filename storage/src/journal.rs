//! The shared redo journal: one durable write for the small appends of many logs.
//!
//! What is promised: a frame that was written is found again by `read_file`, in order, or not at
//! all; frames of an earlier use of the file never parse. The journal is read at recovery only.
//! What lives here must never know: threads, Raft, what the records mean to a log.
//!
//! A file begins with a header block of 4 KiB (at 0, and again at 2048), frames follow, each at a
//! multiple of 4 KiB. Every write is one frame, so a later frame proves that the one before it was
//! durable. All little endian.
//!
//! | Bytes of the file header | Field | |
//! |---|---|---|
//! | 0..8 | magic | `AQDJRN01` |
//! | 8..12 | checksum | CRC-32C of bytes 12..32 |
//! | 12..16 | reserved | 0 |
//! | 16..24 | sequence | order of the files' uses |
//! | 24..32 | salt | unique per use |
//!
//! | Bytes of a frame | Field | |
//! |---|---|---|
//! | 0..4 | checksum | CRC-32C over salt and position of the frame and bytes 4..length |
//! | 4..8 | length | bytes of the frame with this head, without its padding |
//! | 8..12 | records | |
//! | 12..16 | number | of this frame in its file, from 0 |
//! | 16.. | records | |
//!
//! | Bytes of a record | Field | |
//! |---|---|---|
//! | 0..4 | length of the body | |
//! | 4 | kind | 1 entries, 2 words, 3 segment begun |
//! | 5..8 | reserved | 0 |
//! | 8..16 | raft id | |
//! | 16.. | body | entries: salt of the segment, first index of the segment, position, last index, bytes; words: `Words`; segment begun: its header block's first 512 bytes |

use std::collections::BTreeMap;
use std::sync::Arc;

use aqueduct_proto::crc::{Crc32c, crc32c};
use bytes::Bytes;

use crate::disk::{BLOCK, Disk, DiskFile};
use crate::entry::{RaftId, u32_at, u64_at};
use crate::error::Error;
use crate::log::LogInner;
use crate::pool::Pool;
use crate::segment::{HeaderFound, SegmentHeader};
use crate::state_file::Words;

pub(crate) const JOURNAL_DIR: &str = "journal";
/// Bytes of the first file: small, so that a new store starts at once.
pub(crate) const FIRST_FILE_BYTES: u64 = 2 << 20;
/// Frames are closed when they reach this size.
pub(crate) const FRAME_BYTES: usize = 1 << 20;
/// Full-sized journal files at most.
const MAX_FILES: usize = 3;

const MAGIC: &[u8; 8] = b"AQDJRN01";
const FILE_HEADER: usize = 32;
const COPY_AT: usize = BLOCK / 2;
const FRAME_HEAD: usize = 16;
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
    fn seal(&mut self, salt: u64, position: u64, number: u32) -> &[u8] {
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

fn frame_checksum(frame: &[u8], salt: u64, position: u64) -> u32 {
    let mut crc = Crc32c::new();
    crc.update(&salt.to_le_bytes());
    crc.update(&position.to_le_bytes());
    crc.update(&frame[4..]);
    crc.finish()
}

/// What a use of a journal file covers.
#[derive(Default)]
pub(crate) struct Covered {
    pub(crate) logs: BTreeMap<RaftId, Arc<LogInner>>,
}

struct JournalFile {
    handle: Arc<dyn DiskFile>,
    name: String,
    capacity: u64,
    salt: u64,
    position: u64,
    number: u32,
    covered: Covered,
}

/// A file that waits for its drain.
pub(crate) struct Full(JournalFile);

impl Full {
    pub(crate) fn covered(&self) -> impl Iterator<Item = &Arc<LogInner>> {
        self.0.covered.logs.values()
    }
}

/// The journal's files: one takes frames, some wait to be drained, some are ready.
pub(crate) struct Journal {
    disk: Arc<dyn Disk>,
    active: Option<JournalFile>,
    ready: Vec<JournalFile>,
    full: std::collections::VecDeque<Full>,
    next_sequence: u64,
    next_name: u64,
    files: usize,
    /// A file of at least this many bytes is a full-sized one; a smaller one is for the start.
    file_bytes: u64,
    full_sized: usize,
}

impl Journal {
    /// Takes over the files that recovery has read and reset.
    pub(crate) fn new(disk: Arc<dyn Disk>, found: &Found, file_bytes: u64) -> Journal {
        Journal {
            disk,
            active: None,
            ready: Vec::new(),
            full: std::collections::VecDeque::new(),
            next_sequence: found.next_sequence,
            next_name: found.next_name,
            files: 0,
            file_bytes,
            full_sized: 0,
        }
    }

    /// Begins a new use of a file whose records are all durable elsewhere.
    pub(crate) fn add(
        &mut self,
        handle: Arc<dyn DiskFile>,
        name: String,
        capacity: u64,
    ) -> Result<(), Error> {
        let file = self.begin_use(handle, name, capacity)?;
        self.files += 1;
        self.full_sized += usize::from(file.capacity >= self.file_bytes);
        self.make_ready(file);
        Ok(())
    }

    fn make_ready(&mut self, file: JournalFile) {
        if self.active.is_none() {
            self.active = Some(file);
        } else {
            self.ready.push(file);
        }
    }

    fn begin_use(
        &mut self,
        handle: Arc<dyn DiskFile>,
        name: String,
        capacity: u64,
    ) -> Result<JournalFile, Error> {
        let salt = self.disk.random();
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        write_file_header(handle.as_ref(), sequence, salt)
            .map_err(|e| Error::io(&name, "write journal header", e))?;
        let (position, covered) = (BLOCK as u64, Covered::default());
        Ok(JournalFile {
            handle,
            name,
            capacity,
            salt,
            position,
            number: 0,
            covered,
        })
    }

    /// Whether the frame fits the active file.
    pub(crate) fn fits(&self, frame: &Frame) -> bool {
        let len = frame.len().next_multiple_of(BLOCK) as u64;
        self.active
            .as_ref()
            .is_some_and(|file| file.position + len <= file.capacity)
    }

    /// Writes a frame that fits; durable on return.
    pub(crate) fn write(&mut self, frame: &mut Frame, logs: &[Arc<LogInner>]) -> Result<(), Error> {
        let file = self.active.as_mut().expect("the caller asked fits()");
        let bytes = frame.seal(file.salt, file.position, file.number);
        let written = file.handle.write_durable(file.position, bytes);
        written.map_err(|e| Error::io(&file.name, "write journal", e))?;
        file.position += bytes.len() as u64;
        file.number += 1;
        for log in logs {
            file.covered
                .logs
                .entry(log.id)
                .or_insert_with(|| log.clone());
        }
        Ok(())
    }

    /// Puts the active file in line for its drain and goes on with a ready one, if there is one.
    pub(crate) fn switch(&mut self) {
        if let Some(file) = self.active.take() {
            if file.number == 0 {
                self.ready.push(file);
            } else {
                self.full.push_back(Full(file));
            }
        }
        // The largest: a small file would have its segments synced again after a moment.
        let largest = self
            .ready
            .iter()
            .enumerate()
            .max_by_key(|(_, file)| file.capacity);
        self.active = largest
            .map(|(at, _)| at)
            .map(|at| self.ready.swap_remove(at));
    }

    /// The oldest file that waits for its drain. It stays ours until `recycle`.
    pub(crate) fn next_full(&mut self) -> Option<Full> {
        self.full.pop_front()
    }

    pub(crate) fn has_full(&self) -> bool {
        !self.full.is_empty()
    }

    /// Everything the file covers is durable elsewhere: it may be used again.
    pub(crate) fn recycle(&mut self, full: Full) -> Result<(), Error> {
        let file = self.begin_use(full.0.handle, full.0.name, full.0.capacity)?;
        self.make_ready(file);
        Ok(())
    }

    pub(crate) fn is_blank(&self) -> bool {
        self.full.is_empty() && self.active.as_ref().is_none_or(|file| file.number == 0)
    }

    /// Whether another file should be prepared before the active one is full.
    pub(crate) fn wants_file(&self) -> bool {
        let half_full = |file: &JournalFile| file.position * 2 > file.capacity;
        let is_full_sized = |file: &JournalFile| file.capacity >= self.file_bytes;
        self.full_sized < MAX_FILES
            && !self.ready.iter().any(is_full_sized)
            && self.active.as_ref().is_none_or(half_full)
    }

    /// Lets go of the logs it covers.
    pub(crate) fn forget(&mut self) {
        self.active = None;
        self.ready.clear();
        self.full.clear();
    }

    /// Whether there is no file at all.
    pub(crate) fn wants_first(&self) -> bool {
        self.files == 0
    }

    pub(crate) fn fresh_name(&mut self) -> String {
        let name = format!("{JOURNAL_DIR}/{:08}.jrn", self.next_name);
        self.next_name += 1;
        name
    }
}

/// Creates a file of real zeros (syncing an overwrite is twice as fast as syncing space that was
/// only allocated) and gives it its name when that is durable.
pub(crate) fn create_file(
    disk: &dyn Disk,
    pool: &Pool,
    name: &str,
    bytes: u64,
) -> Result<Arc<dyn DiskFile>, Error> {
    pool.admit(bytes)?;
    let temporary = format!("{name}.tmp");
    let make = || {
        let handle = crate::checkpoint::create_again(disk, &temporary, bytes)?;
        let zeros = vec![0; CREATE_STEP.min(bytes as usize)];
        let mut at = 0;
        while at < bytes {
            let len = (bytes - at).min(zeros.len() as u64) as usize;
            handle.write_at(at, &[std::io::IoSlice::new(&zeros[..len])])?;
            at += len as u64;
            // Step by step, so that nobody's journal write waits behind the whole file.
            handle.sync()?;
        }
        write_file_header(handle.as_ref(), 0, 0)?;
        handle.sync()?;
        disk.rename(&temporary, name)?;
        disk.sync_dir(JOURNAL_DIR)?;
        Ok(handle)
    };
    make().map_err(|error: std::io::Error| {
        pool.release(bytes);
        // What was begun is removed; if that fails too, the next start does it.
        let _ = disk.remove(&temporary);
        if error.kind() == std::io::ErrorKind::StorageFull {
            return Error::Full {
                wanted: bytes,
                free: pool.free_bytes(),
            };
        }
        Error::io(name, "create journal", error)
    })
}

const CREATE_STEP: usize = 1 << 20;

fn write_file_header(handle: &dyn DiskFile, sequence: u64, salt: u64) -> std::io::Result<()> {
    let mut used = [0; FILE_HEADER];
    used[..8].copy_from_slice(MAGIC);
    used[16..24].copy_from_slice(&sequence.to_le_bytes());
    used[24..32].copy_from_slice(&salt.to_le_bytes());
    let crc = crc32c(&used[12..]);
    used[8..12].copy_from_slice(&crc.to_le_bytes());
    let mut memory = vec![0; 2 * BLOCK];
    let begin = memory.as_ptr().align_offset(BLOCK);
    let block = &mut memory[begin..begin + BLOCK];
    block[..FILE_HEADER].copy_from_slice(&used);
    block[COPY_AT..COPY_AT + FILE_HEADER].copy_from_slice(&used);
    handle.write_durable(0, block)
}

fn read_file_header(block: &[u8]) -> Option<(u64, u64)> {
    [0, COPY_AT].into_iter().find_map(|at| {
        let used = block.get(at..at + FILE_HEADER)?;
        let valid = used[..8] == MAGIC[..] && u32_at(used, 8) == crc32c(&used[12..]);
        valid.then(|| (u64_at(used, 16), u64_at(used, 24)))
    })
}

/// A place of the journal that cannot be read although it was durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct JournalDamage {
    pub(crate) file: String,
    pub(crate) position: u64,
    pub(crate) why: &'static str,
}

/// The journal as recovery finds it.
#[derive(Default)]
pub(crate) struct Found {
    /// In the order of use.
    pub(crate) files: Vec<FoundFile>,
    pub(crate) damage: Vec<JournalDamage>,
    pub(crate) next_sequence: u64,
    pub(crate) next_name: u64,
}

pub(crate) struct FoundFile {
    pub(crate) handle: Arc<dyn DiskFile>,
    pub(crate) name: String,
    pub(crate) capacity: u64,
    sequence: u64,
    salt: Option<u64>,
}

/// Lists the files of the journal, oldest use first, and removes what was never finished.
pub(crate) fn find_files(disk: &dyn Disk) -> Result<Found, Error> {
    let mut found = Found {
        next_sequence: 1,
        ..Found::default()
    };
    for item in disk
        .list(JOURNAL_DIR)
        .map_err(|e| Error::io(JOURNAL_DIR, "list", e))?
    {
        let name = format!("{JOURNAL_DIR}/{}", item.name);
        if item.name.ends_with(".jrn.tmp") {
            disk.remove(&name)
                .map_err(|e| Error::io(&name, "remove", e))?;
            continue;
        }
        let number = item
            .name
            .strip_suffix(".jrn")
            .and_then(|n| n.parse::<u64>().ok());
        let Some(number) = number.filter(|_| !item.is_dir) else {
            return Err(Error::Foreign {
                path: name,
                why: "unknown name".into(),
            });
        };
        found.next_name = found.next_name.max(number + 1);
        let handle = disk.open(&name).map_err(|e| Error::io(&name, "open", e))?;
        let capacity = handle.len().map_err(|e| Error::io(&name, "stat", e))?;
        let mut block = vec![0; BLOCK];
        let got = handle.read_at(0, &mut block);
        got.map_err(|e| Error::io(&name, "read", e))?;
        let header = read_file_header(&block);
        if header.is_none() {
            let ours = [0, COPY_AT]
                .iter()
                .any(|at| block[*at..*at + 6] == MAGIC[..6]);
            let whole = [0, COPY_AT]
                .iter()
                .any(|at| block[*at..*at + 8] == MAGIC[..]);
            if !whole && (ours || block.iter().any(|byte| *byte != 0)) {
                return Err(Error::Foreign {
                    path: name,
                    why: "unknown magic or version".into(),
                });
            }
            let why = "file header";
            found.damage.push(JournalDamage {
                file: name.clone(),
                position: 0,
                why,
            });
        }
        let sequence = header.map_or(0, |(sequence, _)| sequence);
        found.next_sequence = found.next_sequence.max(sequence + 1);
        let salt = header.map(|(_, salt)| salt);
        found.files.push(FoundFile {
            handle,
            name,
            capacity,
            sequence,
            salt,
        });
    }
    found.files.sort_by_key(|file| file.sequence);
    Ok(found)
}

/// Hands every record of a file to `each`, in order. A frame that is not whole ends the file; whole
/// frames after it prove that it once was, and are read too, with the damage reported.
pub(crate) fn read_file(
    file: &FoundFile,
    damage: &mut Vec<JournalDamage>,
    each: &mut dyn FnMut(Record) -> Result<(), Error>,
) -> Result<(), Error> {
    let Some(salt) = file.salt.filter(|_| file.sequence > 0) else {
        return Ok(());
    };
    let mut position = BLOCK as u64;
    let mut number = 0;
    while position + BLOCK as u64 <= file.capacity {
        let Some(frame) = read_frame(file, salt, position, number)? else {
            match find_later(file, salt, position, number)? {
                Some((later, found)) => {
                    let why = "frame";
                    damage.push(JournalDamage {
                        file: file.name.clone(),
                        position,
                        why,
                    });
                    (position, number) = (later, found);
                    continue;
                }
                None => return Ok(()),
            }
        };
        position += (frame.len() as u64).next_multiple_of(BLOCK as u64);
        number += 1;
        if !read_records(&frame, each)? {
            let why = "record";
            damage.push(JournalDamage {
                file: file.name.clone(),
                position,
                why,
            });
        }
    }
    Ok(())
}

/// The frame with at least this number at a position.
fn read_frame(
    file: &FoundFile,
    salt: u64,
    position: u64,
    number: u32,
) -> Result<Option<Bytes>, Error> {
    let mut head = [0; FRAME_HEAD];
    // An unreadable sector is a damaged frame, not the end of the store.
    let Ok(FRAME_HEAD) = file.handle.read_at(position, &mut head) else {
        return Ok(None);
    };
    let len = u32_at(&head, 4) as usize;
    let left = file.capacity - position;
    if len < FRAME_HEAD || len as u64 > left || u32_at(&head, 12) < number {
        return Ok(None);
    }
    let mut frame = vec![0; len];
    match file.handle.read_at(position, &mut frame) {
        Ok(got) if got == len => {}
        _ => return Ok(None),
    }
    let whole = u32_at(&frame, 0) == frame_checksum(&frame, salt, position);
    Ok(whole.then(|| Bytes::from(frame)))
}

fn find_later(
    file: &FoundFile,
    salt: u64,
    after: u64,
    number: u32,
) -> Result<Option<(u64, u32)>, Error> {
    let mut position = after + BLOCK as u64;
    while position + BLOCK as u64 <= file.capacity {
        if let Some(frame) = read_frame(file, salt, position, number + 1)? {
            return Ok(Some((position, u32_at(&frame, 12))));
        }
        position += BLOCK as u64;
    }
    Ok(None)
}

/// False if the records do not add up (which no write of ours produces).
fn read_records(
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
        3 => match SegmentHeader::decode(&body) {
            HeaderFound::Valid(header) => Some(Record::Begun { header }),
            _ => None,
        },
        _ => None,
    }
}
