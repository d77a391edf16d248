//! The store on a real directory, with its threads.

#![allow(clippy::unwrap_used, reason = "tests")]

mod one_error;
mod threads;

use std::sync::Arc;
use std::sync::mpsc;

use aqueduct_proto::compression::Compression;
use aqueduct_proto::record::BatchBuilder;
use aqueduct_storage::disk::RealDisk;
use aqueduct_storage::{EntryId, Kind, Log, NewEntry, Store, StoreOptions};
use bytes::Bytes;

use self::threads::run;

fn batch(count: usize, size: usize, timestamp: i64) -> Bytes {
    let mut builder = BatchBuilder::new(Compression::None);
    for at in 0..count {
        builder.push(timestamp, None, Some(&vec![at as u8; size]), &[]);
    }
    builder.finish().unwrap()
}

fn id(index: u64) -> EntryId {
    EntryId {
        term: 1,
        leader: 1,
        index,
    }
}

fn entry(index: u64, payload: Bytes) -> NewEntry {
    NewEntry {
        id: id(index),
        kind: Kind::Batch,
        flags: 0,
        payload,
    }
}

/// Appends and waits until it is durable.
fn append(log: &Log, entries: Vec<NewEntry>) -> Vec<u64> {
    let (tell, told) = mpsc::channel();
    let bases = log
        .append(
            entries,
            Box::new(move |outcome| tell.send(outcome).unwrap()),
        )
        .unwrap();
    told.recv().unwrap().unwrap();
    bases
}

fn open(dir: &std::path::Path) -> Store {
    Store::open(
        Arc::new(RealDisk::new(dir).unwrap()),
        StoreOptions::default(),
    )
    .unwrap()
}

fn read(log: &Log, from: u64) -> Vec<Bytes> {
    run(log.plan_read(from, log.next_offset(), 1 << 20).unwrap()).unwrap()
}

#[test]
fn appends_come_back_after_a_clean_close() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let log = store.create_logs(&[7]).unwrap().remove(0);
    let mut expected = 0;
    for index in 0..3000 {
        let bases = append(&log, vec![entry(index, batch(3, 400, index as i64))]);
        assert_eq!(bases, [expected]);
        expected += 3;
    }
    assert!(log.segments().len() > 1);
    assert_eq!(log.synced_index(), Some(2999));
    let check = |log: &Log| {
        assert_eq!(log.last_id(), Some(id(2999)));
        assert_eq!(log.next_offset(), 9000);
        let mut from = 0;
        while from < 9000 {
            for batch in read(log, from) {
                let header = aqueduct_proto::batch::BatchHeader::read(&batch).unwrap();
                assert_eq!(header.base_offset as u64, from);
                assert_eq!(header.leader_epoch, 1);
                from += 3;
            }
        }
        let entries = log.read_entries(100..200, 1 << 20).unwrap();
        assert_eq!(entries.len(), 100);
        assert_eq!(entries[5].id, id(105));
        assert_eq!(log.offset_for_timestamp(1500, 9000).unwrap(), Some(4500));
        assert_eq!(log.offset_for_timestamp(1_000_000, 9000).unwrap(), None);
    };
    check(&log);
    store.close();
    drop(store);
    let store = open(dir.path());
    assert_eq!(store.logs(), [7]);
    let log = store.open_log(7).unwrap();
    check(&log);
    append(&log, vec![entry(3000, batch(1, 10, 0))]);
    assert_eq!(log.next_offset(), 9001);
}

#[test]
fn large_appends_and_many_logs_share_the_engine() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let ids: Vec<u64> = (1..=50).collect();
    let logs = store.create_logs(&ids).unwrap();
    for round in 0..10 {
        let (tell, told) = mpsc::channel();
        for (at, log) in logs.iter().enumerate() {
            let size = if at % 10 == 0 { 200_000 } else { 100 };
            let tell = tell.clone();
            let entries = vec![entry(round, batch(4, size, 0))];
            log.append(entries, Box::new(move |o| tell.send(o).unwrap()))
                .unwrap();
            log.save_vote(Bytes::from(vec![round as u8]), Box::new(|_| {}))
                .unwrap();
        }
        drop(tell);
        assert_eq!(told.into_iter().filter(|o| o.is_ok()).count(), 50);
    }
    let stats = store.stats();
    assert!(stats.journal_syncs > 0 && stats.direct_syncs > 0);
    drop(logs);
    drop(store);
    let store = open(dir.path());
    for id in ids {
        let log = store.open_log(id).unwrap();
        assert_eq!(log.next_offset(), 40);
        assert_eq!(log.vote(), Some(Bytes::from(vec![9])));
        assert_eq!(read(&log, 0).len(), if id % 10 == 1 { 1 } else { 10 });
    }
}
