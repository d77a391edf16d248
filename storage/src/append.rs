//! Appending: where entries are given their place and their offsets, and where segments roll.
//!
//! What is promised: an append is written whole or not at all; the bytes of the payload are not
//! copied (a header and the patched first 16 bytes of a batch go before the rest of it in one
//! `pwritev`); reserved bytes always find space. What lives here must never know: who waits for the
//! completion.
//!
//! Space: `reserved + HEADROOM` bytes fit the active segment or the prepared next one, each taken
//! alone. An append of reserved bytes keeps that true: it takes from the active segment as much as
//! from the reservation, and what does not fit goes to the next segment, which holds all of it.

use std::io::IoSlice;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use aqueduct_proto::batch;
use bytes::Bytes;

use crate::drain::Job;
use crate::entry::{
    BatchFacts, Done, HEADER_LEN, Header, Kind, NewEntry, batch_facts, payload_crc, stored_len,
};
use crate::error::Error;
use crate::index::IndexSlot;
use crate::log::{HEADROOM, LogInner, Part, RECENT, Recent, View};
use crate::pool::SegmentFile;
use crate::segment::{FIRST_ENTRY, NO_TIMESTAMP, Sealed, Segment, SegmentHeader};
use crate::sync_engine::{Request, Work};

/// An entry with its offsets.
struct Placed<'a> {
    entry: &'a NewEntry,
    base_offset: u64,
    facts: Option<BatchFacts>,
}

impl Placed<'_> {
    fn len(&self) -> u64 {
        stored_len(self.entry.payload.len())
    }

    fn offsets(&self) -> u64 {
        self.facts.map_or(0, |facts| facts.offsets)
    }

    fn max_timestamp(&self) -> i64 {
        self.facts.map_or(NO_TIMESTAMP, |facts| facts.max_timestamp)
    }
}

/// What the view says before an append.
struct Start {
    fits: usize,
    active: Option<Part>,
    synced: Option<u64>,
    generation: u64,
}

impl LogInner {
    pub(crate) fn append_entries(
        self: &Arc<Self>,
        entries: Vec<NewEntry>,
        done: Done,
    ) -> Result<Vec<u64>, Error> {
        let _order = self.append.lock();
        self.check_writable()?;
        let placed = self.place(&entries)?;
        let (start, next) = self.find_space(&placed)?;
        let bases = placed.iter().map(|placed| placed.base_offset).collect();
        self.dirty.store(true, Ordering::Release);
        let (here, there) = placed.split_at(start.fits);
        if there.is_empty() {
            self.append_run(start.active.as_ref(), here, &start, done)?;
        } else {
            if !here.is_empty() {
                self.append_run(start.active.as_ref(), here, &start, Box::new(|_| {}))?;
            }
            let file = next.expect("find_space gives a file when not everything fits");
            let part = self.begin_segment(file, &there[0])?;
            self.append_run(Some(&part), there, &start, done)?;
        }
        self.prepare_if_low();
        Ok(bases)
    }

    /// Checks the entries against the rules of the log and gives them their offsets.
    fn place<'a>(&self, entries: &'a [NewEntry]) -> Result<Vec<Placed<'a>>, Error> {
        let (mut expected, mut base_offset) = {
            let view = self.view.lock();
            (view.last.map(|last| last.index + 1), view.next_offset)
        };
        let mut placed = Vec::with_capacity(entries.len());
        for entry in entries {
            let id = entry.id;
            if expected.is_some_and(|expected| id.index != expected) || id.index >= u64::MAX - 1 {
                return Err(Error::invalid(
                    "index",
                    id.index,
                    expected.unwrap_or(u64::MAX - 2),
                ));
            }
            expected = Some(id.index + 1);
            for (what, value) in [("term", id.term), ("leader", id.leader)] {
                if value > u64::from(u32::MAX) {
                    return Err(Error::invalid(what, value, u32::MAX.into()));
                }
            }
            let limit = u64::from(self.shared.options.max_entry_bytes);
            if entry.payload.len() as u64 > limit {
                return Err(Error::invalid(
                    "entry length",
                    entry.payload.len() as u64,
                    limit,
                ));
            }
            let facts = match entry.kind {
                Kind::Batch => Some(check_batch(&entry.payload)?),
                _ => None,
            };
            let new = Placed {
                entry,
                base_offset,
                facts,
            };
            base_offset = base_offset
                .checked_add(new.offsets())
                .filter(|next| *next <= i64::MAX as u64)
                .ok_or(Error::invalid("offset", base_offset, i64::MAX as u64))?;
            placed.push(new);
        }
        Ok(placed)
    }

    /// How many entries fit the active segment, and a file for those that do not. Nothing is
    /// written yet, so a full disk is an answer and not half an append.
    fn find_space(
        &self,
        placed: &[Placed<'_>],
    ) -> Result<(Start, Option<Arc<SegmentFile>>), Error> {
        let total: u64 = placed.iter().map(Placed::len).sum();
        let mut view = self.view.lock();
        let active = view.parts.last().cloned();
        let room = active
            .as_ref()
            .map_or(0, |part| part.segment.header.capacity - part.end);
        let has_entries = active.as_ref().is_some_and(|part| part.end > FIRST_ENTRY);
        let in_active = if view.cut_here || active.is_none() {
            0
        } else {
            count_fitting(placed, room)
        };
        let wants_roll = view.roll && has_entries && !placed.is_empty();
        let fits = if wants_roll { 0 } else { in_active };
        let (synced, generation) = (view.synced, view.words.generation);
        let start = Start {
            fits,
            active,
            synced,
            generation,
        };
        if fits == placed.len() {
            return Ok((start, None));
        }
        let rest: u64 = placed[fits..].iter().map(Placed::len).sum();
        let still_reserved = view.reserved.saturating_sub(total);
        let need = FIRST_ENTRY + rest + still_reserved + HEADROOM;
        // What is rolled before it is half full shows that no larger one is needed.
        let largest = match &start.active {
            Some(part) if wants_roll && part.end < part.segment.header.capacity / 2 => {
                part.segment.header.capacity.max(need)
            }
            _ => u64::MAX,
        };
        let is_fit = |file: &mut Arc<SegmentFile>| (need..=largest).contains(&file.capacity);
        if let Some(file) = view.next.take_if(is_fit) {
            return Ok((start, Some(file)));
        }
        let wish = self.next_step(&view).min(largest);
        drop(view);
        // Without the headroom the append itself still fits; the reservation is refused instead.
        let bare = FIRST_ENTRY + rest + still_reserved;
        let taken = self.shared.pool.take(need, wish.max(need));
        let error = match taken.or_else(|_| self.shared.pool.take(bare, bare)) {
            Ok(file) => return Ok((start, Some(file))),
            Err(error) => error,
        };
        if !wants_roll || !matches!(error, Error::Full { .. }) {
            return Err(error);
        }
        let mut view = self.view.lock();
        // Room may have been promised on the file that was too large to be liked.
        if let Some(file) = view.next.take_if(|file| file.capacity >= need) {
            return Ok((start, Some(file)));
        }
        if in_active < placed.len() {
            return Err(error);
        }
        // A roll is a wish: the active segment will do.
        view.roll = false;
        let fits = in_active;
        Ok((Start { fits, ..start }, None))
    }

    /// Capacity of the next segment: twice the active one, within the bounds.
    fn next_step(&self, view: &View) -> u64 {
        let options = &self.shared.options;
        match view.parts.last() {
            Some(part) => (part.segment.header.capacity * 2)
                .clamp(options.first_segment_bytes, options.max_segment_bytes),
            None => options.first_segment_bytes,
        }
    }

    /// Begins a segment at an entry: header and name only, so that a roll does not stall.
    fn begin_segment(
        self: &Arc<Self>,
        file: Arc<SegmentFile>,
        first: &Placed<'_>,
    ) -> Result<Part, Error> {
        let (header, sealed) = {
            let view = self.view.lock();
            let before = view.parts.last();
            let none = Sealed {
                salt: 0,
                end: 0,
                max_timestamp: NO_TIMESTAMP,
            };
            let header = SegmentHeader {
                raft_id: self.id,
                salt: self.shared.disk.random(),
                generation: view.words.generation,
                first_index: first.entry.id.index,
                base_offset: first.base_offset,
                capacity: file.capacity,
                synced: view.synced,
                previous: view.last,
                sealed: before.map_or(none, Part::sealed),
            };
            (header, before.map(|part| part.segment.clone()))
        };
        let begun = Segment::begin(file, header).inspect_err(|error| self.shared.fail(error))?;
        let segment = Arc::new(begun);
        let part = Part {
            segment,
            end: FIRST_ENTRY,
            max_timestamp: NO_TIMESTAMP,
        };
        let mut view = self.view.lock();
        view.parts.push(part.clone());
        view.roll = false;
        view.cut_here = false;
        drop(view);
        if let Some(sealed) = sealed {
            self.shared.drain.submit(Job::Seal(self.clone(), sealed));
        }
        Ok(part)
    }

    /// Writes entries that fit a segment, publishes them and queues their sync.
    fn append_run(
        self: &Arc<Self>,
        part: Option<&Part>,
        run: &[Placed<'_>],
        start: &Start,
        done: Done,
    ) -> Result<(), Error> {
        let Some(part) = part.filter(|_| !run.is_empty()) else {
            // Nothing to append: the completion still keeps its turn.
            return self.submit_words(done, |_| {});
        };
        let segment = &part.segment;
        let position = part.end;
        let pieces = build_pieces(run, segment.header.salt, position, start.synced);
        let slices: Vec<IoSlice<'_>> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
        if let Err(error) = segment.file.handle.write_at(position, &slices) {
            let error = Error::io(&segment.name(), "write", error);
            self.shared.fail(&error);
            return Err(error);
        }
        let len = run.iter().map(Placed::len).sum();
        let last_index = self.publish(segment, position, run);
        let work = Work::Append {
            segment: segment.clone(),
            position,
            len,
            last_index,
            generation: start.generation,
            pieces,
        };
        self.shared.engine.submit(Request {
            log: self.clone(),
            work,
            done,
        });
        Ok(())
    }

    /// Lets readers see what was written; returns the last index.
    fn publish(&self, segment: &Arc<Segment>, position: u64, run: &[Placed<'_>]) -> u64 {
        let mut slot = segment.index.lock();
        let mut view = self.view.lock();
        let mut at = position;
        for placed in run {
            let index = placed.entry.id.index;
            if let IndexSlot::Growing(sparse) = &mut *slot {
                sparse.push(
                    index,
                    placed.base_offset,
                    placed.len(),
                    placed.max_timestamp(),
                );
            }
            if view.recent.len() == RECENT {
                view.recent.pop_front();
            }
            let (offset, salt) = (placed.base_offset, segment.header.salt);
            view.recent.push_back(Recent {
                index,
                offset,
                position: at,
                salt,
            });
            at += placed.len();
            if placed.facts.is_some() {
                view.reserved = view.reserved.saturating_sub(placed.len());
            }
        }
        if let Some(last) = run.last() {
            view.last = Some(last.entry.id);
            view.next_offset = last.base_offset + last.offsets();
        }
        let latest = run
            .iter()
            .map(Placed::max_timestamp)
            .max()
            .unwrap_or(NO_TIMESTAMP);
        let part = view
            .parts
            .last_mut()
            .expect("a run is written to the last part");
        assert!(
            Arc::ptr_eq(&part.segment, segment),
            "a run is written to the last part"
        );
        part.end = at;
        part.max_timestamp = part.max_timestamp.max(latest);
        view.last.map_or(0, |last| last.index)
    }

    /// Asks for the next segment while there is still space in this one.
    fn prepare_if_low(self: &Arc<Self>) {
        let mut view = self.view.lock();
        let Some(part) = view.parts.last() else {
            return;
        };
        let capacity = part.segment.header.capacity;
        let low = capacity - part.end < (capacity / 2).max(view.reserved + HEADROOM);
        if low && wants_next(&view) && !view.preparing {
            view.preparing = true;
            drop(view);
            self.shared.drain.submit(Job::Prepare(self.clone()));
        }
    }

    /// Takes a file for the next segment from the pool; runs in the background.
    pub(crate) fn prepare_next(&self) -> Result<(), Error> {
        let (need, wish) = {
            let mut view = self.view.lock();
            view.preparing = false;
            if !wants_next(&view) || self.is_removed() {
                return Ok(());
            }
            (
                FIRST_ENTRY + view.reserved + HEADROOM,
                self.next_step(&view),
            )
        };
        self.keep_next(self.shared.pool.take(need, wish)?);
        Ok(())
    }

    /// Keeps the larger of two prepared files; the other goes back to the pool.
    fn keep_next(&self, file: Arc<SegmentFile>) {
        let mut view = self.view.lock();
        let known = view.next.as_ref().map_or(0, |known| known.capacity);
        // The last look at the view of a removed log may be over.
        let other = if file.capacity > known && !self.is_removed() {
            view.next.replace(file)
        } else {
            Some(file)
        };
        drop(view);
        if let Some(other) = other {
            other.allow_reuse();
        }
    }

    pub(crate) fn reserve(&self, bytes: u64) -> Result<(), Error> {
        self.check_writable()?;
        let (need, wish) = {
            let mut view = self.view.lock();
            let total = view.reserved.saturating_add(bytes);
            if fits_reserved(&view, total) {
                view.reserved = total;
                return Ok(());
            }
            (
                total.saturating_add(FIRST_ENTRY + HEADROOM),
                self.next_step(&view),
            )
        };
        self.keep_next(self.shared.pool.take(need, wish)?);
        let mut view = self.view.lock();
        let total = view.reserved.saturating_add(bytes);
        if !fits_reserved(&view, total) {
            // Somebody else took the space between the two looks; it is tried again by the caller.
            return Err(Error::Full {
                wanted: bytes,
                free: self.shared.pool.free_bytes(),
            });
        }
        view.reserved = total;
        Ok(())
    }
}

impl LogInner {
    /// Sets aside bytes of the active segment that [`LogInner::reserve`] keeps free; else the error
    /// that led here.
    pub(crate) fn reserve_from_headroom(&self, bytes: u64, full: Error) -> Result<(), Error> {
        let mut view = self.view.lock();
        let total = view.reserved.saturating_add(bytes);
        let active = view.parts.last().filter(|_| !view.cut_here);
        let room = active.map_or(0, |part| part.segment.header.capacity - part.end);
        if !matches!(full, Error::Full { .. }) || room < total.saturating_add(HEADROOM / 2) {
            return Err(full);
        }
        view.reserved = total;
        Ok(())
    }
}

/// Whether no file is ready that could take everything that is reserved.
fn wants_next(view: &View) -> bool {
    let need = FIRST_ENTRY + view.reserved + HEADROOM;
    view.next.as_ref().is_none_or(|file| file.capacity < need)
}

/// Whether this many bytes and the headroom fit the active or the next segment, each alone.
fn fits_reserved(view: &View, total: u64) -> bool {
    let wanted = total.saturating_add(HEADROOM);
    let usable = !view.cut_here && !view.roll;
    let active = view.parts.last().filter(|_| usable);
    active.is_some_and(|part| part.segment.header.capacity - part.end >= wanted)
        || view
            .next
            .as_ref()
            .is_some_and(|file| file.capacity - FIRST_ENTRY >= wanted)
}

fn count_fitting(placed: &[Placed<'_>], room: u64) -> usize {
    let mut left = room;
    let fits = |placed: &&Placed<'_>| match left.checked_sub(placed.len()) {
        Some(rest) => {
            left = rest;
            true
        }
        None => false,
    };
    placed.iter().take_while(fits).count()
}

fn check_batch(payload: &Bytes) -> Result<BatchFacts, Error> {
    let header = batch::BatchHeader::read(payload);
    let whole = header.is_ok_and(|header| header.total_len() == payload.len());
    match batch_facts(payload).filter(|_| whole) {
        Some(facts) => Ok(facts),
        None => Err(Error::invalid(
            "batch",
            payload.len() as u64,
            batch::HEADER_LEN as u64,
        )),
    }
}

/// Header and payload of each entry, as slices of what the caller gave and of one new buffer.
fn build_pieces(run: &[Placed<'_>], salt: u64, position: u64, synced: Option<u64>) -> Vec<Bytes> {
    let mut heads = Vec::with_capacity(run.len() * (HEADER_LEN + 16));
    let mut at = position;
    for placed in run {
        let NewEntry {
            id,
            kind,
            flags,
            payload,
        } = placed.entry;
        let header = Header {
            kind: *kind,
            flags: *flags,
            payload_len: payload.len() as u32,
            payload_crc: payload_crc(*kind, payload),
            term: id.term as u32,
            leader: id.leader as u32,
            index: id.index,
            base_offset: placed.base_offset,
            synced,
        };
        heads.extend_from_slice(&header.encode(salt, at));
        if *kind == Kind::Batch {
            let prefix = batch::patched_prefix(payload, placed.base_offset, header.term);
            heads.extend_from_slice(&prefix);
        }
        at += placed.len();
    }
    let heads = Bytes::from(heads);
    let mut pieces = Vec::with_capacity(run.len() * 2);
    let mut begin = 0;
    for placed in run {
        let patched = if placed.entry.kind == Kind::Batch {
            16
        } else {
            0
        };
        let end = begin + HEADER_LEN + patched;
        pieces.push(heads.slice(begin..end));
        if placed.entry.payload.len() > patched {
            pieces.push(placed.entry.payload.slice(patched..));
        }
        begin = end;
    }
    pieces
}
