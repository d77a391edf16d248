//! Random work on a store, with the model kept beside it.

use std::sync::Arc;

use aqueduct_storage::sim_disk::{Chance, SimDisk};
use aqueduct_storage::{Checkpoint, EntryId, Error, Log, Store, StoreOptions};
use bytes::Bytes;

use crate::model::{InFlight, LogModel, Model};

pub(crate) fn options(chance: &mut Chance) -> StoreOptions {
    StoreOptions {
        journal_file_bytes: 2 << 20,
        first_segment_bytes: 64 << 10,
        max_segment_bytes: 512 << 10,
        sync_ahead_bytes: [1, 2000, u64::MAX][chance.below(3) as usize],
        direct_sync_bytes: [1, 3000, 256 << 10][chance.below(3) as usize],
        hot_bytes: [0, 20_000, 64 << 20][chance.below(3) as usize],
        min_free_bytes: 0,
        manual: true,
        ..StoreOptions::default()
    }
}

/// A run: the same seed does the same work.
pub(crate) struct Run {
    pub(crate) chance: Chance,
    pub(crate) model: Model,
    pub(crate) next_id: u64,
    pub(crate) verbose: bool,
}

impl Run {
    pub(crate) fn new(seed: u64) -> Run {
        let verbose = std::env::var("AQUEDUCT_VERBOSE").is_ok();
        Run {
            chance: Chance::new(seed),
            model: Model::default(),
            next_id: 1,
            verbose,
        }
    }

    /// Does `steps` random things; ends early with the error of a dead disk.
    pub(crate) fn work(&mut self, store: &Store, steps: usize) -> Result<(), Error> {
        for _ in 0..steps {
            self.step(store)?;
        }
        Ok(())
    }

    fn step(&mut self, store: &Store) -> Result<(), Error> {
        let ids: Vec<u64> = self
            .model
            .logs
            .iter()
            .filter(|(_, m)| !m.removed)
            .map(|(id, _)| *id)
            .collect();
        if ids.is_empty() || (ids.len() < 4 && self.chance.percent(4)) {
            return self.create(store);
        }
        let id = ids[self.chance.below(ids.len() as u64) as usize];
        let log = store.open_log(id)?;
        let action = self.chance.below(100);
        if self.verbose {
            let model = &self.model.logs[&id];
            eprintln!(
                "log {id}: action {action}; last {:?} purged {:?} snapshot {:?} first {} synced {:?}",
                model.last(),
                model.purged,
                model.snapshot,
                log.first_index(),
                log.synced_index()
            );
        }
        let model = self.model.logs.get_mut(&id).unwrap();
        match action {
            0..=39 => append(model, &log, &mut self.chance)?,
            40..=46 => vote(model, &log, &mut self.chance)?,
            47..=51 => log.roll(),
            52..=58 => checkpoint(model, &log, &mut self.chance),
            59..=62 => set_snapshot(model, &log, &mut self.chance)?,
            63..=67 => truncate(model, &log, &mut self.chance)?,
            68..=72 => purge(model, &log, &mut self.chance)?,
            73 => install(model, &log, &mut self.chance)?,
            74 => {
                model.in_flight = Some(InFlight::Remove);
                store.remove_log(id)?;
                model.removed = true;
            }
            75..=85 => {
                store.step_engine();
            }
            86..=95 => {
                store.step();
            }
            96 => while store.step() {},
            _ => {
                check(model, &log)?;
            }
        }
        Ok(())
    }

    fn create(&mut self, store: &Store) -> Result<(), Error> {
        let id = self.next_id;
        self.next_id += 1;
        store.create_logs(&[id])?;
        let mut model = LogModel {
            term: 1,
            ..LogModel::default()
        };
        if self.chance.percent(30) {
            model.start = self.chance.below(1000);
        }
        self.model.logs.insert(id, model);
        Ok(())
    }
}

fn append(model: &mut LogModel, log: &Log, chance: &mut Chance) -> Result<(), Error> {
    if chance.percent(10) {
        model.term += 1;
    }
    let count = chance.below(4);
    let size = [16, 300, 3000, 60_000][chance.below(4) as usize];
    let from = model.entries.len();
    let entries: Vec<_> = (0..count).map(|_| model.new_entry(chance, size)).collect();
    let last = entries.last().map(|entry| entry.id.index);
    let acks = model.acks.clone();
    let total: u64 = entries
        .iter()
        .map(|e| aqueduct_storage::stored_len(e.payload.len()))
        .sum();
    if chance.percent(30) {
        log.reserve(total)?;
    }
    let done = move |outcome: Result<(), Error>| {
        let mut acks = acks.lock();
        match outcome {
            Ok(()) => acks.index = acks.index.max(last),
            Err(_) => acks.failed += 1,
        }
    };
    let bases = log.append(entries, Box::new(done))?;
    let expected: Vec<u64> = model.entries[from..]
        .iter()
        .map(|e| e.base_offset)
        .collect();
    assert_eq!(bases, expected);
    Ok(())
}

fn vote(model: &mut LogModel, log: &Log, chance: &mut Chance) -> Result<(), Error> {
    let mut vote = vec![0; 8 + chance.below(121) as usize];
    vote[..8].copy_from_slice(&chance.number().to_le_bytes());
    let vote = Bytes::from(vote);
    model.votes.push(vote.clone());
    let (acks, number) = (model.acks.clone(), model.votes.len());
    log.save_vote(
        vote,
        Box::new(move |outcome| {
            if outcome.is_ok() {
                let mut acks = acks.lock();
                assert!(acks.votes < number, "votes are acknowledged in order");
                acks.votes = number;
            }
        }),
    )
}

fn state_of(id: EntryId, chance: &mut Chance) -> Bytes {
    let mut state = vec![id.index as u8; chance.below(3000) as usize];
    state.extend_from_slice(&id.term.to_le_bytes());
    Bytes::from(state)
}

/// A checkpoint at a boundary, as the broker makes them: entry before a segment's first.
fn checkpoint(model: &mut LogModel, log: &Log, chance: &mut Chance) {
    let begins: Vec<u64> = log
        .segments()
        .iter()
        .map(|segment| segment.first_index)
        .collect();
    let known = begins
        .iter()
        .filter_map(|first| model.entry(first.checked_sub(1)?));
    let known: Vec<EntryId> = known.map(|entry| entry.new.id).collect();
    if known.is_empty() {
        return;
    }
    let last = known[chance.below(known.len() as u64) as usize];
    assert!(log.is_boundary(last.index + 1));
    // The state is a function of the log, so a second checkpoint of a place says the same.
    let state = match model.saved.get(&(last.index + 1)) {
        Some((_, state)) => state.clone(),
        None => state_of(last, chance),
    };
    model.saved.insert(last.index + 1, (last, state.clone()));
    log.save_checkpoint(last, state);
}

fn set_snapshot(model: &mut LogModel, log: &Log, chance: &mut Chance) -> Result<(), Error> {
    let synced = log.synced_index();
    let floor = model.snapshot.map_or(0, |snapshot| snapshot.index + 1);
    let known: Vec<EntryId> = model
        .saved
        .values()
        .map(|(id, _)| *id)
        .filter(|id| Some(id.index) <= synced && id.index >= floor)
        .collect();
    if known.is_empty() {
        return Ok(());
    }
    let id = known[chance.below(known.len() as u64) as usize];
    model.in_flight = Some(InFlight::Snapshot(id));
    let outcome = log.set_snapshot(id);
    if model.recovered && matches!(outcome, Err(Error::Invalid { .. })) {
        // It was queued before the crash and never written.
        model.in_flight = None;
        model.saved.remove(&(id.index + 1));
        return Ok(());
    }
    outcome?;
    model.in_flight = None;
    model.snapshot = Some(id);
    Ok(())
}

fn truncate(model: &mut LogModel, log: &Log, chance: &mut Chance) -> Result<(), Error> {
    let floor = model
        .snapshot
        .map(|id| id.index)
        .max(model.purged.map(|id| id.index));
    let newest = model.last().map(|last| last.index);
    let Some(newest) = newest else { return Ok(()) };
    let to = match floor {
        Some(floor) => Some(floor + chance.below(newest - floor + 1)),
        None if chance.percent(10) => None,
        None => Some(model.start + chance.below(newest - model.start + 1)),
    };
    model.in_flight = Some(InFlight::Cut(to));
    log.truncate_after(to)?;
    model.in_flight = None;
    model.cut(to);
    model.term += 1;
    check(model, log)?;
    Ok(())
}

fn purge(model: &mut LogModel, log: &Log, chance: &mut Chance) -> Result<(), Error> {
    // As Raft does: up to the snapshot; sometimes beyond the end.
    let upto = match model.snapshot {
        Some(snapshot) => snapshot,
        None => return Ok(()),
    };
    if model.purged.map(|id| id.index) >= Some(upto.index) {
        return Ok(());
    }
    let _ = chance;
    model.in_flight = Some(InFlight::Purge(upto));
    log.purge(upto)?;
    model.in_flight = None;
    model.purge(upto);
    check(model, log)?;
    Ok(())
}

fn install(model: &mut LogModel, log: &Log, chance: &mut Chance) -> Result<(), Error> {
    let index = model.next_index() + chance.below(10);
    model.term += 1;
    let last = EntryId {
        term: model.term,
        leader: 9,
        index,
    };
    let state = state_of(last, chance);
    let next_offset = model.next_offset + chance.below(100);
    let checkpoint = Checkpoint {
        last,
        state: state.clone(),
    };
    model.in_flight = Some(InFlight::Install(checkpoint.clone(), next_offset));
    log.install(checkpoint, next_offset)?;
    model.in_flight = None;
    model.install(last, next_offset);
    model.snapshot = Some(last);
    model.saved.clear();
    model.saved.insert(index + 1, (last, state));
    check(model, log)?;
    Ok(())
}

/// Compares with the model, unless the disk has died in a call whose failure does not matter.
fn check(model: &LogModel, log: &Log) -> Result<(), Error> {
    let from = log.first_index();
    match log.read_entries(from..from + 1, 0) {
        Err(error @ Error::Io { .. }) => Err(error),
        _ => {
            model.check_live(log);
            Ok(())
        }
    }
}

pub(crate) fn open(disk: &SimDisk, options: &StoreOptions) -> Result<Store, Error> {
    Store::open(Arc::new(disk.clone()), options.clone())
}
