//! Things that were acknowledged and lay in one place only: each test is a way in which that place
//! could be given away too early.

use std::sync::Arc;

use aqueduct_storage::disk::Disk as _;
use aqueduct_storage::sim_disk::{Call, Chance, SimDisk};
use aqueduct_storage::{EntryId, Error, Kind, Log, NewEntry, Store, StoreOptions};
use bytes::Bytes;

use crate::work::{open, options};

/// Everything goes through the journal.
fn journaling() -> StoreOptions {
    StoreOptions {
        sync_ahead_bytes: u64::MAX,
        direct_sync_bytes: u64::MAX,
        ..options(&mut Chance::new(1))
    }
}

fn id(index: u64) -> EntryId {
    EntryId {
        term: 1,
        leader: 1,
        index,
    }
}

/// Appends commands with these indexes and waits for them.
fn fill(store: &Store, log: &Log, indexes: std::ops::Range<u64>) {
    for index in indexes {
        let entry = NewEntry {
            id: id(index),
            kind: Kind::Command,
            flags: 0,
            payload: Bytes::from(vec![index as u8; 3000]),
        };
        log.append(vec![entry], Box::new(|outcome| outcome.unwrap()))
            .unwrap();
        store.step_engine();
    }
}

/// The snapshot moves on while the background clears up what the last purge has left.
#[test]
fn the_old_snapshot_stays_until_the_new_one_is_durable() {
    let disk = SimDisk::new(3);
    let store = open(&disk, &journaling()).unwrap();
    let log = store.create_logs(&[1]).unwrap().remove(0);
    for begin in [0, 5, 10] {
        fill(&store, &log, begin..begin + 5);
        log.roll();
    }
    for last in [4, 9] {
        log.save_checkpoint(id(last), Bytes::from(format!("state {last}")));
    }
    while store.step() {}
    log.set_snapshot(id(4)).unwrap();
    log.purge(id(4)).unwrap();
    let (background, dying) = (store.clone(), disk.clone());
    disk.meanwhile(Call::Write, move || {
        // The one job that waits: the engine holds the journal.
        assert!(background.step());
        dying.crash_at(dying.calls() + 1);
    });
    log.set_snapshot(id(9)).unwrap_err();
    let disk = disk.crash(0);
    drop((log, store));
    let store = open(&disk, &journaling()).unwrap();
    let snapshot = store.open_log(1).unwrap().snapshot().unwrap().unwrap();
    assert_eq!(snapshot.last, id(4));
}

/// The sync of a segment fails, and the process ends: memory still shows what the disk lost.
#[test]
fn a_failed_sync_leaves_the_journal_to_be_believed() {
    for seed in 0..20 {
        let disk = SimDisk::new(seed);
        let store = open(&disk, &journaling()).unwrap();
        let log = store.create_logs(&[1]).unwrap().remove(0);
        fill(&store, &log, 0..20);
        disk.fail(Call::Sync, 0);
        while store.step() {}
        let disk = disk.kill();
        drop((log, store));
        let store = open(&disk, &journaling()).unwrap();
        assert_eq!(store.open_log(1).unwrap().last_id(), Some(id(19)));
        let disk = disk.crash(0);
        drop(store);
        let store = open(&disk, &journaling()).unwrap();
        let log = store.open_log(1).unwrap();
        assert_eq!((log.last_id(), log.damage()), (Some(id(19)), Vec::new()));
        assert_eq!(log.read_entries(0..20, usize::MAX).unwrap().len(), 20);
    }
}

/// A store with acknowledged entries in segments and journal, after the death of the process.
fn killed(drained: bool) -> SimDisk {
    let disk = SimDisk::new(3);
    let store = open(&disk, &journaling()).unwrap();
    let log = store.create_logs(&[1]).unwrap().remove(0);
    fill(&store, &log, 0..5);
    while drained && store.step() {}
    disk.kill()
}

const SEGMENT: &str = "logs/1/00000000000000000000.seg";
const JOURNAL: &str = "journal/00000000.jrn";

#[test]
fn a_header_that_cannot_be_read_is_damage_and_its_segment_is_kept() {
    for drained in [true, false] {
        for copy in [0..512, 2048..2560] {
            let disk = killed(drained);
            disk.make_unreadable(SEGMENT, copy).unwrap();
            let store = open(&disk, &journaling()).unwrap();
            let log = store.open_log(1).unwrap();
            assert_eq!((log.last_id(), log.damage()), (Some(id(4)), Vec::new()));
        }
        let disk = killed(drained);
        let before = disk.bytes(SEGMENT).unwrap();
        disk.make_unreadable(SEGMENT, 0..4096).unwrap();
        let store = open(&disk, &journaling()).unwrap();
        assert!(!store.open_log(1).unwrap().damage().is_empty());
        assert!(disk.bytes(SEGMENT).unwrap() == before, "{drained}");
    }
}

/// The last entry: nothing else says that it was durable.
#[test]
fn an_end_that_cannot_be_read_is_not_torn() {
    let disk = killed(true);
    let used = 4096 + 5 * 3048;
    disk.make_unreadable(SEGMENT, used - 1000..used - 488)
        .unwrap();
    let store = open(&disk, &journaling()).unwrap();
    let log = store.open_log(1).unwrap();
    assert_eq!(log.damage().len(), 1);
    assert_eq!(log.damage()[0].first_index, 4);
    assert_eq!(log.read_entries(0..4, usize::MAX).unwrap().len(), 4);
}

#[test]
fn a_journal_that_cannot_be_read_is_not_given_away() {
    let disk = killed(false);
    disk.make_unreadable(JOURNAL, 8192..8704).unwrap();
    open(&disk, &journaling()).unwrap_err();
    // The sector comes back.
    let disk = disk.crash(100);
    let store = open(&disk, &journaling()).unwrap();
    assert_eq!(store.open_log(1).unwrap().last_id(), Some(id(4)));
}

#[test]
fn a_damaged_journal_is_kept_and_reported_until_it_is_moved_away() {
    let disk = killed(false);
    disk.damage(JOURNAL, |bytes| bytes[8192 + 100] ^= 1)
        .unwrap();
    let held = disk.bytes(JOURNAL).unwrap();
    for _ in 0..2 {
        let store = open(&disk, &journaling()).unwrap();
        assert_eq!(store.journal_damage().len(), 1);
        store.close();
        assert!(disk.bytes("journal/00000000.bad").unwrap() == held);
    }
    disk.remove("journal/00000000.bad").unwrap();
    let store = open(&disk, &journaling()).unwrap();
    assert_eq!(store.journal_damage().len(), 0);
}

/// A checkpoint that finds no space is left out; the log goes on and can be closed.
#[test]
fn a_checkpoint_without_space_stops_nothing() {
    let disk = SimDisk::new(3);
    let failed = |error: &Error| panic!("the store failed: {error}");
    let with = StoreOptions {
        on_fatal: Arc::new(failed),
        ..journaling()
    };
    let store = open(&disk, &with).unwrap();
    let log = store.create_logs(&[1]).unwrap().remove(0);
    fill(&store, &log, 0..5);
    log.roll();
    fill(&store, &log, 5..10);
    log.roll();
    fill(&store, &log, 10..15);
    log.save_checkpoint(id(4), Bytes::from_static(b"small"));
    while store.step() {}
    log.save_checkpoint(id(9), Bytes::from(vec![1; 1 << 20]));
    disk.set_capacity(disk.used() + 100_000);
    log.set_snapshot(id(4)).unwrap();
    store.close();
    drop((log, store));
    let store = open(&disk, &journaling()).unwrap();
    let log = store.open_log(1).unwrap();
    assert_eq!(log.snapshot().unwrap().unwrap().last, id(4));
    assert_eq!(log.last_id(), Some(id(14)));
}

/// The words of a new log find the place that was taken when it was made.
#[test]
fn a_new_log_is_drained_on_a_full_disk() {
    let disk = SimDisk::new(3);
    let failed = |error: &Error| panic!("the store failed: {error}");
    let with = StoreOptions {
        on_fatal: Arc::new(failed),
        ..journaling()
    };
    let store = open(&disk, &with).unwrap();
    let log = store.create_logs(&[1]).unwrap().remove(0);
    log.save_vote(
        Bytes::from_static(b"me"),
        Box::new(|outcome| outcome.unwrap()),
    )
    .unwrap();
    disk.set_capacity(disk.used());
    assert!(matches!(store.create_logs(&[2]), Err(Error::Full { .. })));
    while store.step() {}
    let disk = disk.crash(0);
    disk.set_capacity(1 << 30);
    drop((log, store));
    let store = open(&disk, &journaling()).unwrap();
    let log = store.open_log(1).unwrap();
    assert_eq!(log.vote().as_deref(), Some(&b"me"[..]));
}

/// A segment that only the journal knows is made again, whatever the limits say.
#[test]
fn recovery_finds_its_space_at_the_limit() {
    let disk = SimDisk::new(3);
    let store = open(&disk, &journaling()).unwrap();
    let log = store.create_logs(&[1]).unwrap().remove(0);
    fill(&store, &log, 0..5);
    let disk = disk.crash(0);
    drop((log, store));
    assert!(disk.bytes(SEGMENT).is_err());
    let with = StoreOptions {
        max_total_bytes: Some((2 << 20) + 1000),
        ..journaling()
    };
    let store = open(&disk, &with).unwrap();
    assert_eq!(store.open_log(1).unwrap().last_id(), Some(id(4)));
}

/// A log goes while the background retires its segments: all space that is counted is there.
#[test]
fn a_removed_log_gives_back_what_it_took() {
    let disk = SimDisk::new(3);
    let store = open(&disk, &journaling()).unwrap();
    let log = store.create_logs(&[1]).unwrap().remove(0);
    for begin in [0, 5, 10] {
        fill(&store, &log, begin..begin + 5);
        log.roll();
    }
    while store.step() {}
    log.purge(id(9)).unwrap();
    let other = store.clone();
    disk.meanwhile(Call::Name, move || other.remove_log(1).unwrap());
    while store.step() {}
    assert!(store.logs().is_empty());
    drop(log);
    while store.step() {}
    let mut there = 0;
    for dir in ["pool", "journal"] {
        for item in disk.list(dir).unwrap() {
            there += disk.bytes(&format!("{dir}/{}", item.name)).unwrap().len() as u64;
        }
    }
    assert_eq!(store.stats().used_bytes, there);
}
