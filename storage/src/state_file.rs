//! The durable words of a log: its vote and the pointers that are not in its segments.
//!
//! Words travel through the journal, in order with the appends of the log, and rest in the log's
//! `state` file, which is as old as the last drain; the greatest version wins. What is promised:
//! the file always holds a whole older or newer state (two slots in two sectors, written and synced
//! one after the other, so that one bad sector costs nothing). What lives here must never know: what
//! a vote means, threads, segments.
//!
//! | Bytes of a slot | Field | |
//! |---|---|---|
//! | 0..8 | magic | `AQDSTA01` |
//! | 8..12 | checksum | CRC-32C of bytes 12..(16 + length) |
//! | 12..16 | length | bytes of the words that follow |
//! | 16.. | words | see `Words::encode` |
//!
//! Slots begin at 0 and 4096. A slot is at most 512 bytes.

use std::io::IoSlice;
use std::sync::Arc;

use aqueduct_proto::crc::crc32c;
use bytes::Bytes;

use crate::disk::{Disk, DiskFile};
use crate::entry::{EntryId, RaftId, u32_at, u64_at};
use crate::error::Error;

/// Longest vote in bytes.
pub(crate) const MAX_VOTE: usize = 128;
const MAGIC: &[u8; 8] = b"AQDSTA01";
const SLOTS: [u64; 2] = [0, 4096];
const SLOT: usize = 512;
/// Bytes of the file.
const LEN: u64 = SLOTS[1] + SLOT as u64;

/// A cut of the log: segments of older generations hold nothing after `keep`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cut {
    pub(crate) keep: Option<EntryId>,
    /// Next offset after `keep`.
    pub(crate) next_offset: u64,
    /// Nothing at all remains of older generations.
    pub(crate) all: bool,
}

/// Where a log ended when all of it was durable in its segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tail {
    pub(crate) salt: u64,
    pub(crate) position: u64,
    pub(crate) last: EntryId,
    pub(crate) next_offset: u64,
    pub(crate) max_timestamp: i64,
}

/// The durable words of a log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Words {
    /// Grows with every change.
    pub(crate) version: u64,
    pub(crate) vote: Option<Bytes>,
    /// Cuts so far; a segment begun now carries this number.
    pub(crate) generation: u64,
    pub(crate) cut: Option<Cut>,
    pub(crate) purged: Option<EntryId>,
    /// First offset that is retained (the next offset after `purged`).
    pub(crate) first_offset: u64,
    pub(crate) snapshot: Option<EntryId>,
    /// Highest index known durable when this was written.
    pub(crate) synced: Option<u64>,
    /// Only in the file, never in the journal.
    pub(crate) tail: Option<Tail>,
}

fn put_id(out: &mut Vec<u8>, id: Option<EntryId>) {
    out.push(u8::from(id.is_some()));
    let id = id.unwrap_or(EntryId {
        term: 0,
        leader: 0,
        index: 0,
    });
    for part in [id.term, id.leader, id.index] {
        out.extend_from_slice(&part.to_le_bytes());
    }
}

/// Reads fields one after another; `None` once the bytes end.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(head)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|byte| byte[0])
    }

    fn number(&mut self) -> Option<u64> {
        self.take(8).map(|bytes| u64_at(bytes, 0))
    }

    fn plain_id(&mut self) -> Option<EntryId> {
        Some(EntryId {
            term: self.number()?,
            leader: self.number()?,
            index: self.number()?,
        })
    }

    fn id(&mut self) -> Option<Option<EntryId>> {
        let present = self.byte()? == 1;
        let id = self.plain_id()?;
        Some(present.then_some(id))
    }
}

impl Words {
    /// version, generation, first offset, synced + 1; vote length (1 byte) and vote; purged,
    /// snapshot (flag and three numbers each); cut (flag, keep, next offset, all); tail (flag,
    /// salt, position, last, next offset, latest timestamp). Numbers take 8 bytes, little endian.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(320);
        let synced = self.synced.map_or(0, |index| index + 1);
        for number in [self.version, self.generation, self.first_offset, synced] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        // 255 stands for "no vote", which is not the same as an empty one.
        out.push(self.vote.as_ref().map_or(255, |vote| vote.len() as u8));
        out.extend_from_slice(self.vote.as_deref().unwrap_or_default());
        put_id(&mut out, self.purged);
        put_id(&mut out, self.snapshot);
        out.push(u8::from(self.cut.is_some()));
        let cut = self.cut.unwrap_or(Cut {
            keep: None,
            next_offset: 0,
            all: false,
        });
        put_id(&mut out, cut.keep);
        out.extend_from_slice(&cut.next_offset.to_le_bytes());
        out.push(u8::from(cut.all));
        out.push(u8::from(self.tail.is_some()));
        if let Some(tail) = &self.tail {
            let last = tail.last;
            let time = tail.max_timestamp as u64;
            for number in [
                tail.salt,
                tail.position,
                last.term,
                last.leader,
                last.index,
                tail.next_offset,
                time,
            ] {
                out.extend_from_slice(&number.to_le_bytes());
            }
        }
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Words> {
        let mut fields = Fields(bytes);
        let mut words = Words {
            version: fields.number()?,
            generation: fields.number()?,
            first_offset: fields.number()?,
            synced: fields.number()?.checked_sub(1),
            ..Words::default()
        };
        match fields.byte()? {
            255 => {}
            len if usize::from(len) <= MAX_VOTE => {
                words.vote = Some(Bytes::copy_from_slice(fields.take(len.into())?));
            }
            _ => return None,
        }
        words.purged = fields.id()?;
        words.snapshot = fields.id()?;
        let has_cut = fields.byte()? == 1;
        let cut = Cut {
            keep: fields.id()?,
            next_offset: fields.number()?,
            all: fields.byte()? == 1,
        };
        words.cut = has_cut.then_some(cut);
        if fields.byte()? == 1 {
            words.tail = Some(Tail {
                salt: fields.number()?,
                position: fields.number()?,
                last: fields.plain_id()?,
                next_offset: fields.number()?,
                max_timestamp: fields.number()? as i64,
            });
        }
        fields.0.is_empty().then_some(words)
    }
}

fn file_name(id: RaftId) -> String {
    format!("logs/{id}/state")
}

/// What a `state` file was found to hold.
pub(crate) enum StateFound {
    /// There is none: a log that was never drained.
    Missing,
    Words(Box<Words>),
    /// No whole slot: rot, because the file gets its name only when a slot is durable.
    Damaged,
    Foreign,
}

/// The `state` file of a log.
pub(crate) struct StateFile {
    handle: Option<Arc<dyn DiskFile>>,
    /// Space for the first save, under a temporary name.
    prepared: Option<Arc<dyn DiskFile>>,
}

impl StateFile {
    pub(crate) fn new() -> StateFile {
        StateFile {
            handle: None,
            prepared: None,
        }
    }

    /// Takes the space of a file that is not there yet, so that the first drain of a log does not
    /// meet a full disk. Nothing is synced: a crash leaves nothing, or what the start removes.
    pub(crate) fn prepare(disk: &dyn Disk, id: RaftId) -> Result<StateFile, Error> {
        let name = format!("{}.tmp", file_name(id));
        let handle = crate::checkpoint::create_again(disk, &name, LEN);
        let handle = handle.map_err(|error| match error.kind() {
            std::io::ErrorKind::StorageFull => Error::Full {
                wanted: LEN,
                free: disk.free_bytes().unwrap_or(0),
            },
            _ => Error::io(&name, "create", error),
        })?;
        Ok(StateFile {
            handle: None,
            prepared: Some(handle),
        })
    }

    /// Reads the newest whole slot, from the device unless the store was closed in order.
    pub(crate) fn load(
        disk: &dyn Disk,
        id: RaftId,
        clean: bool,
    ) -> Result<(StateFile, StateFound), Error> {
        let name = file_name(id);
        let handle = match disk.open(&name) {
            Ok(handle) => handle,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok((StateFile::new(), StateFound::Missing));
            }
            Err(error) => return Err(Error::io(&name, "open", error)),
        };
        if !clean {
            handle.sync().map_err(|e| Error::io(&name, "sync", e))?;
            handle
                .drop_cache()
                .map_err(|e| Error::io(&name, "drop cache", e))?;
        }
        let mut newest: Option<Words> = None;
        let mut foreign = true;
        for slot in SLOTS {
            let mut bytes = [0; SLOT];
            // An unreadable sector is as good as a damaged slot: there is another.
            let Ok(got) = handle.read_at(slot, &mut bytes) else {
                continue;
            };
            foreign &= bytes[..8] != MAGIC[..] && bytes[..got].iter().any(|byte| *byte != 0);
            if let Some(words) = decode_slot(&bytes[..got])
                && newest
                    .as_ref()
                    .is_none_or(|known| known.version < words.version)
            {
                newest = Some(words);
            }
        }
        let found = match newest {
            Some(words) => StateFound::Words(Box::new(words)),
            None if foreign => StateFound::Foreign,
            None => StateFound::Damaged,
        };
        Ok((
            StateFile {
                handle: Some(handle),
                prepared: None,
            },
            found,
        ))
    }

    /// Writes both slots; durable on return.
    pub(crate) fn save(&mut self, disk: &dyn Disk, id: RaftId, words: &Words) -> Result<(), Error> {
        let slot = encode_slot(words);
        let name = file_name(id);
        if let Some(handle) = &self.handle {
            return write_slots(handle.as_ref(), &slot)
                .map_err(|e| Error::io(&name, "write state", e));
        }
        let temporary = format!("{name}.tmp");
        let prepared = self.prepared.take();
        let create = || {
            let handle = match prepared {
                Some(handle) => handle,
                None => crate::checkpoint::create_again(disk, &temporary, LEN)?,
            };
            write_slots(handle.as_ref(), &slot)?;
            disk.rename(&temporary, &name)?;
            disk.sync_dir(&format!("logs/{id}"))?;
            Ok(handle)
        };
        self.handle = Some(create().map_err(|e| Error::io(&name, "create state", e))?);
        Ok(())
    }
}

fn write_slots(handle: &dyn DiskFile, slot: &[u8]) -> std::io::Result<()> {
    for position in SLOTS {
        handle.write_at(position, &[IoSlice::new(slot)])?;
        handle.sync()?;
    }
    Ok(())
}

fn encode_slot(words: &Words) -> Vec<u8> {
    let body = words.encode();
    let mut slot = Vec::with_capacity(SLOT);
    slot.extend_from_slice(MAGIC);
    slot.extend_from_slice(&[0; 4]);
    slot.extend_from_slice(&(body.len() as u32).to_le_bytes());
    slot.extend_from_slice(&body);
    assert!(
        slot.len() <= SLOT,
        "words fit a sector by the limit of the vote"
    );
    let crc = crc32c(&slot[12..]);
    slot[8..12].copy_from_slice(&crc.to_le_bytes());
    slot
}

fn decode_slot(bytes: &[u8]) -> Option<Words> {
    if bytes.len() < 16 || bytes[..8] != MAGIC[..] {
        return None;
    }
    let body = bytes.get(16..16 + u32_at(bytes, 12) as usize)?;
    if u32_at(bytes, 8) != crc32c(&bytes[12..16 + body.len()]) {
        return None;
    }
    Words::decode(body)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn words_come_back_and_no_flipped_bit_passes() {
        let id = EntryId {
            term: 1,
            leader: 2,
            index: 3,
        };
        let words = Words {
            version: 9,
            vote: Some(Bytes::from(vec![5; MAX_VOTE])),
            generation: 2,
            cut: Some(Cut {
                keep: Some(id),
                next_offset: 8,
                all: true,
            }),
            purged: Some(id),
            first_offset: 4,
            snapshot: None,
            synced: Some(0),
            tail: Some(Tail {
                salt: 1,
                position: 2,
                last: id,
                next_offset: 3,
                max_timestamp: -4,
            }),
        };
        let slot = encode_slot(&words);
        assert_eq!(decode_slot(&slot), Some(words));
        for bit in 0..slot.len() * 8 {
            let mut bad = slot.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode_slot(&bad), None, "bit {bit}");
        }
        assert_eq!(
            decode_slot(&encode_slot(&Words::default())),
            Some(Words::default())
        );
        for len in 0..slot.len() {
            assert_eq!(decode_slot(&slot[..len]), None);
        }
    }
}
