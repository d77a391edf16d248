//! What a store must hold: the plain model that the simulated runs are compared with.

use std::collections::BTreeMap;
use std::sync::Arc;

use aqueduct_proto::compression::Compression;
use aqueduct_proto::record::BatchBuilder;
use aqueduct_storage::sim_disk::Chance;
use aqueduct_storage::{Checkpoint, EntryId, Kind, Log, NewEntry, ReadPlan, Store};
use bytes::Bytes;
use parking_lot::Mutex;

/// An entry as it was appended.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ModelEntry {
    pub(crate) new: Plain,
    pub(crate) base_offset: u64,
    pub(crate) offsets: u64,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Plain {
    pub(crate) id: EntryId,
    pub(crate) kind: Kind,
    pub(crate) flags: u8,
    pub(crate) payload: Bytes,
}

/// What was acknowledged.
#[derive(Default, Debug)]
pub(crate) struct Acks {
    pub(crate) index: Option<u64>,
    pub(crate) votes: usize,
    pub(crate) failed: usize,
}

/// A call that had not returned when the machine died.
#[derive(Clone, Debug)]
pub(crate) enum InFlight {
    Cut(Option<u64>),
    Purge(EntryId),
    Snapshot(EntryId),
    Install(Checkpoint, u64),
    Remove,
}

#[derive(Default)]
pub(crate) struct LogModel {
    pub(crate) start: u64,
    pub(crate) entries: Vec<ModelEntry>,
    pub(crate) next_offset: u64,
    pub(crate) first_offset: u64,
    pub(crate) purged: Option<EntryId>,
    pub(crate) votes: Vec<Bytes>,
    pub(crate) saved: BTreeMap<u64, (EntryId, Bytes)>,
    pub(crate) snapshot: Option<EntryId>,
    pub(crate) in_flight: Option<InFlight>,
    pub(crate) acks: Arc<Mutex<Acks>>,
    pub(crate) term: u64,
    pub(crate) removed: bool,
    /// There was a crash since the log was made.
    pub(crate) recovered: bool,
}

impl LogModel {
    pub(crate) fn last(&self) -> Option<EntryId> {
        self.entries
            .last()
            .map(|entry| entry.new.id)
            .or(self.purged)
    }

    pub(crate) fn next_index(&self) -> u64 {
        self.last().map_or(self.start, |last| last.index + 1)
    }

    pub(crate) fn entry(&self, index: u64) -> Option<&ModelEntry> {
        self.entries.get(index.checked_sub(self.start)? as usize)
    }

    /// Next offset after an index that is held, or the start.
    fn offset_after(&self, last: Option<u64>) -> u64 {
        match last.and_then(|last| self.entry(last)) {
            Some(entry) => entry.base_offset + entry.offsets,
            None => self
                .entries
                .first()
                .map_or(self.next_offset, |entry| entry.base_offset),
        }
    }

    pub(crate) fn new_entry(&mut self, chance: &mut Chance, size: usize) -> NewEntry {
        let index = self.next_index();
        let id = EntryId {
            term: self.term,
            leader: 3,
            index,
        };
        let kind = match chance.below(6) {
            0 => Kind::Command,
            1 => Kind::Blank,
            _ => Kind::Batch,
        };
        let mut payload = Bytes::new();
        let mut offsets = 0;
        if kind == Kind::Command {
            payload = Bytes::from(vec![chance.number() as u8; size]);
        } else if kind == Kind::Batch {
            offsets = 1 + chance.below(3);
            let mut builder = BatchBuilder::new(Compression::None);
            for _ in 0..offsets {
                let value: Vec<u8> = (0..size / 8)
                    .flat_map(|_| chance.number().to_le_bytes())
                    .collect();
                builder.push(index as i64, None, Some(&value), &[]);
            }
            payload = builder.finish().unwrap();
        }
        let flags = chance.below(256) as u8;
        let new = Plain {
            id,
            kind,
            flags,
            payload: payload.clone(),
        };
        self.entries.push(ModelEntry {
            new,
            base_offset: self.next_offset,
            offsets,
        });
        if self.entries.len() == 1 {
            self.start = index;
        }
        self.next_offset += offsets;
        NewEntry {
            id,
            kind,
            flags,
            payload,
        }
    }

    pub(crate) fn cut(&mut self, last: Option<u64>) {
        let next_offset = match (last, self.purged) {
            (Some(last), Some(purged)) if last == purged.index => self.first_offset,
            (last, _) => self.offset_after(last),
        };
        let keep = last.map_or(0, |last| (last + 1).saturating_sub(self.start));
        self.entries.truncate(keep as usize);
        self.next_offset = next_offset;
        let mut acks = self.acks.lock();
        acks.index = acks.index.min(last);
        self.saved
            .retain(|boundary, _| *boundary <= last.map_or(0, |last| last + 1));
    }

    pub(crate) fn purge(&mut self, upto: EntryId) {
        if self.last().is_none_or(|last| last.index < upto.index) {
            self.install(upto, self.next_offset);
            return;
        }
        self.first_offset = self.offset_after(Some(upto.index));
        let gone = (upto.index + 1 - self.start) as usize;
        self.entries.drain(..gone);
        self.start = upto.index + 1;
        self.purged = Some(upto);
    }

    pub(crate) fn install(&mut self, last: EntryId, next_offset: u64) {
        self.entries.clear();
        self.start = last.index + 1;
        self.purged = Some(last);
        self.next_offset = next_offset;
        self.first_offset = next_offset;
        self.acks.lock().index = Some(last.index);
    }

    /// Compares a log with the model, exactly.
    pub(crate) fn check_live(&self, log: &Log) {
        assert_eq!(log.last_id(), self.last(), "last id");
        assert_eq!(log.purged_id(), self.purged, "purged");
        assert_eq!(log.next_offset(), self.next_offset, "next offset");
        assert_eq!(log.vote(), self.votes.last().cloned(), "vote");
        assert!(log.damage().is_empty(), "damage: {:?}", log.damage());
        self.check_contents(log);
    }

    /// Compares all entries and all batches.
    pub(crate) fn check_contents(&self, log: &Log) {
        if !self.entries.is_empty() {
            assert_eq!(log.first_index(), self.start, "first index");
            assert_eq!(
                log.first_offset(),
                self.entries[0].base_offset,
                "first offset"
            );
        }
        let mut read = Vec::new();
        let mut from = self.start;
        while from < self.next_index() {
            let some = log.read_entries(from..u64::MAX, 20_000).unwrap();
            assert!(!some.is_empty(), "entries from {from} on are missing");
            from += some.len() as u64;
            read.extend(some);
        }
        assert_eq!(read.len(), self.entries.len());
        let mut batches = Vec::new();
        for (entry, expected) in read.iter().zip(&self.entries) {
            let new = &expected.new;
            assert_eq!(
                (entry.id, entry.kind, entry.flags),
                (new.id, new.kind, new.flags)
            );
            assert_eq!(
                entry.base_offset, expected.base_offset,
                "base offset of {:?}",
                new.id
            );
            let skip = if new.kind == Kind::Batch { 16 } else { 0 };
            assert!(
                entry.payload[skip..] == new.payload[skip..],
                "payload of {:?}: {} {:?} bytes, expected {}",
                new.id,
                entry.payload.len(),
                entry.kind,
                new.payload.len()
            );
            if new.kind == Kind::Batch {
                batches.push(entry.payload.clone());
            }
        }
        let mut from = log.first_offset();
        let mut at = 0;
        while from < self.next_offset {
            let found = match log.plan_read(from, self.next_offset, 10_000).unwrap() {
                ReadPlan::Ready(found) => found,
                ReadPlan::Blocking(read) => read.run().unwrap(),
            };
            assert!(!found.is_empty(), "batches from {from} on are missing");
            for batch in found {
                assert!(batch == batches[at], "batch {at}");
                let header = aqueduct_proto::batch::BatchHeader::read(&batch).unwrap();
                from = header.base_offset as u64 + header.last_offset_delta as u64 + 1;
                at += 1;
            }
        }
        assert_eq!(at, batches.len(), "all batches were read");
    }

    /// Compares a log after a crash, and makes the model what was found.
    pub(crate) fn check_recovered(&mut self, log: &Log) {
        assert!(log.damage().is_empty(), "damage: {:?}", log.damage());
        let in_flight = self.in_flight.take();
        self.recovered = true;
        let last = log.last_id();
        match in_flight {
            Some(InFlight::Install(checkpoint, next_offset))
                if log.purged_id() == Some(checkpoint.last) =>
            {
                self.install(checkpoint.last, next_offset);
                self.snapshot = Some(checkpoint.last);
                self.saved.clear();
                self.saved.insert(
                    checkpoint.last.index + 1,
                    (checkpoint.last, checkpoint.state),
                );
            }
            Some(InFlight::Purge(upto)) if log.purged_id() == Some(upto) => self.purge(upto),
            Some(InFlight::Snapshot(id)) if log.snapshot().unwrap().map(|c| c.last) == Some(id) => {
                self.snapshot = Some(id);
            }
            Some(InFlight::Cut(to)) => {
                let mut acks = self.acks.lock();
                acks.index = acks.index.min(to);
            }
            _ => {}
        }
        assert_eq!(log.purged_id(), self.purged, "purged");
        let required = self.acks.lock().index;
        let found = last.map(|last| last.index);
        assert!(
            found >= required,
            "acknowledged {required:?}, found {found:?}"
        );
        assert!(
            found <= self.last().map(|last| last.index),
            "found {found:?} that was never there"
        );
        if found != self.last().map(|last| last.index) {
            self.cut(found);
        }
        assert_eq!(last, self.last(), "last id");
        assert_eq!(log.next_offset(), self.next_offset, "next offset");
        self.check_votes(log);
        self.check_checkpoints(log);
        self.check_contents(log);
        self.acks.lock().index = found;
    }

    fn check_votes(&mut self, log: &Log) {
        let acked = self.acks.lock().votes;
        let found = log.vote();
        let at = self
            .votes
            .iter()
            .rposition(|vote| Some(vote) == found.as_ref());
        let number = at.map_or(0, |at| at + 1);
        assert!(
            found.is_none() || at.is_some(),
            "a vote that was never cast"
        );
        assert!(
            number >= acked,
            "vote {acked} was acknowledged, {number} was found"
        );
        self.votes.truncate(number);
        self.acks.lock().votes = number;
    }

    fn check_checkpoints(&self, log: &Log) {
        if let Some(found) = log.newest_checkpoint().unwrap() {
            let known = self.saved.get(&(found.last.index + 1));
            assert_eq!(
                known,
                Some(&(found.last, found.state.clone())),
                "checkpoint"
            );
            assert!(Some(found.last.index) <= log.last_id().map(|last| last.index));
        }
        let snapshot = log.snapshot().unwrap();
        assert_eq!(
            snapshot.map(|snapshot| snapshot.last),
            self.snapshot,
            "snapshot"
        );
    }
}

/// All logs of a store.
#[derive(Default)]
pub(crate) struct Model {
    pub(crate) logs: BTreeMap<u64, LogModel>,
}

impl Model {
    pub(crate) fn check_recovered(&mut self, store: &Store) {
        let found = store.logs();
        self.logs.retain(|id, model| {
            let may_be_gone = model.removed || matches!(model.in_flight, Some(InFlight::Remove));
            let is_there = found.contains(id);
            assert!(is_there || may_be_gone, "log {id} is gone");
            assert!(
                !(is_there && model.removed),
                "log {id} was removed and is back"
            );
            is_there
        });
        for id in found {
            match self.logs.get_mut(&id) {
                Some(model) => model.check_recovered(&store.open_log(id).unwrap()),
                // A creation that was not acknowledged.
                None => assert_eq!(store.open_log(id).unwrap().last_id(), None),
            }
        }
    }
}
