//! The journal as recovery finds it: its files in the order of use, and their frames.
//!
//! What is promised: whole frames are handed over in order; what once was whole and is not any
//! more is reported, never skipped in silence. It must never know how frames are written.

use std::sync::Arc;

use bytes::Bytes;

use super::frame::{FRAME_HEAD, Record, frame_checksum, read_records};
use super::{COPY_AT, FIRST_FILE_BYTES, JOURNAL_DIR, MAGIC, read_file_header};
use crate::disk::{BLOCK, Disk, DiskFile};
use crate::entry::u32_at;
use crate::error::Error;

/// A frame is never longer: whatever claims to be is not looked at.
const MAX_FRAME: u64 = 2 << 20;

/// A place of the journal that is not whole although it was durable.
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
    /// Bytes of files that were set aside.
    pub(crate) aside_bytes: u64,
}

impl Found {
    fn note_aside(&mut self, disk: &dyn Disk, file: String) -> Result<(), Error> {
        let handle = disk.open(&file).map_err(|e| Error::io(&file, "open", e))?;
        self.aside_bytes += handle.len().map_err(|e| Error::io(&file, "stat", e))?;
        let why = "set aside, because it was damaged";
        self.note(&file, 0, why);
        Ok(())
    }

    fn note(&mut self, file: &str, position: u64, why: &'static str) {
        self.damage.push(JournalDamage {
            file: file.to_string(),
            position,
            why,
        });
    }

    /// Whether something in this file was lost.
    pub(crate) fn is_damaged(&self, name: &str) -> bool {
        self.damage.iter().any(|damage| damage.file == name)
    }
}

pub(crate) struct FoundFile {
    pub(crate) handle: Arc<dyn DiskFile>,
    pub(crate) name: String,
    pub(crate) capacity: u64,
    sequence: u64,
    salt: Option<u64>,
}

/// A damaged file keeps its number and is told by this; nothing but its reader's hand removes it.
pub(crate) const ASIDE: &str = "bad";

fn is_aside(name: &str) -> bool {
    let stem = name.strip_suffix(ASIDE).and_then(|n| n.strip_suffix('.'));
    stem.is_some_and(|stem| stem.parse::<u64>().is_ok())
}

/// Lists the files of the journal, oldest use first, and removes what was never finished.
pub(crate) fn find_files(disk: &dyn Disk, clean: bool) -> Result<Found, Error> {
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
        if is_aside(&item.name) {
            found.note_aside(disk, name)?;
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
        if capacity < FIRST_FILE_BYTES && !clean {
            found.note(&name, capacity, "cut short");
        }
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
            // After a clean close it held nothing.
            if !clean {
                found.note(&name, 0, "file header");
            }
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
    // What cannot be read now may be readable later, and may be all there is of something that
    // was acknowledged: the store does not open, and the file stays as it is.
    let read = |into: &mut [u8]| {
        let got = file.handle.read_at(position, into);
        got.map_err(|e| Error::io(&file.name, "read", e))
    };
    let mut head = [0; FRAME_HEAD];
    if read(&mut head)? != FRAME_HEAD {
        return Ok(None);
    }
    let len = u32_at(&head, 4) as usize;
    let left = (file.capacity - position).min(MAX_FRAME);
    if len < FRAME_HEAD || len as u64 > left || u32_at(&head, 12) < number {
        return Ok(None);
    }
    let mut frame = vec![0; len];
    if read(&mut frame)? != len {
        return Ok(None);
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
