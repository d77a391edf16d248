//! A store's long life on a simulated disk: work, power cut, recovery, again and again.
//!
//! The storage package enumerates crashes of short workloads; here one disk lives through
//! many, so that what a recovery left behind meets the next crash. The model is another
//! one than storage's own, on purpose: only what the outside is promised. After each
//! start: everything acknowledged is there byte for byte, nothing else than what was appended,
//! the vote is the last acknowledged one or a later attempt, offsets and indexes are dense.
//! `AQUEDUCT_SEED` replays one life, `AQUEDUCT_LIVES` gives the number of lives (6).
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use aqueduct_proto::{batch::BatchHeader, compression::Compression, record::BatchBuilder};
use aqueduct_storage::{EntryId, Kind, Log, NewEntry, Store, StoreOptions, sim_disk::SimDisk};
use aqueduct_tests::Seed;
use bytes::Bytes;
use rand::{Rng as _, rngs::StdRng};

fn options() -> StoreOptions {
    StoreOptions {
        journal_file_bytes: 64 << 10,
        first_segment_bytes: 16 << 10,
        max_segment_bytes: 64 << 10,
        direct_sync_bytes: 6 << 10,
        min_free_bytes: 0,
        manual: true,
        ..StoreOptions::default()
    }
}

/// What one log was told, and what it promised.
#[derive(Default)]
struct Model {
    /// Payload and term by index; beyond `acked` it may be lost.
    entries: BTreeMap<u64, (u64, Bytes)>,
    acked: Arc<AtomicU64>,
    /// Votes in the order they were given; those before `vote_acked` are history.
    votes: Vec<Bytes>,
    vote_acked: Arc<AtomicU64>,
    purged: u64,
}

struct Life {
    rng: StdRng,
    disk: SimDisk,
    logs: BTreeMap<u64, Model>,
    term: u64,
}

impl Life {
    fn append(&mut self, log: &Log) {
        let model = self.logs.get_mut(&log.id()).unwrap();
        let first = log.last_id().map_or(1, |last| last.index + 1);
        let count = self.rng.random_range(1..5);
        let mut entries = Vec::new();
        for index in first..first + count {
            let (kind, payload) = if self.rng.random_ratio(1, 4) {
                (
                    Kind::Command,
                    Bytes::from(vec![7; self.rng.random_range(1..300)]),
                )
            } else {
                (Kind::Batch, batch(&mut self.rng, index))
            };
            model.entries.insert(index, (self.term, payload.clone()));
            let id = EntryId {
                term: self.term,
                leader: 1,
                index,
            };
            entries.push(NewEntry {
                id,
                kind,
                flags: 0,
                payload,
            });
        }
        let acked = Arc::clone(&model.acked);
        let told = move |result: Result<(), aqueduct_storage::Error>| {
            if result.is_ok() {
                acked.store(first + count - 1, Ordering::Relaxed);
            }
        };
        // A dead disk refuses; the entries then count as attempted.
        let _ = log.append(entries, Box::new(told));
    }

    fn vote(&mut self, log: &Log) {
        let model = self.logs.get_mut(&log.id()).unwrap();
        let vote = Bytes::from(format!("vote {}", model.votes.len() + 1));
        model.votes.push(vote.clone());
        let number = model.votes.len() as u64;
        let acked = Arc::clone(&model.vote_acked);
        let told = move |result: Result<(), aqueduct_storage::Error>| {
            if result.is_ok() {
                acked.store(number, Ordering::Relaxed);
            }
        };
        let _ = log.save_vote(vote, Box::new(told));
    }

    /// A checkpoint at a boundary, then everything below it may go.
    fn checkpoint_and_purge(&mut self, log: &Log) {
        let Some(last) = log.last_id() else { return };
        log.roll();
        log.save_checkpoint(last, Bytes::from(format!("state {}", last.index)));
        let model = self.logs.get_mut(&log.id()).unwrap();
        if self.rng.random() && model.acked.load(Ordering::Relaxed) >= last.index {
            model.purged = last.index;
            let _ = log.purge(last);
        }
    }

    /// Some work on all logs, then the end: by plug, by kill, or in good order.
    fn work(&mut self, store: &Store) -> SimDisk {
        let logs: Vec<Log> = self
            .logs
            .keys()
            .map(|id| store.open_log(*id).unwrap())
            .collect();
        if self.rng.random_ratio(1, 2) {
            let calls = self.rng.random_range(1..400);
            self.disk.crash_at(self.disk.calls() + calls);
        }
        for _ in 0..self.rng.random_range(10..120) {
            let log = &logs[self.rng.random_range(0..logs.len())];
            match self.rng.random_range(0..20) {
                0..12 => self.append(log),
                12 => self.vote(log),
                13 => self.checkpoint_and_purge(log),
                14..18 => drop(store.step_engine()),
                _ => drop(store.step()),
            }
            if self.disk.is_dead() {
                break;
            }
        }
        match self.rng.random_range(0..4) {
            0 => self.disk.kill(),
            1 if !self.disk.is_dead() => {
                while store.step() {}
                store.close();
                self.disk.kill()
            }
            _ => self.disk.crash(self.rng.random_range(0..=100)),
        }
    }

    /// Everything the outside was promised.
    fn check(&mut self, store: &Store, what: &str) {
        for (id, model) in &mut self.logs {
            let log = store.open_log(*id).unwrap();
            let what = format!("{what}, log {id}");
            assert!(log.damage().is_empty(), "{what}: {:?}", log.damage());
            let acked = model.acked.load(Ordering::Relaxed);
            let last = log.last_id().map_or(0, |last| last.index);
            assert!(
                last >= acked,
                "{what}: acknowledged up to {acked}, found up to {last}"
            );
            assert!(
                log.first_index() <= model.purged + 1,
                "{what}: too much is gone"
            );
            let mut offset = None;
            for index in log.first_index().max(1)..=last {
                let entry = log
                    .read_entries(index..index + 1, 1 << 20)
                    .unwrap()
                    .remove(0);
                let (term, payload) = &model.entries[&index];
                assert_eq!((entry.id.index, entry.id.term), (index, *term), "{what}");
                let from = if entry.kind == Kind::Batch { 16 } else { 0 };
                assert!(
                    entry.payload[from..] == payload[from..],
                    "{what}: entry {index}"
                );
                let due = offset.unwrap_or(entry.base_offset);
                assert_eq!(entry.base_offset, due, "{what}: offsets are dense");
                offset = Some(due + count(&entry.payload, entry.kind));
            }
            model.entries.split_off(&(last + 1));
            model.acked.store(last, Ordering::Relaxed);
            check_vote(model, log.vote(), &what);
        }
    }
}

fn check_vote(model: &mut Model, found: Option<Bytes>, what: &str) {
    let acked = model.vote_acked.load(Ordering::Relaxed) as usize;
    let place = match found {
        None => 0,
        Some(vote) => {
            let place = model.votes.iter().position(|given| *given == vote);
            place.unwrap_or_else(|| panic!("{what}: a vote nobody gave: {vote:?}")) + 1
        }
    };
    assert!(
        place >= acked,
        "{what}: vote {acked} was acknowledged, found {place}"
    );
    model.votes.truncate(place);
    model.vote_acked.store(place as u64, Ordering::Relaxed);
}

fn batch(rng: &mut StdRng, index: u64) -> Bytes {
    let mut builder = BatchBuilder::new(Compression::None);
    for _ in 0..rng.random_range(1..4) {
        let value = vec![index as u8; rng.random_range(0..2_000)];
        builder.push(index as i64, None, Some(&value), &[]);
    }
    builder.finish().unwrap()
}

fn count(payload: &[u8], kind: Kind) -> u64 {
    match kind {
        Kind::Batch => BatchHeader::read(payload).unwrap().count as u64,
        _ => 0,
    }
}

fn live(seed: Seed) {
    let disk = SimDisk::new(seed.0);
    let logs = (1..=3).map(|id| (id, Model::default())).collect();
    let mut life = Life {
        rng: seed.rng(),
        disk,
        logs,
        term: 0,
    };
    for day in 0..40 {
        let what = format!("seed {}, day {day}", seed.0);
        life.term += 1;
        let store = Store::open(Arc::new(life.disk.clone()), options())
            .unwrap_or_else(|error| panic!("{what}: does not open: {error}"));
        store.create_logs(&[1, 2, 3]).unwrap();
        life.check(&store, &what);
        let next = life.work(&store);
        drop(store);
        life.disk = next;
    }
    let stored: usize = life.logs.values().map(|model| model.entries.len()).sum();
    println!(
        "seed {}: {stored} entries and {} disk calls",
        seed.0,
        life.disk.calls()
    );
    assert!(
        stored > 100,
        "a life in which nothing happened proves nothing"
    );
}

#[test]
fn a_disk_lives_through_many_crashes() {
    let lives = std::env::var("AQUEDUCT_LIVES").map_or(6, |text| text.parse().unwrap());
    if std::env::var("AQUEDUCT_SEED").is_ok_and(|text| text != "random") {
        return live(Seed::from_env());
    }
    let first = Seed::from_env();
    for n in 0..lives {
        live(first.child(n));
    }
}
