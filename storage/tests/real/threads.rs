//! Threads on a real directory: appenders, readers, retention, and logs that come and go, all
//! compared with a model; then a close, a start, and the same again.
//!
//! The choices follow from a seed (printed; `AQUEDUCT_SEED` repeats it), the interleaving does not.

mod model;

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use aqueduct_proto::crc::crc32c;
use aqueduct_storage::disk::RealDisk;
use aqueduct_storage::sim_disk::Chance;
use aqueduct_storage::{EntryId, Error, Log, ReadError, ReadPlan, Store, StoreOptions};
use bytes::Bytes;
use parking_lot::Mutex;

use self::model::Model;

const LOGS: u64 = 4;
const LIVES: u64 = 5;
/// Steps of each appender in each life.
const STEPS: usize = 100;
/// Batches that a reader keeps, to see that nobody writes over them.
const HELD: usize = 64;
/// How long anything may take before the test gives up. Generous: a slow machine is no bug.
const PATIENCE: Duration = Duration::from_secs(60);

/// A log with its model.
struct Pair {
    id: u64,
    model: Mutex<Model>,
}

fn options(chance: &mut Chance) -> StoreOptions {
    let failed = |error: &Error| panic!("the store failed: {error}");
    StoreOptions {
        journal_file_bytes: 2 << 20,
        first_segment_bytes: 64 << 10,
        max_segment_bytes: 512 << 10,
        direct_sync_bytes: [3_000, 100_000, 512 << 10][chance.below(3) as usize],
        sync_ahead_bytes: [1, 50_000, 1 << 20][chance.below(3) as usize],
        hot_bytes: [0, 100_000, 64 << 20][chance.below(3) as usize],
        on_fatal: Arc::new(failed),
        ..StoreOptions::default()
    }
}

#[test]
fn threads_and_the_model_agree() {
    let seed = std::env::var("AQUEDUCT_SEED");
    let seed = seed.ok().and_then(|seed| seed.parse().ok());
    let seed: u64 = seed.unwrap_or_else(|| u64::from(std::process::id()));
    println!("AQUEDUCT_SEED={seed}");
    let dir = tempfile::tempdir().unwrap();
    let mut chance = Chance::new(seed);
    let pairs: Vec<Pair> = (1..=LOGS)
        .map(|id| Pair {
            id,
            model: Mutex::new(Model {
                term: 1,
                ..Model::default()
            }),
        })
        .collect();
    for life in 0..LIVES {
        let store = open(dir.path(), &mut chance);
        if life == 0 {
            let ids: Vec<u64> = (1..=LOGS).collect();
            store.create_logs(&ids).unwrap();
        }
        let ids: Vec<u64> = store.logs().into_iter().filter(|id| *id <= LOGS).collect();
        assert_eq!(ids, [1, 2, 3, 4]);
        for pair in &pairs {
            let model = pair.model.lock();
            model.check_all(&store.open_log(pair.id).unwrap());
        }
        live(&store, &pairs, &mut chance);
        for pair in &pairs {
            let model = pair.model.lock();
            model.check_all(&store.open_log(pair.id).unwrap());
        }
        if chance.percent(50) {
            store.close();
        }
    }
}

fn open(dir: &Path, chance: &mut Chance) -> Store {
    let disk = RealDisk::new(dir).unwrap();
    Store::open(Arc::new(disk), options(chance)).unwrap()
}

/// Everybody at work until the appenders have done their steps.
fn live(store: &Store, pairs: &[Pair], chance: &mut Chance) {
    let done = AtomicBool::new(false);
    let mut child = || Chance::new(chance.number());
    std::thread::scope(|scope| {
        let appenders: Vec<_> = pairs
            .iter()
            .map(|pair| {
                let (log, chance) = (store.open_log(pair.id).unwrap(), child());
                scope.spawn(move || append(&log, pair, chance))
            })
            .collect();
        let done = &done;
        for _ in 0..3 {
            let chance = child();
            scope.spawn(move || read(store, pairs, chance, done));
        }
        let mut chance = child();
        scope.spawn(move || retain(store, pairs, &mut chance, done));
        let mut chance = child();
        scope.spawn(move || come_and_go(store, &mut chance, done));
        // All are waited for, then the others may go, and then the first panic is passed on.
        let ends: Vec<_> = appenders.into_iter().map(|one| one.join()).collect();
        done.store(true, Ordering::Release);
        ends.into_iter().for_each(|end| end.unwrap());
    });
}

/// The one appender of a log.
fn append(log: &Log, pair: &Pair, mut chance: Chance) {
    for _ in 0..STEPS {
        match chance.below(20) {
            0 => vote(log, pair, &mut chance),
            1 => log.roll(),
            2 => truncate(log, pair, &mut chance),
            3..=5 => commit(log, pair),
            _ => append_some(log, pair, &mut chance),
        }
    }
    commit(log, pair);
}

fn append_some(log: &Log, pair: &Pair, chance: &mut Chance) {
    let (entries, expected) = {
        let mut model = pair.model.lock();
        let count = 1 + chance.below(4);
        let entries: Vec<_> = (0..count).map(|_| model.new_entry(chance)).collect();
        let bases = entries
            .iter()
            .map(|entry| model.items[&entry.id.index].base_offset);
        let bases: Vec<u64> = bases.collect();
        (entries, bases)
    };
    let after = entries.last().map_or(0, |entry| entry.id.index + 1);
    let (tell, told) = std::sync::mpsc::channel();
    let done = move |outcome: Result<(), Error>| drop(tell.send(outcome));
    let bases = log.append(entries, Box::new(done)).unwrap();
    assert_eq!(bases, expected);
    if chance.percent(40) {
        told.recv_timeout(PATIENCE).unwrap().unwrap();
        assert!(
            log.synced_index() >= Some(after - 1),
            "acknowledged before it was durable"
        );
    }
}

/// What Raft does before it lets readers see: everything up to here is durable.
fn commit(log: &Log, pair: &Pair) {
    let (tell, told) = std::sync::mpsc::channel();
    // Votes are ordered with appends, so a durable vote is behind all of them.
    let vote = pair.model.lock().vote.clone().unwrap_or_default();
    pair.model.lock().vote = Some(vote.clone());
    log.save_vote(vote, Box::new(move |outcome| drop(tell.send(outcome))))
        .unwrap();
    told.recv_timeout(PATIENCE).unwrap().unwrap();
    let mut model = pair.model.lock();
    assert_eq!(log.synced_index(), model.last.map(|last| last.index));
    model.commit();
}

fn vote(log: &Log, pair: &Pair, chance: &mut Chance) {
    let vote = Bytes::copy_from_slice(&chance.number().to_le_bytes());
    pair.model.lock().vote = Some(vote.clone());
    log.save_vote(vote, Box::new(|outcome| outcome.unwrap()))
        .unwrap();
}

/// Truncates something that was never committed.
fn truncate(log: &Log, pair: &Pair, chance: &mut Chance) {
    let keep = {
        let model = pair.model.lock();
        let (Some(committed), Some(last)) = (model.committed, model.last) else {
            return;
        };
        committed.index + chance.below(last.index - committed.index + 1)
    };
    log.truncate_after(Some(keep)).unwrap();
    pair.model.lock().truncate_after(keep);
}

/// Reads what is committed, in every way, and keeps some of it.
fn read(store: &Store, pairs: &[Pair], mut chance: Chance, done: &AtomicBool) {
    let mut held: VecDeque<(Bytes, u32)> = VecDeque::new();
    while !done.load(Ordering::Acquire) {
        let pair = &pairs[chance.below(LOGS) as usize];
        let log = store.open_log(pair.id).unwrap();
        let (first, until, committed) = {
            let model = pair.model.lock();
            (model.first_offset, model.committed_offset, model.committed)
        };
        if first == until {
            std::thread::yield_now();
            continue;
        }
        let from = first + chance.below(until - first);
        match chance.below(10) {
            0 => look_up(&log, from, until),
            1 => read_entries(&log, pair, committed, &mut chance),
            _ => {
                let max_bytes = [1, 5_000, 1 << 20][chance.below(3) as usize];
                let read = log.plan_read(from, until, max_bytes).and_then(crate::run);
                let batches = match read {
                    Err(ReadError::OutOfRange { earliest, .. }) if earliest > from => continue,
                    other => other.unwrap(),
                };
                pair.model.lock().check_batches(from, &batches);
                let kept = batches
                    .into_iter()
                    .next()
                    .map(|batch| (crc32c(&batch), batch));
                held.extend(kept.map(|(sum, batch)| (batch, sum)));
            }
        }
        if held.len() > HELD {
            let (batch, sum) = held.pop_front().unwrap();
            assert_eq!(
                crc32c(&batch),
                sum,
                "somebody wrote over a batch that is held"
            );
        }
    }
    for (batch, sum) in held {
        assert_eq!(
            crc32c(&batch),
            sum,
            "somebody wrote over a batch that is held"
        );
    }
}

/// The stamp of each record is its offset.
fn look_up(log: &Log, from: u64, until: u64) {
    let found = log.offset_for_timestamp(from as i64, until).unwrap();
    let purged_meanwhile = log.first_offset() > from;
    assert!(found == Some(from) || purged_meanwhile, "{from}: {found:?}");
}

fn read_entries(log: &Log, pair: &Pair, committed: Option<EntryId>, chance: &mut Chance) {
    let Some(committed) = committed else { return };
    let first = log.first_index();
    if first > committed.index {
        return;
    }
    let from = first + chance.below(committed.index + 1 - first);
    let entries = match log.read_entries(from..committed.index + 1, 50_000) {
        Err(Error::Invalid { .. }) if log.first_index() > from => return,
        other => other.unwrap(),
    };
    let model = pair.model.lock();
    assert!(!entries.is_empty(), "entry {from} is missing");
    for (entry, index) in entries.iter().zip(from..) {
        assert_eq!(entry.id.index, index);
        // What was purged meanwhile the model does not know any more.
        if let Some(item) = model.items.get(&index) {
            assert_eq!((entry.id, entry.kind), (item.id, item.kind));
            assert!(item.is(&entry.payload), "another payload at {index}");
        }
    }
}

fn state_of(last: EntryId) -> Bytes {
    Bytes::from(format!("state after {last:?}").repeat(20))
}

/// Checkpoints at segment boundaries, snapshots of them, and purges up to those.
fn retain(store: &Store, pairs: &[Pair], chance: &mut Chance, done: &AtomicBool) {
    while !done.load(Ordering::Acquire) {
        std::thread::sleep(Duration::from_millis(chance.below(20)));
        let pair = &pairs[chance.below(LOGS) as usize];
        let log = store.open_log(pair.id).unwrap();
        let begins: Vec<u64> = log.segments().iter().map(|it| it.first_index).collect();
        let known: Vec<EntryId> = {
            let model = pair.model.lock();
            let committed = model.committed.map_or(0, |committed| committed.index);
            let begins = begins.iter().filter(|begin| **begin <= committed);
            let lasts = begins.filter_map(|begin| model.items.get(&begin.checked_sub(1)?));
            lasts.map(|item| item.id).collect()
        };
        if known.is_empty() {
            continue;
        }
        let last = known[chance.below(known.len() as u64) as usize];
        log.save_checkpoint(last, state_of(last));
        let start = Instant::now();
        // It is written in the background.
        while let Err(error) = log.set_snapshot(last) {
            assert!(matches!(error, Error::Invalid { .. }), "{error}");
            assert!(start.elapsed() < PATIENCE, "no checkpoint of {last:?}");
            std::thread::sleep(Duration::from_millis(1));
        }
        let snapshot = log.snapshot().unwrap().expect("it was set");
        assert_eq!((snapshot.last, snapshot.state), (last, state_of(last)));
        if chance.percent(70) {
            let mut model = pair.model.lock();
            log.purge(last).unwrap();
            model.purge(last);
        }
    }
}

/// Logs that are made, filled a little, and removed while others go on.
fn come_and_go(store: &Store, chance: &mut Chance, done: &AtomicBool) {
    for id in 1_000 * (1 + chance.below(1_000_000)).. {
        if done.load(Ordering::Acquire) {
            return;
        }
        let log = store.create_logs(&[id]).unwrap().remove(0);
        let mut model = Model {
            term: 1,
            ..Model::default()
        };
        for _ in 0..chance.below(30) {
            let entry = model.new_entry(chance);
            log.append(vec![entry], Box::new(drop)).unwrap();
        }
        assert_eq!(log.next_offset(), model.next_offset);
        store.remove_log(id).unwrap();
        assert!(!store.logs().contains(&id));
        let entry = model.new_entry(chance);
        let refused = log.append(vec![entry], Box::new(drop));
        assert!(matches!(refused, Err(Error::Closed { .. })), "{refused:?}");
    }
}

/// Runs a planned read, wherever it must run.
pub(crate) fn run(plan: ReadPlan) -> Result<Vec<Bytes>, ReadError> {
    match plan {
        ReadPlan::Ready(batches) => Ok(batches),
        ReadPlan::Blocking(read) => read.run(),
    }
}
