//! Reading a log's segments at start: where it ends, what was torn, what is damaged.
//!
//! Pure but for the reads: it changes no file. What is promised: an entry is counted only if it and
//! everything before it (from the newest checkpoint on) is whole and continues index and offset; a
//! bad place is a torn tail only if nothing that can be read says that it was durable. What lives
//! here must never know: the journal, files' names, what is done about it.

use crate::disk::BLOCK;
use crate::entry::{EntryId, HEADER_LEN, Header, Kind, batch_facts};
use crate::error::Error;
use crate::index::{IndexSlot, SparseIndex};
use crate::log::{Damage, Part};
use crate::log_recovery::Living;
use crate::segment::{CHUNK, FIRST_ENTRY, Found, NO_TIMESTAMP, Segment, Walker};
use crate::state_file::{Cut, Words};

/// Free space is skipped in steps of this.
const ZEROS: [u8; 512] = [0; 512];

/// What was found.
#[derive(Default)]
pub(crate) struct Scan {
    /// The living segments that remain: a prefix of what was given.
    pub(crate) parts: Vec<Part>,
    /// Entries were verified from this part on.
    pub(crate) verified_from: usize,
    pub(crate) last: Option<EntryId>,
    pub(crate) next_offset: u64,
    /// A torn tail is to be cut here.
    pub(crate) cut: Option<Cut>,
    /// The next append must begin a new segment.
    pub(crate) cut_here: bool,
    pub(crate) damage: Vec<Damage>,
    pub(crate) missing_front: Option<(u64, u64)>,
    pub(crate) end_lost: bool,
}

/// What the scan goes by.
pub(crate) struct Known<'a> {
    pub(crate) words: &'a Words,
    pub(crate) living: &'a [Living],
    /// First index after the newest checkpoint: everything before it is durable.
    pub(crate) start: Option<u64>,
    /// Highest index that something outside the segments says was durable.
    pub(crate) evidence: Option<u64>,
}

/// Where the scan stands.
struct Progress {
    expected: u64,
    next_offset: u64,
    last: Option<EntryId>,
}

/// What stands behind a bad place.
#[derive(Default)]
struct Ahead {
    first: Option<(u64, Header)>,
    mark: Option<u64>,
    /// Not all of it could be read.
    unreadable: bool,
}

impl Known<'_> {
    fn first_index_of(&self, at: usize) -> Option<u64> {
        self.living
            .get(at)
            .map(|living| living.segment.header.first_index)
    }

    /// The segment from which on entries are verified.
    pub(crate) fn begin(&self) -> usize {
        let starts = |living: &Living| Some(living.segment.header.first_index) == self.start;
        self.living.iter().position(starts).unwrap_or(0)
    }

    /// Last index that a segment may hold: it ends where the next one begins, or at the log's cut.
    fn limit(&self, at: usize) -> u64 {
        if let Some(next) = self.first_index_of(at + 1) {
            return next.saturating_sub(1);
        }
        let header = &self.living[at].segment.header;
        match self.words.cut {
            Some(cut) if header.generation < self.words.generation => {
                cut.keep.map_or(0, |keep| keep.index)
            }
            _ => u64::MAX,
        }
    }

    /// Highest index that was durable, by everything that was read without walking the segments.
    fn outer_evidence(&self) -> Option<u64> {
        let of_segments = self.living.iter().enumerate().map(|(at, living)| {
            let journaled = living
                .journaled_index
                .map(|index| index.min(self.limit(at)));
            journaled.max(living.segment.header.synced)
        });
        of_segments.max().flatten().max(self.evidence)
    }
}

/// Scans a log from its newest checkpoint on.
pub(crate) fn run(dir: &str, known: &Known<'_>) -> Result<Scan, Error> {
    let mut scan = Scan::default();
    let cut = known.words.cut;
    let floor = known.words.purged.map_or(0, |purged| purged.index + 1);
    let Some(first) = known.first_index_of(0) else {
        // No segment lives: the words say where the log stands.
        scan.last = later(cut.and_then(|cut| cut.keep), known.words.purged);
        let cut_offset = cut.map_or(0, |cut| cut.next_offset);
        scan.next_offset = cut_offset.max(known.words.first_offset);
        check_empty(&mut scan, dir, known, floor);
        return Ok(scan);
    };
    let begin = known.begin();
    let header = &known.living[begin].segment.header;
    let mut progress = Progress {
        expected: header.first_index,
        next_offset: header.base_offset,
        last: header.previous,
    };
    scan.verified_from = begin;
    let missing = known.words.purged.is_some() && first > floor;
    let headless =
        known.words.purged.is_none() && known.living[0].segment.header.previous.is_some();
    if missing || headless {
        let evidence = evidence_from(known, 0)?.max(known.outer_evidence());
        if evidence < Some(floor) {
            return Ok(cut_all(scan, known));
        }
        let why = "the segments before this one are missing";
        let name = known.living[0].segment.name();
        let base_offset = known.words.first_offset;
        scan.missing_front = Some((floor, base_offset));
        scan.damage.push(damage(
            floor,
            first.checked_sub(1),
            base_offset,
            &name,
            0,
            why,
        ));
    }
    add_sealed(&mut scan, known, begin)?;
    for at in begin..known.living.len() {
        if !scan_segment(&mut scan, known, at, &mut progress)? {
            break;
        }
    }
    scan.last = later(progress.last, known.words.purged);
    scan.next_offset = progress.next_offset;
    if let Some(living) = known
        .living
        .last()
        .filter(|_| scan.parts.len() == known.living.len())
    {
        // Behind a cut nothing is overwritten.
        scan.cut_here |= living.segment.header.generation < known.words.generation;
    }
    Ok(scan)
}

/// The one with the higher index (the order of ids themselves puts the term first).
fn later(one: Option<EntryId>, other: Option<EntryId>) -> Option<EntryId> {
    one.into_iter().chain(other).max_by_key(|id| id.index)
}

fn damage(
    first_index: u64,
    last_index: Option<u64>,
    base_offset: u64,
    file: &str,
    position: u64,
    why: &str,
) -> Damage {
    let (file, why) = (file.to_string(), why.to_string());
    Damage {
        first_index,
        last_index,
        base_offset,
        file,
        position,
        why,
    }
}

/// Nothing of what is there was ever durable: the log ends where the words say it began.
fn cut_all(mut scan: Scan, known: &Known<'_>) -> Scan {
    let words = known.words;
    let (keep, next_offset) = match (words.purged, words.cut) {
        (Some(purged), _) => (Some(purged), words.first_offset),
        (None, Some(cut)) => (cut.keep, cut.next_offset),
        (None, None) => (None, 0),
    };
    scan.cut = Some(Cut {
        keep,
        next_offset,
        all: true,
    });
    (scan.last, scan.next_offset, scan.cut_here) = (keep, next_offset, true);
    scan
}

/// A log without segments must have nothing to miss.
fn check_empty(scan: &mut Scan, dir: &str, known: &Known<'_>, floor: u64) {
    let kept = scan.last.map(|last| last.index).max(known.evidence);
    if kept.is_some_and(|kept| kept >= floor) {
        let why = "all segments are missing";
        scan.damage
            .push(damage(floor, kept, known.words.first_offset, dir, 0, why));
    }
}

/// Segments below the newest checkpoint are taken by what the segment after each says of it.
fn add_sealed(scan: &mut Scan, known: &Known<'_>, begin: usize) -> Result<(), Error> {
    for at in 0..begin {
        let segment = &known.living[at].segment;
        let next = &known.living[at + 1].segment.header;
        let sealed = next.sealed;
        let (end, max_timestamp) = if sealed.salt == segment.header.salt {
            (sealed.end, sealed.max_timestamp)
        } else {
            let sparse = crate::locate::build_index(segment, segment.file.capacity)?;
            let from = sparse.next_index().unwrap_or(segment.header.first_index);
            let (name, end) = (segment.name(), sparse.end());
            let why = "the segment after this one is missing";
            let last = next.first_index.checked_sub(1);
            scan.damage.push(damage(
                from,
                last,
                segment.header.base_offset,
                &name,
                end,
                why,
            ));
            (end, sparse.max_timestamp())
        };
        scan.parts.push(Part {
            segment: segment.clone(),
            end,
            max_timestamp,
        });
    }
    Ok(())
}

/// Walks one segment; false if the log is cut in it (or before it).
fn scan_segment(
    scan: &mut Scan,
    known: &Known<'_>,
    at: usize,
    progress: &mut Progress,
) -> Result<bool, Error> {
    let segment = &known.living[at].segment;
    let limit = known.limit(at);
    if !enter(scan, known, at, progress)? {
        return Ok(false);
    }
    let mut sparse = SparseIndex::new(FIRST_ENTRY);
    let mut walker = Walker::new(segment, FIRST_ENTRY, segment.file.capacity, CHUNK);
    while progress.expected <= limit {
        let position = walker.position();
        let (why, unreadable) = match walker.next_entry() {
            Ok(Found::Entry(entry)) if fits(&entry.header, progress) => {
                take(&mut sparse, progress, &entry.header, &entry.payload);
                continue;
            }
            Ok(Found::Entry(_)) => ("entry does not continue the log", false),
            Ok(Found::Bad { why, .. }) => (why, false),
            Ok(Found::End) => ("end of file", false),
            Err(_) => ("cannot be read", true),
        };
        let ahead = look_ahead(segment, position + 1, progress.expected, limit)?;
        let evidence = evidence_from(known, at + 1)?
            .max(known.outer_evidence())
            .max(ahead.mark);
        // What cannot be read may have been durable: it is never called torn.
        let unreadable = unreadable || ahead.unreadable;
        if evidence < Some(progress.expected) && !unreadable {
            let open_end = limit == u64::MAX && ahead.first.is_none();
            if open_end {
                break;
            }
            finish(scan, known, at, sparse);
            return Ok(cut(scan, progress));
        }
        let name = segment.name();
        let (from, offset) = (progress.expected, progress.next_offset);
        let Some((resume, header)) = ahead.first else {
            let last = Some(limit).filter(|limit| *limit != u64::MAX);
            scan.damage
                .push(damage(from, last, offset, &name, position, why));
            skip_rest(known, at, progress);
            break;
        };
        let last = header.index.checked_sub(1);
        scan.damage
            .push(damage(from, last, offset, &name, position, why));
        progress.expected = header.index;
        progress.next_offset = header.base_offset;
        sparse.skip_to(resume);
        walker = Walker::new(segment, resume, segment.file.capacity, CHUNK);
    }
    finish(scan, known, at, sparse);
    check_cut(scan, known, at, progress);
    Ok(true)
}

/// Where the log was cut, the entry that was kept must be the last.
fn check_cut(scan: &mut Scan, known: &Known<'_>, at: usize, progress: &Progress) {
    let Some(keep) = known.words.cut.and_then(|cut| cut.keep) else {
        return;
    };
    let is_last = at + 1 == known.living.len() && known.limit(at) == keep.index;
    if is_last
        && progress
            .last
            .is_some_and(|last| last.index == keep.index && last != keep)
    {
        let name = known.living[at].segment.name();
        let why = "not the entry that a truncation has kept";
        let offset = progress.next_offset;
        scan.damage
            .push(damage(keep.index, Some(keep.index), offset, &name, 0, why));
    }
}

/// Checks that a segment continues what stands before it; false if the log is cut before it.
fn enter(
    scan: &mut Scan,
    known: &Known<'_>,
    at: usize,
    progress: &mut Progress,
) -> Result<bool, Error> {
    let segment = &known.living[at].segment;
    let header = &segment.header;
    let continues = header.first_index == progress.expected
        && header.base_offset == progress.next_offset
        && (progress.last.is_none() || header.previous == progress.last);
    if !continues {
        let evidence = evidence_from(known, at)?.max(known.outer_evidence());
        if evidence < Some(progress.expected) {
            return Ok(cut(scan, progress));
        }
        let why = "does not continue the segment before";
        let last = header.first_index.checked_sub(1);
        let name = segment.name();
        scan.damage.push(damage(
            progress.expected,
            last,
            progress.next_offset,
            &name,
            0,
            why,
        ));
        progress.expected = header.first_index;
        progress.next_offset = header.base_offset;
        progress.last = header.previous;
    }
    Ok(true)
}

fn fits(header: &Header, progress: &Progress) -> bool {
    header.index == progress.expected && header.base_offset == progress.next_offset
}

fn take(sparse: &mut SparseIndex, progress: &mut Progress, header: &Header, payload: &[u8]) {
    let facts = batch_facts(payload).filter(|_| header.kind == Kind::Batch);
    let latest = facts.map_or(NO_TIMESTAMP, |facts| facts.max_timestamp);
    sparse.push(
        header.index,
        header.base_offset,
        header.stored_len(),
        latest,
    );
    progress.expected = header.index + 1;
    progress.next_offset = header.base_offset + facts.map_or(0, |facts| facts.offsets);
    progress.last = Some(header.id());
}

/// The rest of a damaged segment is lost: the next one says where the log goes on.
fn skip_rest(known: &Known<'_>, at: usize, progress: &mut Progress) {
    if let Some(next) = known
        .living
        .get(at + 1)
        .map(|living| &living.segment.header)
    {
        progress.expected = next.first_index;
        progress.next_offset = next.base_offset;
        progress.last = next.previous;
    }
}

/// Adds the segment as a part, unless nothing of it is kept and it is not the last.
fn finish(scan: &mut Scan, known: &Known<'_>, at: usize, sparse: SparseIndex) {
    let segment = known.living[at].segment.clone();
    let (end, max_timestamp) = (sparse.end(), sparse.max_timestamp());
    if at + 1 == known.living.len() {
        *segment.index.lock() = IndexSlot::Growing(sparse);
    }
    scan.parts.push(Part {
        segment,
        end,
        max_timestamp,
    });
}

/// Ends the log here; always false, for the caller's `return`.
fn cut(scan: &mut Scan, progress: &Progress) -> bool {
    // A segment of which nothing is kept would have the name of the one that follows the cut.
    if scan
        .parts
        .last()
        .is_some_and(|part| part.first_index() >= progress.expected)
    {
        scan.parts.pop();
    }
    scan.cut = Some(Cut {
        keep: progress.last,
        next_offset: progress.next_offset,
        all: false,
    });
    scan.cut_here = true;
    false
}

/// Highest synced mark in the segments from one on.
fn evidence_from(known: &Known<'_>, from: usize) -> Result<Option<u64>, Error> {
    let mut mark = None;
    for at in from..known.living.len() {
        let segment = &known.living[at].segment;
        let limit = known.limit(at);
        mark = mark.max(look_ahead(segment, FIRST_ENTRY, segment.header.first_index, limit)?.mark);
    }
    Ok(mark)
}

/// Looks for entry headers of this use of the file from a position on, at any alignment.
fn look_ahead(segment: &Segment, from: u64, least: u64, limit: u64) -> Result<Ahead, Error> {
    let mut ahead = Ahead::default();
    let mut position = from;
    let capacity = segment.file.capacity;
    let mut step = CHUNK;
    while position + HEADER_LEN as u64 <= capacity {
        let len = (capacity - position).min(step as u64) as usize;
        let Ok(chunk) = segment.read(position, len) else {
            // A bad sector hides what is in its block, not what lies around it.
            if step == BLOCK {
                ahead.unreadable = true;
                position += len as u64;
            }
            step = BLOCK;
            continue;
        };
        if chunk.len() < HEADER_LEN {
            break;
        }
        let mut at = 0;
        let ends = chunk.len() - HEADER_LEN;
        while at <= ends {
            let window = &chunk[at..(at + ZEROS.len()).min(chunk.len())];
            if *window == ZEROS[..window.len()] {
                // A header's ninth byte is never zero: none begins before the last eight of these.
                at += window.len() - 8;
                continue;
            }
            match plausible(&chunk[at..], segment, position + at as u64, least, limit) {
                Some(header) => {
                    let found = position + at as u64;
                    ahead.mark = ahead.mark.max(header.synced);
                    ahead.first.get_or_insert((found, header));
                    at += header.stored_len() as usize;
                }
                None => at += 1,
            }
        }
        // The last bytes may begin a header that ends in the next chunk.
        position += at.max(ends + 1) as u64;
    }
    Ok(ahead)
}

fn plausible(
    bytes: &[u8],
    segment: &Segment,
    position: u64,
    least: u64,
    limit: u64,
) -> Option<Header> {
    // The version's half byte first: it rejects almost everything at once.
    if !(0x11..=0x14).contains(&bytes[8]) {
        return None;
    }
    let header = Header::decode(bytes, segment.header.salt, position)?;
    let inside = position + header.stored_len() <= segment.file.capacity;
    (inside && (least..=limit).contains(&header.index)).then_some(header)
}
