//! Finding entries: by index, offset and time, through the positions of recent entries, the sparse
//! index in memory, its file, or by reading the segment.
//!
//! What is promised: every entry that is handed out was verified; a damaged place is an error for
//! itself and noted in the log's damage. What lives here must never know: appending, recovery.
//! Lock order: a segment's index before the log's view.

use std::ops::Range;
use std::sync::Arc;

use crate::entry::{Entry, Kind, batch_facts};
use crate::error::Error;
use crate::index::{IndexSlot, Point, SparseIndex};
use crate::log::{Damage, LogInner, Part};
use crate::segment::{CHUNK, FIRST_ENTRY, Found, NO_TIMESTAMP, Segment, Walker};

/// Damaged places that are remembered at most.
const MAX_DAMAGE: usize = 1000;
/// Parts that one read looks at.
pub(crate) const PARTS_PER_READ: usize = 4;
/// Smallest sequential read.
const MIN_CHUNK: usize = 16 << 10;

impl LogInner {
    pub(crate) fn read_entries(
        &self,
        range: Range<u64>,
        max_bytes: usize,
    ) -> Result<Vec<Entry>, Error> {
        let (parts, exact) = {
            let view = self.view.lock();
            if range.start < view.first_index() {
                return Err(Error::invalid("index", range.start, view.first_index()));
            }
            let Some(at) = view.part_of(range.start) else {
                // Before the first segment: nothing there yet, or it is missing.
                return match (view.missing_front, view.damage.first()) {
                    (Some(_), Some(d)) => Err(Error::corrupt(&d.file, d.position, &d.why)),
                    _ => Ok(Vec::new()),
                };
            };
            let parts: Vec<Part> = view.parts[at..]
                .iter()
                .take(PARTS_PER_READ)
                .cloned()
                .collect();
            let salt = parts[0].segment.header.salt;
            let found = view
                .recent
                .binary_search_by_key(&range.start, |recent| recent.index);
            let exact = found
                .ok()
                .map(|at| view.recent[at])
                .filter(|recent| recent.salt == salt);
            (parts, exact.map(|recent| recent.position))
        };
        let mut entries = Vec::new();
        let mut left = max_bytes;
        for (at, part) in parts.iter().enumerate() {
            let position = match exact.filter(|_| at == 0) {
                Some(position) => position,
                None if at == 0 => self.seek(part, |index| index.by_index(range.start))?,
                None => FIRST_ENTRY,
            };
            if !self.collect(part, position, &range, &mut left, &mut entries)? {
                break;
            }
        }
        Ok(entries)
    }

    /// Adds a part's entries; false once enough is read.
    fn collect(
        &self,
        part: &Part,
        position: u64,
        range: &Range<u64>,
        left: &mut usize,
        entries: &mut Vec<Entry>,
    ) -> Result<bool, Error> {
        let chunk = (*left).clamp(MIN_CHUNK, CHUNK);
        let mut walker = Walker::new(&part.segment, position, part.end, chunk);
        loop {
            let position = walker.position();
            // What lies before the range is passed by its header: damage there is not our matter.
            let at = match walker.next_from(range.start)? {
                Found::Entry(at) => at,
                Found::End => return Ok(true),
                // What was read before a damaged place is good; who reads on meets it first.
                Found::Bad { .. } if !entries.is_empty() => return Ok(false),
                Found::Bad { position, why } => {
                    return Err(self.damaged(part, position, why));
                }
            };
            let header = at.header;
            if header.index < range.start {
                continue;
            }
            if header.index > range.start + entries.len() as u64 {
                // A hole that recovery has reported: what was read before it is good.
                return match entries.is_empty() {
                    true => {
                        Err(self.damaged(part, position, "entries are missing before this one"))
                    }
                    false => Ok(false),
                };
            }
            if header.index >= range.end || (!entries.is_empty() && at.payload.len() > *left) {
                return Ok(false);
            }
            *left = left.saturating_sub(at.payload.len());
            entries.push(Entry {
                id: header.id(),
                kind: header.kind,
                flags: header.flags,
                base_offset: header.base_offset,
                payload: at.payload,
            });
        }
    }

    /// Notes a damaged place (once) and makes the error of it.
    pub(crate) fn damaged(&self, part: &Part, position: u64, why: &str) -> Error {
        let file = part.segment.name();
        let mut view = self.view.lock();
        let known = view
            .damage
            .iter()
            .any(|d| d.file == file && d.position == position);
        if !known && view.damage.len() < MAX_DAMAGE {
            let header = &part.segment.header;
            view.damage.push(Damage {
                first_index: header.first_index,
                last_index: None,
                base_offset: header.base_offset,
                file: file.clone(),
                position,
                why: why.to_string(),
            });
        }
        Error::corrupt(&file, position, why)
    }

    /// Where to begin looking in a part: the position of the last known point at or before.
    pub(crate) fn seek(
        &self,
        part: &Part,
        find: impl Fn(&SparseIndex) -> Option<Point>,
    ) -> Result<u64, Error> {
        if let Some(position) = self.seek_in_memory(part, &find) {
            return Ok(position);
        }
        let sparse = Arc::new(self.load_index(part)?);
        let found = find(&sparse).map_or(FIRST_ENTRY, |point| point.position);
        *part.segment.index.lock() = IndexSlot::Loaded(sparse);
        self.shared.note_loaded_index(&part.segment);
        Ok(found)
    }

    /// The same without touching the disk; `None` if the index is not in memory.
    pub(crate) fn seek_in_memory(
        &self,
        part: &Part,
        find: impl Fn(&SparseIndex) -> Option<Point>,
    ) -> Option<u64> {
        let point = match &*part.segment.index.lock() {
            IndexSlot::Growing(sparse) => find(sparse),
            IndexSlot::Loaded(sparse) => find(sparse),
            IndexSlot::Absent => return None,
        };
        Some(point.map_or(FIRST_ENTRY, |point| point.position))
    }

    /// Reads the index's file, or builds the index again.
    pub(crate) fn load_index(&self, part: &Part) -> Result<SparseIndex, Error> {
        let salt = part.segment.header.salt;
        let read = || {
            let handle = self
                .shared
                .disk
                .open(&self.index_name(&part.segment))
                .ok()?;
            let mut bytes = vec![0; handle.len().ok()? as usize];
            let got = handle.read_at(0, &mut bytes).ok()?;
            SparseIndex::decode(&bytes[..got], salt)
        };
        match read() {
            Some(sparse) if sparse.end() == part.end => Ok(sparse),
            _ => build_index(&part.segment, part.end),
        }
    }

    pub(crate) fn index_name(&self, segment: &Segment) -> String {
        format!("{}/{:020}.idx", self.dir(), segment.header.first_index)
    }

    /// Writes the index of a segment to its file and lets go of the memory. Not synced: it is a
    /// hint.
    pub(crate) fn write_index(&self, segment: &Arc<Segment>) -> Result<(), Error> {
        let mut slot = segment.index.lock();
        let IndexSlot::Growing(sparse) = &*slot else {
            return Ok(());
        };
        let bytes = sparse.encode(segment.header.salt);
        *slot = IndexSlot::Absent;
        drop(slot);
        if self.is_removed() {
            return Ok(());
        }
        let name = self.index_name(segment);
        let disk = self.shared.disk.as_ref();
        let write = || {
            match disk.remove(&name) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let handle = disk.create(&name, 0)?;
            handle.write_at(0, &[std::io::IoSlice::new(&bytes)])
        };
        // Without its file the index is built again when it is asked for.
        match write() {
            Err(error) if self.shared.check_open().is_err() => {
                Err(Error::io(&name, "write index", error))
            }
            _ => Ok(()),
        }
    }

    /// Index and id facts of one entry: its id and the next offset after it.
    pub(crate) fn entry_facts(&self, index: u64) -> Result<(crate::EntryId, u64), Error> {
        let entries = self.read_entries(index..index + 1, 0)?;
        let Some(entry) = entries.first().filter(|entry| entry.id.index == index) else {
            return Err(Error::invalid(
                "index",
                index,
                self.view.lock().first_index(),
            ));
        };
        let offsets = match entry.kind {
            Kind::Batch => batch_facts(&entry.payload).map_or(0, |facts| facts.offsets),
            _ => 0,
        };
        Ok((entry.id, entry.base_offset + offsets))
    }
}

/// Walks the entry headers of a segment; what is damaged ends the index, not the reading.
pub(crate) fn build_index(segment: &Segment, end: u64) -> Result<SparseIndex, Error> {
    build_index_up_to(segment, end, u64::MAX)
}

/// The index of a segment up to and with an entry; its end is the end of that entry.
pub(crate) fn build_index_up_to(
    segment: &Segment,
    end: u64,
    last: u64,
) -> Result<SparseIndex, Error> {
    let mut sparse = SparseIndex::new(FIRST_ENTRY);
    let mut walker = Walker::new(segment, FIRST_ENTRY, end, CHUNK);
    while let Found::Entry(at) = walker.next_header()? {
        if at.header.index > last {
            break;
        }
        let facts = batch_facts(&at.payload).filter(|_| at.header.kind == Kind::Batch);
        let latest = facts.map_or(NO_TIMESTAMP, |facts| facts.max_timestamp);
        let header = at.header;
        sparse.push(
            header.index,
            header.base_offset,
            header.stored_len(),
            latest,
        );
    }
    Ok(sparse)
}
