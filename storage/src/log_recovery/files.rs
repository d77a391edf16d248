//! What lies in a log's directory before anything is decided about it, and what the journal's
//! replay adds to that.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::entry::RaftId;
use crate::error::Error;
use crate::pool::SegmentFile;
use crate::recovery::Context;
use crate::segment::{HeaderFound, SegmentHeader};
use crate::state_file::{StateFile, StateFound, Words};

/// A segment file as found.
pub(crate) struct FoundSegment {
    pub(crate) file: Arc<SegmentFile>,
    pub(crate) header: HeaderFound,
    /// Highest index that the journal has for it.
    pub(crate) journaled_index: Option<u64>,
    /// Replay wrote to it (or made it).
    pub(crate) touched: bool,
}

/// What lies in a log's directory.
pub(crate) struct LogFiles {
    pub(crate) id: RaftId,
    pub(crate) segments: BTreeMap<u64, FoundSegment>,
    pub(crate) retired: Vec<Arc<SegmentFile>>,
    pub(super) words: Words,
    pub(super) saved_version: Option<u64>,
    pub(super) state: StateFile,
    pub(super) state_damaged: bool,
    pub(super) checkpoints: BTreeSet<u64>,
    pub(super) installs: BTreeSet<u64>,
    pub(super) indexes: BTreeSet<u64>,
    /// First index and highest journaled index of segments that the journal knows and that are not
    /// whole (or not there).
    pub(super) orphans: BTreeMap<u64, u64>,
    replayed_generation: u64,
    /// The journal held words: they are saved before it begins anew.
    pub(super) replayed_words: bool,
}

impl LogFiles {
    pub(crate) fn dir(&self) -> String {
        format!("logs/{}", self.id)
    }

    /// Notes that entries of a segment were in the journal.
    pub(crate) fn note_orphan(&mut self, first_index: u64, last_index: u64) {
        let known = self.orphans.entry(first_index).or_default();
        *known = (*known).max(last_index);
    }

    /// Replay has written to this segment.
    pub(crate) fn touch(&mut self, first_index: u64) {
        if let Some(found) = self.segments.get_mut(&first_index) {
            found.touched = true;
        }
    }

    pub(crate) fn load(context: &Context<'_>, id: RaftId) -> Result<LogFiles, Error> {
        let (state, found) = StateFile::load(context.disk.as_ref(), id, context.clean)?;
        let (words, state_damaged) = match found {
            StateFound::Words(words) => (Some(*words), false),
            StateFound::Missing => (None, false),
            StateFound::Damaged => (None, true),
            StateFound::Foreign => {
                let path = format!("logs/{id}/state");
                return Err(Error::Foreign {
                    path,
                    why: "unknown magic or version".into(),
                });
            }
        };
        let mut files = LogFiles {
            id,
            segments: BTreeMap::new(),
            retired: Vec::new(),
            saved_version: words.as_ref().map(|words| words.version),
            words: words.unwrap_or_default(),
            state,
            state_damaged,
            checkpoints: BTreeSet::new(),
            installs: BTreeSet::new(),
            indexes: BTreeSet::new(),
            orphans: BTreeMap::new(),
            replayed_generation: 0,
            replayed_words: false,
        };
        let dir = format!("logs/{id}");
        if !context.clean {
            context
                .disk
                .sync_dir(&dir)
                .map_err(|e| Error::io(&dir, "sync directory", e))?;
        }
        for item in context
            .disk
            .list(&dir)
            .map_err(|e| Error::io(&dir, "list", e))?
        {
            files.load_item(context, &dir, &item.name, item.is_dir)?;
        }
        if files.saved_version.is_none() && !files.state_damaged {
            // Without space it is tried again by the first save.
            files.state = StateFile::prepare(context.disk.as_ref(), id).unwrap_or(files.state);
        }
        Ok(files)
    }

    fn load_item(
        &mut self,
        context: &Context<'_>,
        dir: &str,
        name: &str,
        is_dir: bool,
    ) -> Result<(), Error> {
        let path = format!("{dir}/{name}");
        let (stem, kind) = name.split_once('.').unwrap_or((name, ""));
        let index = stem.parse::<u64>().ok().filter(|_| stem.len() == 20);
        match (index, kind) {
            _ if is_dir => {}
            (None, "") if stem == "state" => return Ok(()),
            (None, "tmp") if stem == "state" => return remove(context, &path),
            (Some(_), "ckpt.tmp" | "install.tmp") => return remove(context, &path),
            (Some(index), "ckpt") => {
                self.checkpoints.insert(index);
                return Ok(());
            }
            (Some(index), "install") => {
                self.installs.insert(index);
                return Ok(());
            }
            (Some(index), "idx") => {
                self.indexes.insert(index);
                return Ok(());
            }
            (Some(index), "seg") => return self.load_segment(context, path, index),
            _ => {}
        }
        Err(Error::Foreign {
            path,
            why: "unknown name".into(),
        })
    }

    fn load_segment(
        &mut self,
        context: &Context<'_>,
        path: String,
        first_index: u64,
    ) -> Result<(), Error> {
        let handle = context
            .disk
            .open(&path)
            .map_err(|e| Error::io(&path, "open", e))?;
        let capacity = handle.len().map_err(|e| Error::io(&path, "stat", e))?;
        let header = SegmentHeader::read(handle.as_ref());
        if header == HeaderFound::Foreign {
            return Err(Error::Foreign {
                path,
                why: "unknown magic or version".into(),
            });
        }
        // A whole header of another place is what the file's last use has left.
        let header = match header {
            HeaderFound::Valid(found)
                if found.raft_id != self.id || found.first_index != first_index =>
            {
                HeaderFound::Torn
            }
            other => other,
        };
        let file = context.pool.adopt(handle, path, capacity);
        let found = FoundSegment {
            file,
            header,
            journaled_index: None,
            touched: false,
        };
        self.segments.insert(first_index, found);
        Ok(())
    }

    pub(crate) fn add_segment(
        &mut self,
        file: Arc<SegmentFile>,
        header: HeaderFound,
        touched: bool,
    ) {
        if let HeaderFound::Valid(found) = header {
            let segment = FoundSegment {
                file,
                header,
                journaled_index: None,
                touched,
            };
            self.segments.insert(found.first_index, segment);
        }
    }

    /// Takes out the segments that a cut has removed.
    fn drop_dead(&mut self, words: &Words) -> Result<(), Error> {
        let dead: Vec<u64> = self
            .segments
            .iter()
            .filter(|(_, found)| match found.header {
                HeaderFound::Valid(header) => is_cut_away(words, &header),
                _ => false,
            })
            .map(|(first_index, _)| *first_index)
            .collect();
        for first_index in dead {
            if let Some(found) = self.segments.remove(&first_index) {
                // Its name may be asked for by the next record.
                found.file.retire()?;
                self.retired.push(found.file);
            }
        }
        Ok(())
    }

    /// The journal is newer than the file, but it may hold older words too.
    pub(crate) fn take_words(&mut self, words: Words) -> Result<(), Error> {
        self.replayed_words = true;
        if words.generation > self.replayed_generation {
            // Records before a cut say nothing of what was begun after it.
            self.replayed_generation = words.generation;
            self.orphans.clear();
            // Replay may have made segments again that this cut has removed; the words that are
            // newest in the end know the last cut only.
            self.drop_dead(&words)?;
        }
        if words.version >= self.words.version || self.state_damaged {
            self.words = Words {
                tail: None,
                ..words
            };
            self.state_damaged = false;
        }
        Ok(())
    }
}

pub(super) fn remove(context: &Context<'_>, path: &str) -> Result<(), Error> {
    context
        .disk
        .remove(path)
        .map_err(|e| Error::io(path, "remove", e))
}

/// Whether a cut leaves nothing of a segment.
pub(super) fn is_cut_away(words: &Words, header: &SegmentHeader) -> bool {
    words.cut.is_some_and(|cut| {
        let keep = cut.keep.map(|keep| keep.index);
        let behind = Some(header.first_index) > keep;
        let purged = keep.is_some() && keep <= words.purged.map(|purged| purged.index);
        header.generation < words.generation && (cut.all || behind || purged)
    })
}
