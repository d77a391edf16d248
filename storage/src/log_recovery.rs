//! One log's recovery: which of its segments live, where it ends, and what of it is damaged.
//!
//! The rules are in `recovery.rs`. A segment is dead, and its file goes back to the pool, if
//! - it is older than the log's last cut and begins after it,
//! - a segment before it has a higher generation,
//! - the next one begins at or below the purge point's successor.

use std::collections::BTreeMap;
use std::sync::Arc;

pub(crate) use self::files::{FoundSegment, LogFiles};
use self::files::{is_cut_away, remove};
use crate::checkpoint;
use crate::error::Error;
use crate::index::{IndexSlot, SparseIndex};
use crate::log::{Damage, Part, View};
use crate::pool::POOL_DIR;
use crate::recovery::{Context, anchor, write_header};
use crate::scan::{self, Known, Scan};
use crate::segment::{FIRST_ENTRY, HeaderFound, Segment, SegmentHeader};
use crate::state_file::{StateFile, Words};

mod files;

/// A segment that lives.
pub(crate) struct Living {
    pub(crate) segment: Arc<Segment>,
    pub(crate) journaled_index: Option<u64>,
    pub(crate) touched: bool,
}

/// Brings one log to order; everything the view says is durable on return.
pub(crate) fn settle(
    context: &Context<'_>,
    mut files: LogFiles,
) -> Result<(View, StateFile), Error> {
    finish_install(context, &mut files)?;
    let unborn = sort_out(&mut files);
    let living = take_living(&mut files);
    let mut words = files.words.clone();
    let start = newest_checkpoint(context, &files, &living)?;
    let evidence = start.map(|start| start.saturating_sub(1)).max(words.synced);
    let evidence = evidence.max(files.orphans.values().copied().max());
    let clean = clean_tail(context, &words, &living, &unborn);
    let mut scan = match clean {
        Some(scan) => scan,
        None => {
            let known = Known {
                words: &words,
                living: &living,
                start,
                evidence,
            };
            if !context.clean {
                settle_living(context, &files.dir(), &known)?;
            }
            scan::run(&files.dir(), &known)?
        }
    };
    // After a clean close every header is whole.
    for (first_index, found) in unborn
        .iter()
        .filter(|(_, found)| context.clean || found.header == HeaderFound::Rotten)
    {
        scan.damage.push(header_damage(*first_index, found));
    }
    restore_end(context, &words, &files.dir(), &mut scan);
    let is_saved = files.saved_version >= Some(words.version);
    let mut changed = files.replayed_words || !is_saved;
    if let Some(cut) = scan.cut {
        words.generation += 1;
        words.version += 1;
        words.cut = Some(cut);
        changed = true;
    }
    if !context.clean {
        words.synced = scan.last.map(|last| last.index);
    }
    // The cut is durable before the segments behind it lose their names.
    words.tail = None;
    if changed && !files.state_damaged && words.version > 0 {
        files.state.save(context.disk.as_ref(), files.id, &words)?;
    }
    if scan.damage.is_empty() {
        files
            .retired
            .extend(unborn.into_iter().map(|(_, found)| found.file));
        let dead = living.iter().skip(scan.parts.len());
        files
            .retired
            .extend(dead.map(|dead| dead.segment.file.clone()));
    }
    drop(living);
    if let Some(part) = scan.parts.last() {
        grow_index(context, &files.dir(), part)?;
    }
    clear_up(context, &mut files, &scan)?;
    Ok((
        view_of(files.state_damaged, &files, scan, words),
        files.state,
    ))
}

/// After a clean close the words know the end even if the segment does not reach it any more.
fn restore_end(context: &Context<'_>, words: &Words, dir: &str, scan: &mut Scan) {
    let Some(tail) = words.tail.filter(|_| context.clean) else {
        return;
    };
    let found = scan.last.map(|last| last.index);
    if found >= Some(tail.last.index) {
        return;
    }
    let file = scan
        .parts
        .last()
        .map_or(dir.to_string(), |part| part.segment.name());
    scan.damage.push(Damage {
        first_index: found.map_or(0, |found| found + 1),
        last_index: Some(tail.last.index),
        base_offset: scan.next_offset,
        file,
        position: scan.parts.last().map_or(0, |part| part.end),
        why: "the end of the log is missing".into(),
    });
    (scan.last, scan.next_offset) = (Some(tail.last), tail.next_offset);
    (scan.cut, scan.end_lost) = (None, false);
}

fn header_damage(first_index: u64, found: &FoundSegment) -> Damage {
    Damage {
        first_index,
        last_index: None,
        base_offset: 0,
        file: found.file.name(),
        position: 0,
        why: "segment header".into(),
    }
}

fn state_damage(dir: &str) -> Damage {
    Damage {
        first_index: 0,
        last_index: None,
        base_offset: 0,
        file: format!("{dir}/state"),
        position: 0,
        why: "no whole slot: the vote may be lost".into(),
    }
}

/// An installed snapshot has its real name only if the words came to know it.
fn finish_install(context: &Context<'_>, files: &mut LogFiles) -> Result<(), Error> {
    let snapshot = files.words.snapshot.map(|snapshot| snapshot.index + 1);
    for boundary in std::mem::take(&mut files.installs) {
        let waiting = format!("{}/{boundary:020}.install", files.dir());
        if Some(boundary) != snapshot {
            remove(context, &waiting)?;
            continue;
        }
        let name = format!("{}/{boundary:020}.ckpt", files.dir());
        let renamed = context.disk.rename(&waiting, &name);
        let done = renamed.and_then(|()| context.disk.sync_dir(&files.dir()));
        done.map_err(|e| Error::io(&name, "rename", e))?;
        files.checkpoints.insert(boundary);
    }
    Ok(())
}

/// Takes the dead out by their headers; returns those whose header is not whole.
fn sort_out(files: &mut LogFiles) -> Vec<(u64, FoundSegment)> {
    let words = &files.words;
    let (mut unborn, mut living) = (Vec::new(), BTreeMap::new());
    let mut generation = 0;
    for (first_index, found) in std::mem::take(&mut files.segments) {
        let HeaderFound::Valid(header) = found.header else {
            unborn.push((first_index, found));
            continue;
        };
        let cut_away = is_cut_away(words, &header);
        if cut_away || header.generation < generation {
            files.retired.push(found.file);
            continue;
        }
        generation = header.generation;
        living.insert(first_index, found);
    }
    if let Some(purged) = words.purged {
        let begins: Vec<u64> = living.keys().copied().collect();
        for pair in begins.windows(2).filter(|pair| pair[1] <= purged.index + 1) {
            if let Some(found) = living.remove(&pair[0]) {
                files.retired.push(found.file);
            }
        }
    }
    files.segments = living;
    unborn
}

fn take_living(files: &mut LogFiles) -> Vec<Living> {
    let mut living = Vec::new();
    for found in std::mem::take(&mut files.segments).into_values() {
        if let HeaderFound::Valid(header) = found.header {
            // No crash leaves a whole header in a shorter file: whatever is missing was there.
            let is_short = found.file.capacity < header.capacity;
            let journaled_index = if is_short {
                Some(u64::MAX)
            } else {
                found.journaled_index
            };
            let header = SegmentHeader {
                capacity: found.file.capacity,
                ..header
            };
            let segment = Arc::new(Segment::new(found.file, header, IndexSlot::Absent));
            let touched = found.touched;
            living.push(Living {
                segment,
                journaled_index,
                touched,
            });
        }
    }
    living
}

/// First index after the newest whole checkpoint that fits a living segment.
fn newest_checkpoint(
    context: &Context<'_>,
    files: &LogFiles,
    living: &[Living],
) -> Result<Option<u64>, Error> {
    for boundary in files.checkpoints.iter().rev() {
        let fits = living
            .iter()
            .find(|living| living.segment.header.first_index == *boundary);
        let Some(before) = fits.and_then(|living| living.segment.header.previous) else {
            continue;
        };
        let name = format!("{}/{boundary:020}.ckpt", files.dir());
        let found = checkpoint::read_file(context.disk.as_ref(), &name, files.id)?;
        if found.is_some_and(|found| found.last == before) {
            return Ok(Some(*boundary));
        }
    }
    Ok(None)
}

/// After a clean close the words say where the log ends, and every segment what is before it.
fn clean_tail(
    context: &Context<'_>,
    words: &Words,
    living: &[Living],
    unborn: &[(u64, FoundSegment)],
) -> Option<Scan> {
    let tail = words.tail.filter(|_| context.clean && unborn.is_empty())?;
    let (last, before) = living.split_last()?;
    let header = &last.segment.header;
    let fits = header.salt == tail.salt && tail.position <= header.capacity;
    if !fits || tail.last.index + 1 < header.first_index {
        return None;
    }
    let mut scan = Scan {
        verified_from: living.len(),
        last: Some(tail.last),
        next_offset: tail.next_offset,
        cut_here: header.generation < words.generation,
        ..Scan::default()
    };
    for (at, sealed) in before.iter().enumerate() {
        let said = living[at + 1].segment.header.sealed;
        if said.salt != sealed.segment.header.salt {
            return None;
        }
        let (segment, end) = (sealed.segment.clone(), said.end);
        scan.parts.push(Part {
            segment,
            end,
            max_timestamp: said.max_timestamp,
        });
    }
    let first = living[0].segment.header;
    let floor = words.purged.map_or(0, |purged| purged.index + 1);
    if first.first_index > floor && (words.purged.is_some() || first.previous.is_some()) {
        return None;
    }
    let (segment, end) = (last.segment.clone(), tail.position);
    scan.parts.push(Part {
        segment,
        end,
        max_timestamp: tail.max_timestamp,
    });
    Some(scan)
}

/// The active segment's index goes on growing: from its file, or built again.
fn grow_index(context: &Context<'_>, dir: &str, part: &Part) -> Result<(), Error> {
    let mut slot = part.segment.index.lock();
    if !matches!(*slot, IndexSlot::Absent) {
        return Ok(());
    }
    let name = format!("{dir}/{:020}.idx", part.first_index());
    let read = || {
        let handle = context.disk.open(&name).ok()?;
        let mut bytes = vec![0; handle.len().ok()? as usize];
        let got = handle.read_at(0, &mut bytes).ok()?;
        SparseIndex::decode(&bytes[..got], part.segment.header.salt)
    };
    let sparse = match read() {
        Some(sparse) if sparse.end() == part.end => sparse,
        _ => crate::locate::build_index(&part.segment, part.end)?,
    };
    *slot = IndexSlot::Growing(sparse);
    Ok(())
}

/// What the scan will read is made durable first, with the headers it goes by, and then read from
/// the device: memory may hold what never got there.
fn settle_living(context: &Context<'_>, dir: &str, known: &Known<'_>) -> Result<(), Error> {
    let begin = known.begin();
    let scanned = known.living.iter().enumerate();
    let scanned = scanned.filter(|(at, living)| *at >= begin || living.touched);
    for (_, living) in scanned {
        let segment = &living.segment;
        let file = &segment.file;
        // A file that was cut short is left as it is.
        if file.capacity > FIRST_ENTRY {
            write_header(file, &segment.header)?;
        }
        let settled = file.handle.sync().and_then(|()| file.handle.drop_cache());
        settled.map_err(|e| Error::io(&file.name(), "sync", e))?;
    }
    if known.living.is_empty() {
        return Ok(());
    }
    let synced = context.disk.sync_dir(dir);
    synced.map_err(|e| Error::io(dir, "sync directory", e))
}

/// Gives back the files of the dead and removes what belongs to nothing.
fn clear_up(context: &Context<'_>, files: &mut LogFiles, scan: &Scan) -> Result<(), Error> {
    let dir = files.dir();
    for boundary in std::mem::take(&mut files.indexes) {
        if scan.parts.iter().all(|part| part.first_index() != boundary) {
            remove(context, &format!("{dir}/{boundary:020}.idx"))?;
        }
    }
    let end = scan.last.map_or(0, |last| last.index + 1);
    let beyond: Vec<u64> = files
        .checkpoints
        .iter()
        .copied()
        .filter(|at| *at > end)
        .collect();
    for boundary in beyond {
        // Ahead of the log: never counted; with damage it is kept for whoever repairs.
        files.checkpoints.remove(&boundary);
        if scan.damage.is_empty() {
            remove(context, &format!("{dir}/{boundary:020}.ckpt"))?;
        }
    }
    if files.retired.is_empty() {
        return Ok(());
    }
    for file in &files.retired {
        file.retire()?;
    }
    for dir in [dir.as_str(), POOL_DIR] {
        context
            .disk
            .sync_dir(dir)
            .map_err(|e| Error::io(dir, "sync directory", e))?;
    }
    for file in files.retired.drain(..) {
        file.allow_reuse();
    }
    Ok(())
}

fn view_of(state_damaged: bool, files: &LogFiles, scan: Scan, words: Words) -> View {
    let mut view = View {
        last: scan.last,
        next_offset: scan.next_offset,
        synced: scan.last.map(|last| last.index),
        cut_here: scan.cut_here,
        damage: scan.damage,
        missing_front: scan.missing_front,
        end_lost: scan.end_lost,
        checkpoints: files.checkpoints.clone(),
        durable: Arc::new(words.clone()),
        words,
        ..View::default()
    };
    if state_damaged {
        view.damage.push(state_damage(&files.dir()));
    }
    view.read_only = !view.damage.is_empty();
    for part in scan.parts {
        anchor(&part.segment, part.end);
        view.parts.push(part);
    }
    view
}
