//! What takes entries away: truncation at the end, purge at the start, a snapshot that replaces all.
//!
//! What is promised: each is durable in the journal before anything of it is seen or done to a
//! file, so a crash leaves the log either as it was or as it was asked to be. The order of a cut:
//!
//! 1. the words with the next generation and the cut go through the journal;
//! 2. the view changes: readers no longer see what was cut;
//! 3. whole segments after the cut lose their names, and the directories are synced, so that no
//!    later cut can make them look alive again.
//!
//! A crash after 1 leaves segments of an older generation behind the cut: recovery removes them.
//! What lives here must never know: why Raft cuts.

use std::sync::Arc;

use crate::drain::Job;
use crate::entry::EntryId;
use crate::error::Error;
use crate::index::{IndexSlot, SparseIndex};
use crate::locate::build_index_up_to;
use crate::log::{LogInner, Part, View};
use crate::pool::POOL_DIR;
use crate::segment::Segment;
use crate::state_file::Cut;

impl LogInner {
    pub(crate) fn truncate_after(self: &Arc<Self>, last: Option<u64>) -> Result<(), Error> {
        let _order = self.append.lock();
        self.check_writable()?;
        let Some(cut) = self.find_cut(last)? else {
            return Ok(());
        };
        // Everything that can fail for a read fails before the cut is durable.
        let shortened = self.find_end(cut.keep)?;
        self.save_words(|view| view.cut_words(cut))?;
        let dropped = {
            let mut view = self.view.lock();
            let dropped = drop_after(&mut view, cut.keep);
            if let (Some(part), Some((_, sparse))) = (view.parts.last_mut(), &shortened) {
                part.end = sparse.end();
            }
            view.last = cut.keep;
            view.next_offset = cut.next_offset;
            // The words are behind every append before them, so what is kept is durable too; the
            // completions of those appends come from before the cut and say nothing any more.
            view.synced = cut.keep.map(|keep| keep.index);
            view.cut_here = true;
            dropped
        };
        self.shared.drain.submit(Job::Checkpoints(self.clone()));
        if let Some((segment, sparse)) = shortened {
            // Points after the cut must go.
            *segment.index.lock() = IndexSlot::Growing(sparse);
        }
        self.drop_checkpoints_after(cut.keep.map(|keep| keep.index))?;
        self.retire_now(dropped)
    }

    /// The cut after an index; `None` if there is nothing after it.
    fn find_cut(&self, last: Option<u64>) -> Result<Option<Cut>, Error> {
        let (newest, purged, first_offset, start) = {
            let view = self.view.lock();
            let start = view
                .parts
                .first()
                .map_or(view.next_offset, |p| p.segment.header.base_offset);
            (view.last, view.words.purged, view.words.first_offset, start)
        };
        if newest.map(|newest| newest.index) <= last {
            return Ok(None);
        }
        let wanted = last.map_or(0, |last| last + 1);
        match (last, purged) {
            (_, Some(purged)) if wanted <= purged.index => {
                Err(Error::invalid("truncation point", wanted, purged.index))
            }
            (Some(last), Some(purged)) if last == purged.index => Ok(Some(Cut {
                keep: Some(purged),
                next_offset: first_offset,
                all: false,
            })),
            (Some(last), _) if last >= self.view.lock().first_index() => {
                let (keep, next_offset) = self.entry_facts(last)?;
                Ok(Some(Cut {
                    keep: Some(keep),
                    next_offset,
                    all: false,
                }))
            }
            // Below the first entry of a log that was never purged: all of it.
            _ => Ok(Some(Cut {
                keep: None,
                next_offset: start,
                all: true,
            })),
        }
    }

    /// The segment that keeps entries up to `keep`, with its index up to there.
    fn find_end(
        &self,
        keep: Option<EntryId>,
    ) -> Result<Option<(Arc<Segment>, SparseIndex)>, Error> {
        let Some(keep) = keep else { return Ok(None) };
        let part = {
            let view = self.view.lock();
            view.part_of(keep.index).map(|at| view.parts[at].clone())
        };
        let Some(part) = part else { return Ok(None) };
        let sparse = build_index_up_to(&part.segment, part.end, keep.index)?;
        if sparse.next_index() != Some(keep.index + 1) {
            return Err(self.damaged(&part, sparse.end(), "no entry header"));
        }
        Ok(Some((part.segment, sparse)))
    }

    pub(crate) fn purge(self: &Arc<Self>, upto: EntryId) -> Result<(), Error> {
        let _order = self.append.lock();
        self.shared.check_open()?;
        let (purged, last, next_offset) = {
            let view = self.view.lock();
            (view.words.purged, view.last, view.next_offset)
        };
        if purged.is_some_and(|purged| purged.index >= upto.index) {
            return Ok(());
        }
        if last.is_none_or(|last| last.index < upto.index) {
            return self.restart_after(upto, next_offset, None);
        }
        let first_offset = match last {
            Some(last) if last.index == upto.index => next_offset,
            _ => self.entry_facts(upto.index)?.1,
        };
        self.save_words(|view| {
            view.words.purged = Some(upto);
            view.words.first_offset = first_offset;
        })?;
        let any = {
            let mut view = self.view.lock();
            retire_below(&mut view, upto.index)
        };
        if any {
            self.shared.drain.submit(Job::Retire(self.clone()));
        }
        Ok(())
    }

    /// The log becomes empty and goes on after `last`; with a snapshot if one is given.
    pub(crate) fn restart_after(
        self: &Arc<Self>,
        last: EntryId,
        next_offset: u64,
        snapshot: Option<EntryId>,
    ) -> Result<(), Error> {
        self.save_words(|view| {
            view.cut_words(Cut {
                keep: Some(last),
                next_offset,
                all: true,
            });
            view.words.purged = Some(last);
            view.words.first_offset = next_offset;
            view.words.snapshot = snapshot.or(view.words.snapshot);
        })?;
        let dropped = {
            let mut view = self.view.lock();
            let dropped = view.parts.drain(..).map(|part| part.segment).collect();
            view.last = Some(last);
            view.next_offset = next_offset;
            // Only now: a drain must not write this beside older words.
            view.synced = Some(last.index);
            view.recent.clear();
            view.cut_here = true;
            view.waiting_checkpoints.clear();
            dropped
        };
        self.retire_now(dropped)
    }

    /// Takes the names of segments away, durably; their files are used again once nobody reads.
    pub(crate) fn retire_now(&self, segments: Vec<Arc<Segment>>) -> Result<(), Error> {
        if segments.is_empty() {
            return Ok(());
        }
        if self.is_removed() {
            self.release(segments);
            return Ok(());
        }
        let retire = || -> Result<(), Error> {
            for segment in &segments {
                // The hint goes first: it must not be found beside another segment of this name.
                // If it stays it is refused by its salt.
                let _ = self.shared.disk.remove(&self.index_name(segment));
                segment.file.retire()?;
            }
            self.sync_dir()?;
            let synced = self.shared.disk.sync_dir(POOL_DIR);
            synced.map_err(|e| Error::io(POOL_DIR, "sync directory", e))
        };
        match retire() {
            Ok(()) => {}
            Err(_) if self.is_removed() => {
                self.release(segments);
                return Ok(());
            }
            Err(error) => {
                self.shared.fail(&error);
                return Err(error);
            }
        }
        for segment in segments {
            self.shared.windows.forget(&segment);
            segment.file.allow_reuse();
        }
        Ok(())
    }

    /// The log was removed meanwhile: what is not in the pool yet goes with its directory.
    fn release(&self, segments: Vec<Arc<Segment>>) {
        for segment in segments {
            self.shared.windows.forget(&segment);
            if segment.name().starts_with(POOL_DIR) {
                segment.file.allow_reuse();
            } else {
                segment.file.forget();
            }
        }
    }

    /// Gives back what purges have left behind; runs in the background.
    pub(crate) fn retire_purged(&self) -> Result<(), Error> {
        let retiring = std::mem::take(&mut self.view.lock().retiring);
        self.retire_now(retiring)?;
        self.drop_checkpoints_before_snapshot()
    }
}

/// Takes the parts that begin after `keep` out of the view, and what is known of their entries.
fn drop_after(view: &mut View, keep: Option<EntryId>) -> Vec<Arc<Segment>> {
    let is_kept = |index: u64| keep.is_some_and(|keep| index <= keep.index);
    let at = view
        .parts
        .partition_point(|part| is_kept(part.first_index()));
    let dropped = view
        .parts
        .split_off(at)
        .into_iter()
        .map(|part: Part| part.segment)
        .collect();
    view.recent.retain(|recent| is_kept(recent.index));
    view.waiting_checkpoints.retain(|index, _| is_kept(*index));
    dropped
}

/// Moves whole segments below an index to the ones that retire. The last one always stays: it says
/// where the log ends.
pub(crate) fn retire_below(view: &mut View, purged: u64) -> bool {
    let whole = view
        .parts
        .iter()
        .skip(1)
        .take_while(|part| part.first_index() <= purged + 1);
    let count = whole.count();
    let gone: Vec<Arc<Segment>> = view.parts.drain(..count).map(|part| part.segment).collect();
    view.retiring.extend(gone);
    count > 0
}
