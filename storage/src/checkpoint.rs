//! Checkpoints: opaque state as of a segment boundary, in a file beside the segment.
//!
//! What is promised: a checkpoint never lies ahead of what is durable here (it is written only once
//! its last entry is); it gets its name when it is durable; a damaged one is passed over for an
//! older one. What lives here must never know: what the state means.
//!
//! File `<index after last>.ckpt`, two copies one after the other, each:
//!
//! | Bytes | Field | |
//! |---|---|---|
//! | 0..8 | magic | `AQDCKP01` |
//! | 8..12 | checksum | CRC-32C of bytes 12..(56 + length) |
//! | 12..16 | reserved | 0 |
//! | 16..24 | raft id | |
//! | 24..48 | last id | term, leader, index |
//! | 48..56 | length | bytes of the state |
//! | 56.. | state | |
//!
//! The second copy begins at the end of the first, rounded up to 512; its place follows from the
//! length of the file, which is twice that.

use std::io::IoSlice;
use std::sync::Arc;

use aqueduct_proto::crc::crc32c;
use bytes::Bytes;

use crate::drain::Job;
use crate::entry::{EntryId, RaftId, u32_at, u64_at};
use crate::error::Error;
use crate::log::{Checkpoint, LogInner};

const MAGIC: &[u8; 8] = b"AQDCKP01";
const HEAD: usize = 56;
const ALIGN: usize = 512;

pub(crate) fn encode(id: RaftId, last: EntryId, state: &[u8]) -> Vec<u8> {
    let mut copy = Vec::with_capacity(HEAD + state.len() + ALIGN);
    copy.extend_from_slice(MAGIC);
    copy.extend_from_slice(&[0; 8]);
    for number in [id, last.term, last.leader, last.index, state.len() as u64] {
        copy.extend_from_slice(&number.to_le_bytes());
    }
    copy.extend_from_slice(state);
    let crc = crc32c(&copy[12..]);
    copy[8..12].copy_from_slice(&crc.to_le_bytes());
    copy.resize(copy.len().next_multiple_of(ALIGN), 0);
    let len = copy.len();
    copy.extend_from_within(..len);
    copy
}

pub(crate) fn decode(bytes: &Bytes, id: RaftId) -> Option<Checkpoint> {
    let half = bytes.len() / 2;
    decode_copy(bytes, id).or_else(|| decode_copy(&bytes.slice(half..), id))
}

fn decode_copy(bytes: &Bytes, id: RaftId) -> Option<Checkpoint> {
    if bytes.len() < HEAD || bytes[..8] != MAGIC[..] || u64_at(bytes, 16) != id {
        return None;
    }
    let len = usize::try_from(u64_at(bytes, 48)).ok()?;
    let end = HEAD.checked_add(len).filter(|end| *end <= bytes.len())?;
    if u32_at(bytes, 8) != crc32c(&bytes[12..end]) {
        return None;
    }
    let last = EntryId {
        term: u64_at(bytes, 24),
        leader: u64_at(bytes, 32),
        index: u64_at(bytes, 40),
    };
    Some(Checkpoint {
        last,
        state: bytes.slice(HEAD..end),
    })
}

impl LogInner {
    pub(crate) fn checkpoint_name(&self, boundary: u64) -> String {
        format!("{}/{boundary:020}.ckpt", self.dir())
    }

    pub(crate) fn queue_checkpoint(self: &Arc<Self>, last: EntryId, state: Bytes) {
        let due = {
            let mut view = self.view.lock();
            view.waiting_checkpoints.insert(last.index, (last, state));
            view.synced >= Some(last.index)
        };
        if due {
            self.shared.drain.submit(Job::Checkpoints(self.clone()));
        }
    }

    /// Writes the queued checkpoints whose last entry is durable. A full disk costs the checkpoint,
    /// not the log: start-up then reads a little more.
    pub(crate) fn write_checkpoints(&self) -> Result<(), Error> {
        loop {
            let (last, state) = {
                let mut view = self.view.lock();
                let synced = view.synced;
                let due = view.waiting_checkpoints.first_entry();
                match due.filter(|due| synced >= Some(*due.key())) {
                    Some(due) => due.remove(),
                    None => return Ok(()),
                }
            };
            if self.is_removed() {
                return Ok(());
            }
            match self.write_checkpoint(last, &state, "ckpt") {
                Ok(()) => {}
                Err(Error::Full { .. }) => continue,
                Err(error) => return Err(error),
            }
            let mut view = self.view.lock();
            view.checkpoints.insert(last.index + 1);
            let newest = view.last.map(|newest| newest.index);
            drop(view);
            // A truncation may have come between, too early to see the file.
            self.drop_checkpoints_after(newest)?;
        }
    }

    /// Writes a checkpoint under a temporary name and gives it its own; durable on return.
    pub(crate) fn write_checkpoint(
        &self,
        last: EntryId,
        state: &[u8],
        kind: &str,
    ) -> Result<(), Error> {
        let bytes = encode(self.id, last, state);
        let name = format!("{}/{:020}.{kind}", self.dir(), last.index + 1);
        let temporary = format!("{name}.tmp");
        let disk = self.shared.disk.as_ref();
        let free = self.shared.pool.free_bytes();
        if bytes.len() as u64 > free {
            return Err(Error::Full {
                wanted: bytes.len() as u64,
                free,
            });
        }
        let write = || {
            let handle = create_again(disk, &temporary, 0)?;
            handle.write_at(0, &[IoSlice::new(&bytes)])?;
            handle.sync()?;
            disk.rename(&temporary, &name)?;
            disk.sync_dir(&self.dir())
        };
        match write() {
            Ok(()) => Ok(()),
            Err(_) if self.is_removed() => Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::StorageFull => {
                let _ = disk.remove(&temporary);
                Err(Error::Full {
                    wanted: bytes.len() as u64,
                    free,
                })
            }
            Err(error) => Err(Error::io(&name, "write checkpoint", error)),
        }
    }

    /// The newest readable checkpoint whose boundary is not above `limit`.
    pub(crate) fn checkpoint_up_to(&self, limit: u64) -> Result<Option<Checkpoint>, Error> {
        // What is queued and durable counts: the caller need not know when the file is written.
        let known: Vec<u64> = {
            let view = self.view.lock();
            view.checkpoints.range(..=limit).rev().copied().collect()
        };
        for boundary in known {
            if let Some(found) = self.read_checkpoint(boundary)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// The checkpoint of a boundary; `None` if it is missing or damaged.
    pub(crate) fn read_checkpoint(&self, boundary: u64) -> Result<Option<Checkpoint>, Error> {
        let found = read_file(
            self.shared.disk.as_ref(),
            &self.checkpoint_name(boundary),
            self.id,
        )?;
        Ok(found.filter(|found| found.last.index + 1 == boundary))
    }

    pub(crate) fn set_snapshot(self: &Arc<Self>, last: EntryId) -> Result<(), Error> {
        let _order = self.append.lock();
        self.shared.check_open()?;
        // The checkpoint may still be queued; one that is not durable yet cannot be a snapshot.
        self.write_checkpoints()?;
        let known = self
            .read_checkpoint(last.index + 1)?
            .filter(|found| found.last == last);
        if known.is_none() {
            let newest = self.view.lock().checkpoints.last().copied().unwrap_or(0);
            return Err(Error::invalid("snapshot index", last.index, newest));
        }
        self.save_words(|view| view.words.snapshot = Some(last))
    }

    pub(crate) fn snapshot(&self) -> Result<Option<Checkpoint>, Error> {
        let Some(last) = self.view.lock().words.snapshot else {
            return Ok(None);
        };
        match self.read_checkpoint(last.index + 1)? {
            Some(found) if found.last == last => Ok(Some(found)),
            _ => {
                let name = self.checkpoint_name(last.index + 1);
                Err(Error::corrupt(
                    &name,
                    0,
                    "the current snapshot cannot be read",
                ))
            }
        }
    }

    /// Order: the checkpoint under a name that recovery does not count, then the words (which make
    /// it the snapshot and cut the log), then its real name. A crash between leaves the old log, or
    /// the new one with a file that recovery renames.
    pub(crate) fn install(
        self: &Arc<Self>,
        checkpoint: Checkpoint,
        next_offset: u64,
    ) -> Result<(), Error> {
        let _order = self.append.lock();
        self.shared.check_open()?;
        let last = checkpoint.last;
        self.write_checkpoint(last, &checkpoint.state, "install")?;
        self.restart_after(last, next_offset, Some(last))?;
        let name = self.checkpoint_name(last.index + 1);
        let waiting = format!("{}/{:020}.install", self.dir(), last.index + 1);
        let disk = self.shared.disk.as_ref();
        let renamed = disk
            .rename(&waiting, &name)
            .and_then(|()| disk.sync_dir(&self.dir()));
        renamed
            .map_err(|e| Error::io(&name, "rename", e))
            .inspect_err(|e| self.shared.fail(e))?;
        self.view.lock().checkpoints.insert(last.index + 1);
        self.drop_checkpoints_before_snapshot()
    }

    /// Checkpoints of what was cut away go with it.
    pub(crate) fn drop_checkpoints_after(&self, last: Option<u64>) -> Result<(), Error> {
        let keep = last.map_or(0, |last| last + 1);
        self.drop_checkpoints(|boundary| boundary > keep)
    }

    /// What lies below the current snapshot is of no use any more, once the words that name it are
    /// durable: until then a crash brings the older one back.
    pub(crate) fn drop_checkpoints_before_snapshot(&self) -> Result<(), Error> {
        let snapshot = self.view.lock().durable.snapshot;
        let Some(snapshot) = snapshot else {
            return Ok(());
        };
        self.drop_checkpoints(|boundary| boundary <= snapshot.index)
    }

    fn drop_checkpoints(&self, gone: impl Fn(u64) -> bool) -> Result<(), Error> {
        let dropped: Vec<u64> = {
            let mut view = self.view.lock();
            let snapshots = [view.words.snapshot, view.durable.snapshot];
            let snapshots = snapshots.map(|snapshot| snapshot.map(|last| last.index + 1));
            let gone = |boundary: &u64| gone(*boundary) && !snapshots.contains(&Some(*boundary));
            let dropped = view
                .checkpoints
                .iter()
                .copied()
                .filter(|b| gone(b))
                .collect();
            view.checkpoints.retain(|boundary| !gone(boundary));
            dropped
        };
        for boundary in &dropped {
            let name = self.checkpoint_name(*boundary);
            match self.shared.disk.remove(&name) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Error::io(&name, "remove", error));
                }
                _ => {}
            }
        }
        if dropped.is_empty() {
            Ok(())
        } else {
            self.sync_dir()
        }
    }
}

/// Reads a checkpoint's file; `None` if it is missing or damaged.
pub(crate) fn read_file(
    disk: &dyn crate::disk::Disk,
    name: &str,
    id: RaftId,
) -> Result<Option<Checkpoint>, Error> {
    let handle = match disk.open(name) {
        Ok(handle) => handle,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io(name, "open", error)),
    };
    let len = handle.len().map_err(|e| Error::io(name, "stat", e))?;
    let mut bytes = vec![0; len as usize];
    // An unreadable sector in one copy leaves the other.
    let half = bytes.len() / 2;
    let (first, second) = bytes.split_at_mut(half);
    if handle.read_at(0, first).is_err() {
        first.fill(0);
    }
    if handle.read_at(half as u64, second).is_err() {
        second.fill(0);
    }
    Ok(decode(&Bytes::from(bytes), id))
}

/// Creates a file, over one of the same name that an earlier crash has left.
pub(crate) fn create_again(
    disk: &dyn crate::disk::Disk,
    name: &str,
    len: u64,
) -> std::io::Result<Arc<dyn crate::disk::DiskFile>> {
    match disk.create(name, len) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            disk.remove(name)?;
            disk.create(name, len)
        }
        other => other,
    }
}
