//! Opening: the journal is replayed onto the segments, then each log is brought to order.
//!
//! Three outcomes for bytes that are not what they should be, each of its own:
//!
//! - **torn tail**: above everything known durable. It is cut, and what comes next goes into a new
//!   segment, so that no old byte behind the cut can ever be read as an entry;
//! - **rot**: at or below what is known durable. It is kept, reported in `Log::damage`, everything
//!   else stays readable, and the log takes no appends;
//! - **foreign**: unknown names, magic or version. The store does not open.
//!
//! What is known durable: the synced marks of all entries and segment headers that can be read (also
//! behind the bad place), the log's words, the journal's records, the newest checkpoint.
//!
//! After the death of the process alone, what is read here may be in the page cache only, and after
//! a failed sync (which ends the process) it may never get further: its pages count as clean. So
//! what the journal holds is written again even where it seems to be there, and directories, words
//! and every segment that is scanned are synced first and then read from the device.
//!
//! Recovery may crash at any of its own calls: replay writes what was written before, cuts are saved
//! before anything relies on them, and the journal is reset last.
//! What lives here must never know: threads, readers. It runs before both.

use std::collections::BTreeMap;
use std::io::IoSlice;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::disk::Disk;
use crate::entry::RaftId;
use crate::error::Error;
use crate::journal::{self, Record};
use crate::log::{Damage, View};
use crate::log_recovery::{self, LogFiles};
use crate::node::LOGS_DIR;
use crate::pool::{POOL_DIR, Pool, SegmentFile};
use crate::segment::{HeaderFound, SegmentHeader, segment_name};
use crate::state_file::StateFile;

/// What recovery hands to the store.
pub(crate) struct Recovered {
    pub(crate) logs: BTreeMap<RaftId, (View, StateFile)>,
    pub(crate) journal_damage: Vec<Damage>,
}

/// What all steps need.
pub(crate) struct Context<'a> {
    pub(crate) disk: &'a Arc<dyn Disk>,
    pub(crate) pool: &'a Arc<Pool>,
    pub(crate) clean: bool,
}

/// Brings every log of the directory to order.
pub(crate) fn run(
    disk: &Arc<dyn Disk>,
    pool: &Arc<Pool>,
    found: &mut journal::Found,
    clean: bool,
) -> Result<Recovered, Error> {
    let context = Context { disk, pool, clean };
    if !clean {
        for dir in [journal::JOURNAL_DIR, POOL_DIR, LOGS_DIR] {
            disk.sync_dir(dir)
                .map_err(|e| Error::io(dir, "sync directory", e))?;
        }
    }
    let mut logs = find_logs(&context)?;
    if !clean {
        replay(&context, &mut logs, found)?;
    }
    let journal_damage = found.damage.iter().map(|damage| Damage {
        first_index: 0,
        last_index: None,
        base_offset: 0,
        file: damage.file.clone(),
        position: damage.position,
        why: format!("journal: {}", damage.why),
    });
    let journal_damage = journal_damage.collect();
    let mut recovered = BTreeMap::new();
    for (id, files) in logs {
        recovered.insert(id, log_recovery::settle(&context, files)?);
    }
    Ok(Recovered {
        logs: recovered,
        journal_damage,
    })
}

fn find_logs(context: &Context<'_>) -> Result<BTreeMap<RaftId, LogFiles>, Error> {
    let mut logs = BTreeMap::new();
    let items = context
        .disk
        .list(LOGS_DIR)
        .map_err(|e| Error::io(LOGS_DIR, "list", e))?;
    for item in items {
        let path = format!("{LOGS_DIR}/{}", item.name);
        let gone = item
            .name
            .strip_suffix(".gone")
            .and_then(|id| id.parse::<RaftId>().ok());
        if gone.is_some() && item.is_dir {
            remove_tree(context.disk.as_ref(), &path)?;
            continue;
        }
        match item.name.parse::<RaftId>() {
            Ok(id) if item.is_dir && id.to_string() == item.name => {
                logs.insert(id, LogFiles::load(context, id)?);
            }
            _ => {
                return Err(Error::Foreign {
                    path,
                    why: "unknown name".into(),
                });
            }
        }
    }
    Ok(logs)
}

/// Removes a directory of plain files; fine if it is not there.
pub(crate) fn remove_tree(disk: &dyn Disk, dir: &str) -> Result<(), Error> {
    let remove = || {
        for item in disk.list(dir)? {
            disk.remove(&format!("{dir}/{}", item.name))?;
        }
        disk.remove_dir(dir)
    };
    match remove() {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io(dir, "remove directory", error))
        }
        _ => Ok(()),
    }
}

/// Repeats what the journal holds, oldest first.
fn replay(
    context: &Context<'_>,
    logs: &mut BTreeMap<RaftId, LogFiles>,
    found: &mut journal::Found,
) -> Result<(), Error> {
    let mut damage = Vec::new();
    for file in &found.files {
        journal::read_file(file, &mut damage, &mut |record| match record {
            Record::Words { raft_id, words } => match logs.get_mut(&raft_id) {
                Some(files) => files.take_words(*words),
                None => Ok(()),
            },
            Record::Begun { header } => match logs.get_mut(&header.raft_id) {
                Some(files) => repeat_begun(context, files, header),
                None => Ok(()),
            },
            Record::Entries { place, bytes } => match logs.get_mut(&place.raft_id) {
                Some(files) => repeat_entries(files, &place, &bytes),
                None => Ok(()),
            },
        })?;
    }
    found.damage.append(&mut damage);
    Ok(())
}

/// A segment whose creation was acknowledged through the journal must exist.
fn repeat_begun(
    context: &Context<'_>,
    files: &mut LogFiles,
    header: SegmentHeader,
) -> Result<(), Error> {
    if let Some(known) = files.segments.get(&header.first_index) {
        match known.header {
            HeaderFound::Valid(found) if found.salt == header.salt => {
                // It may be in memory only (see `repeat_entries`).
                let (file, first_index) = (known.file.clone(), header.first_index);
                write_header(&file, &found)?;
                files.touch(first_index);
                return Ok(());
            }
            // A later segment took the place of this one.
            HeaderFound::Valid(found) if found.generation > header.generation => return Ok(()),
            // Nobody can say what it holds: it is kept and reported.
            HeaderFound::Rotten => return Ok(()),
            // An older one that was cut away before this was begun, or bytes of the file's
            // last use: the name was this one's to take.
            _ => known.file.retire()?,
        }
        if let Some(old) = files.segments.remove(&header.first_index) {
            files.retired.push(old.file);
        }
    }
    let file = context.pool.take_regardless(header.capacity)?;
    let header = SegmentHeader {
        capacity: file.capacity,
        ..header
    };
    write_header(&file, &header)?;
    file.rename(segment_name(header.raft_id, header.first_index))?;
    files.add_segment(file, HeaderFound::Valid(header), true);
    Ok(())
}

pub(crate) fn write_header(file: &SegmentFile, header: &SegmentHeader) -> Result<(), Error> {
    let block = header.encode();
    let written = file.handle.write_at(0, &[IoSlice::new(&block)]);
    written.map_err(|e| Error::io(&file.name(), "write", e))
}

/// Writes journaled bytes to their place, where that segment still exists in that use. Also where
/// they seem to be there: after a failed sync memory shows what the device does not hold, and the
/// next sync finds nothing to do.
fn repeat_entries(files: &mut LogFiles, place: &journal::Place, bytes: &[u8]) -> Result<(), Error> {
    let Some(segment) = files.segments.get_mut(&place.first_index) else {
        return Ok(());
    };
    let HeaderFound::Valid(header) = segment.header else {
        files.note_orphan(place.first_index, place.last_index);
        return Ok(());
    };
    let end = place.position.saturating_add(bytes.len() as u64);
    if header.salt != place.salt || end > segment.file.capacity {
        return Ok(());
    }
    segment.journaled_index = segment.journaled_index.max(Some(place.last_index));
    segment.touched = true;
    let name = segment.file.name();
    let handle = &segment.file.handle;
    let written = handle.write_at(place.position, &[IoSlice::new(bytes)]);
    written.map_err(|e| Error::io(&name, "write", e))
}

/// Marks a segment's file and name as durable.
pub(crate) fn anchor(segment: &crate::segment::Segment, end: u64) {
    segment.note_synced(end);
    segment.anchored.store(true, Ordering::Release);
}
