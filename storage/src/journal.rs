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

use aqueduct_proto::crc::crc32c;

pub(crate) use self::found::{ASIDE, Found, find_files, read_file};
pub(crate) use self::frame::{FRAME_BYTES, Frame, Place, Record};
use crate::disk::{BLOCK, Disk, DiskFile};
use crate::entry::{RaftId, u32_at, u64_at};
use crate::error::Error;
use crate::log::LogInner;
use crate::pool::Pool;

mod found;
mod frame;

pub(crate) const JOURNAL_DIR: &str = "journal";
/// Bytes of the first file: small, so that a new store starts at once.
pub(crate) const FIRST_FILE_BYTES: u64 = 2 << 20;
/// Full-sized journal files at most.
const MAX_FILES: usize = 3;

const MAGIC: &[u8; 8] = b"AQDJRN01";
const FILE_HEADER: usize = 32;
const COPY_AT: usize = BLOCK / 2;

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
