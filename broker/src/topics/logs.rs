//! The logs behind a topic's partitions: opened, or made where they are missing.
//!
//! Blocking: called on a thread that may wait for the disk. Never knows what runs on them.

use std::{collections::BTreeSet, io};

use aqueduct_storage::{Error, Log, Store};

use crate::{error::Refusal, files, metadata::no_room};

/// What a new log takes before its first command: its membership and the leader's first entry.
const FIRST_ENTRIES_BYTES: u64 = 4 << 10;

/// Whether a new log must have room for its first entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Room {
    /// Without it nothing is started: the partition would serve nothing until the next start.
    Needed,
    /// The node starts: what can be served is, and a log without room waits for the next start.
    NotAsked,
}

/// Refuses so many partitions beside those of `now`, if the disk has no room for them or this
/// process may not open their files.
pub(super) fn check_room(store: &Store, now: usize, more: u32) -> Result<(), Refusal> {
    files::check_partitions(now, more as usize, files::limit())?;
    let room = store.check_room_for_logs(more.into());
    room.map_err(|error| no_room(&error))
}

/// Opens logs, or makes them where a crash came before.
///
/// # Errors
/// What storage says; without room nothing has to be undone, the next try goes on from there.
pub(super) fn open_or_make(store: &Store, groups: &[u64], room: Room) -> io::Result<Vec<Log>> {
    let existing: BTreeSet<u64> = store.logs().into_iter().collect();
    let is_missing = |id: &&u64| !existing.contains(id);
    let missing: Vec<u64> = groups.iter().filter(is_missing).copied().collect();
    store.create_logs(&missing).map_err(io::Error::other)?;
    let open = |id: &u64| {
        let log = store.open_log(*id)?;
        if room == Room::Needed {
            take_room(&log)?;
        }
        Ok(log)
    };
    let opened: Result<_, Error> = groups.iter().map(open).collect();
    opened.map_err(io::Error::other)
}

/// Only asked, not kept: the segment that is taken for it stays with the log. A damaged log gets no
/// entries.
fn take_room(log: &Log) -> Result<(), Error> {
    if log.last_id().is_none() && log.damage().is_empty() {
        log.reserve(FIRST_ENTRIES_BYTES)?;
        log.unreserve(FIRST_ENTRIES_BYTES);
    }
    Ok(())
}
