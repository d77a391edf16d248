//! Damage and errors: each is refused or reported, never hidden, and everything else is served.

use std::sync::Arc;

use aqueduct_storage::sim_disk::{Call, Chance, SimDisk};
use aqueduct_storage::{EntryId, Error, Kind, Log, NewEntry, ReadError, ReadPlan, Store};
use bytes::Bytes;
use parking_lot::Mutex;

use crate::model::LogModel;
use crate::work::{open, options};

const COUNT: u64 = 60;

/// A log of several segments, all of it acknowledged.
fn filled(disk: &SimDisk) -> (Store, Log, LogModel) {
    let mut chance = Chance::new(7);
    let store = open(disk, &options(&mut chance)).unwrap();
    let log = store.create_logs(&[1]).unwrap().remove(0);
    let mut model = LogModel {
        term: 1,
        ..LogModel::default()
    };
    for at in 0..COUNT {
        if at % 20 == 19 {
            log.roll();
        }
        let entry = model.new_entry(&mut chance, 2000);
        log.append(vec![entry], Box::new(|outcome| outcome.unwrap()))
            .unwrap();
        while store.step_engine() {}
    }
    assert_eq!(log.synced_index(), Some(COUNT - 1));
    (store, log, model)
}

fn reopen(disk: &SimDisk) -> (Store, Log) {
    let store = open(disk, &options(&mut Chance::new(7))).unwrap();
    let log = store.open_log(1).unwrap();
    (store, log)
}

fn read(log: &Log, from: u64) -> Result<Vec<Bytes>, ReadError> {
    match log.plan_read(from, log.next_offset(), 1 << 20)? {
        ReadPlan::Ready(found) => Ok(found),
        ReadPlan::Blocking(read) => read.run(),
    }
}

/// Reads every offset the log says it has: the right batch, or a refusal. Returns the refusals.
fn check_served(log: &Log, model: &LogModel) -> u64 {
    let mut refused = 0;
    for entry in model
        .entries
        .iter()
        .filter(|entry| entry.new.kind == Kind::Batch)
    {
        match read(log, entry.base_offset) {
            Ok(found) => {
                assert!(
                    !found.is_empty(),
                    "offset {} is silently missing",
                    entry.base_offset
                );
                assert!(found[0][16..] == entry.new.payload[16..], "wrong batch");
            }
            Err(ReadError::Damaged { .. } | ReadError::OutOfRange { .. }) => refused += 1,
            Err(error) => panic!("{error}"),
        }
    }
    refused
}

fn refuses_appends(log: &Log) {
    let id = EntryId {
        term: 9,
        leader: 1,
        index: log.last_id().map_or(0, |l| l.index + 1),
    };
    let entry = NewEntry {
        id,
        kind: Kind::Blank,
        flags: 0,
        payload: Bytes::new(),
    };
    let outcome = log.append(vec![entry], Box::new(|_| {}));
    assert!(matches!(outcome, Err(Error::Corrupt { .. })), "{outcome:?}");
}

fn segment_names(log: &Log) -> Vec<String> {
    let name = |first: u64| format!("logs/1/{first:020}.seg");
    log.segments()
        .iter()
        .map(|segment| name(segment.first_index))
        .collect()
}

/// Damages one segment of a closed store in some way and looks at what is served.
fn damaged(at: usize, clean: bool, harm: impl FnOnce(&mut Vec<u8>, usize)) -> (Log, u64, Store) {
    let disk = SimDisk::new(3);
    let (store, log, model) = filled(&disk);
    let name = segment_names(&log)[at].clone();
    let used = log.segments()[at].bytes as usize;
    if clean {
        store.close();
    } else {
        while store.step() {}
    }
    let disk = disk.kill();
    disk.damage(&name, |bytes| harm(bytes, used)).unwrap();
    drop((store, log));
    let (store, log) = reopen(&disk);
    let refused = check_served(&log, &model);
    (log, refused, store)
}

#[test]
fn rot_below_the_synced_mark_is_refused_and_the_rest_is_served() {
    for at in [0, 1] {
        let (log, refused, _store) = damaged(at, false, |bytes, used| bytes[used / 2] ^= 4);
        assert_eq!(refused, 1, "one batch is damaged");
        assert_eq!(log.damage().len(), 1);
        refuses_appends(&log);
    }
}

#[test]
fn rot_that_was_not_looked_at_is_found_by_the_read() {
    let (log, refused, _store) = damaged(0, true, |bytes, used| bytes[used / 2] ^= 4);
    assert!((1..10).contains(&refused), "{refused} refused");
    assert_eq!(log.damage().len(), 1);
}

#[test]
fn a_segment_that_was_cut_or_zeroed_is_never_skipped() {
    for at in 0..3 {
        for clean in [true, false] {
            let (log, refused, _s) = damaged(at, clean, |bytes, used| bytes.truncate(used / 2));
            assert!(refused > 0 && !log.damage().is_empty(), "cut {at} {clean}");
            let (log, refused, _s) = damaged(at, clean, |bytes, used| bytes[used / 2..].fill(0));
            assert!(
                refused > 0 || !log.damage().is_empty(),
                "zeroed {at} {clean}"
            );
        }
    }
    for clean in [true, false] {
        let (log, refused, _store) = damaged(0, clean, |bytes, _| bytes.clear());
        assert!(refused > 0 && !log.damage().is_empty());
        assert_eq!((log.first_index(), log.first_offset()), (0, 0));
        refuses_appends(&log);
    }
    let (log, refused, _store) = damaged(2, true, |bytes, _| bytes.clear());
    assert!(refused > 0 && !log.damage().is_empty());
}

#[test]
fn one_bad_header_block_copy_costs_nothing() {
    for copy in [0, 2048] {
        let harm = |bytes: &mut Vec<u8>, _: usize| bytes[copy..copy + 512].fill(0xff);
        let (log, refused, _store) = damaged(1, false, harm);
        assert_eq!((refused, log.damage().len()), (0, 0));
    }
}

#[test]
fn foreign_files_are_refused() {
    let disk = SimDisk::new(3);
    let (store, log, _) = filled(&disk);
    let name = segment_names(&log)[0].clone();
    store.close();
    drop((store, log));
    let disk = disk.kill();
    disk.damage(&name, |bytes| bytes[..4096].copy_from_slice(&[b'x'; 4096]))
        .unwrap();
    let outcome = open(&disk, &options(&mut Chance::new(7)));
    assert!(matches!(outcome, Err(Error::Foreign { .. })), "{outcome:?}");
}

#[test]
fn hints_and_checkpoints_may_go() {
    let disk = SimDisk::new(3);
    let (store, log, model) = filled(&disk);
    let begins: Vec<u64> = log.segments().iter().map(|s| s.first_index).collect();
    for first in &begins[1..] {
        let last = model.entry(first - 1).unwrap().new.id;
        log.save_checkpoint(last, Bytes::from(format!("state {first}")));
    }
    while store.step() {}
    assert_eq!(
        log.newest_checkpoint().unwrap().unwrap().last.index + 1,
        *begins.last().unwrap()
    );
    store.close();
    drop((store, log));
    let disk = disk.kill();
    for first in &begins {
        disk.damage(&format!("logs/1/{first:020}.idx"), |bytes| bytes.clear())
            .unwrap();
    }
    let newest = format!("logs/1/{:020}.ckpt", begins.last().unwrap());
    // One copy damaged: nothing is lost. Both: an older one takes its place.
    disk.damage(&newest, |bytes| bytes[60] ^= 1).unwrap();
    let (store, log) = reopen(&disk);
    assert_eq!(check_served(&log, &model), 0);
    assert_eq!(
        log.newest_checkpoint().unwrap().unwrap().last.index + 1,
        *begins.last().unwrap()
    );
    drop((store, log));
    let disk = disk.kill();
    disk.damage(&newest, |bytes| bytes.fill(1)).unwrap();
    let (_store, log) = reopen(&disk);
    assert_eq!(check_served(&log, &model), 0);
    assert_eq!(
        log.newest_checkpoint().unwrap().unwrap().last.index + 1,
        begins[begins.len() - 2]
    );
}

#[test]
fn a_failed_sync_or_write_closes_the_store_for_good() {
    for call in [Call::Sync, Call::Write] {
        let disk = SimDisk::new(3);
        let told = Arc::new(Mutex::new(Vec::new()));
        let tell = told.clone();
        let mut with = options(&mut Chance::new(7));
        with.on_fatal = Arc::new(move |error| tell.lock().push(error.to_string()));
        let store = open(&disk, &with).unwrap();
        let log = store.create_logs(&[1]).unwrap().remove(0);
        disk.fail(call, if call == Call::Sync { 0 } else { 2 });
        let answers = Arc::new(Mutex::new(Vec::new()));
        for index in 0..3 {
            let id = EntryId {
                term: 1,
                leader: 1,
                index,
            };
            let entry = NewEntry {
                id,
                kind: Kind::Blank,
                flags: 0,
                payload: Bytes::new(),
            };
            let answer = answers.clone();
            let done = Box::new(move |outcome| answer.lock().push(outcome));
            if log.append(vec![entry], done).is_err() {
                break;
            }
        }
        while store.step() {}
        assert_eq!(told.lock().len(), 1, "{:?}", told.lock());
        let closed = |outcome: &Result<(), Error>| matches!(outcome, Err(Error::Closed { .. }));
        assert!(answers.lock().iter().all(closed));
        let later = log.save_vote(Bytes::new(), Box::new(|_| {}));
        assert!(matches!(later, Err(Error::Closed { .. })));
    }
}

#[test]
fn a_full_disk_is_an_answer_and_goes_away() {
    let disk = SimDisk::new(3);
    let mut chance = Chance::new(7);
    let store = open(&disk, &options(&mut chance)).unwrap();
    let log = store.create_logs(&[1]).unwrap().remove(0);
    let mut model = LogModel {
        term: 1,
        ..LogModel::default()
    };
    disk.set_capacity(disk.used() + (1 << 20));
    let mut stored = 0;
    loop {
        if log.reserve(70_000).is_err() {
            break;
        }
        // What was reserved can be appended, whatever else is written between.
        let entry = model.new_entry(&mut chance, 20_000);
        log.append(vec![entry], Box::new(|outcome| outcome.unwrap()))
            .unwrap();
        log.unreserve(70_000);
        while store.step() {}
        stored += 1;
        assert!(stored < 1000, "the disk never fills");
    }
    assert!(matches!(log.reserve(70_000), Err(Error::Full { .. })));
    model.check_live(&log);
    for _ in 0..20 {
        // Commands still find their place.
        let next = EntryId {
            term: 1,
            leader: 1,
            index: log.last_id().unwrap().index + 1,
        };
        let entry = NewEntry {
            id: next,
            kind: Kind::Blank,
            flags: 0,
            payload: Bytes::new(),
        };
        log.append(vec![entry], Box::new(|outcome| outcome.unwrap()))
            .unwrap();
        while store.step() {}
    }
    disk.set_capacity(1 << 30);
    log.reserve(70_000).unwrap();
}

#[test]
fn a_bad_sector_is_an_error_of_its_range() {
    let disk = SimDisk::new(3);
    let (store, log, model) = filled(&disk);
    let name = segment_names(&log)[0].clone();
    store.close();
    drop((store, log));
    let disk = disk.kill();
    disk.make_unreadable(&name, 20_000..20_512).unwrap();
    let (_store, log) = reopen(&disk);
    let refused = check_served(&log, &model);
    assert!(refused > 0 && refused < COUNT / 2, "{refused} refused");
}
