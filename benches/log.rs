//! A log on the real disk: append and sync, alone and in groups; read what is hot.
//!
//! The figures are the disk's as much as ours: compare them with the ceilings that
//! `aqueduct bench` prints.
#![allow(
    missing_docs,
    reason = "criterion's macros make an undocumented function"
)]
#![allow(clippy::unwrap_used, reason = "benches")]

use std::sync::{Arc, mpsc};

use aqueduct_benches::batch;
use aqueduct_proto::compression::Compression;
use aqueduct_storage::{
    EntryId, Kind, Log, NewEntry, ReadPlan, Store, StoreOptions, disk::RealDisk,
};
use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tempfile::TempDir;

/// A store in a fresh directory below the working directory (a temporary one may be memory).
fn store() -> (TempDir, Store) {
    let directory = tempfile::tempdir_in(".").unwrap();
    let disk = Arc::new(RealDisk::new(directory.path()).unwrap());
    let store = Store::open(disk, StoreOptions::default()).unwrap();
    (directory, store)
}

/// Appends one batch; the sender is told when it is on stable storage.
fn append(log: &Log, index: u64, payload: &Bytes, done: &mpsc::Sender<()>) {
    let id = EntryId {
        term: 1,
        leader: 1,
        index,
    };
    let entry = NewEntry {
        id,
        kind: Kind::Batch,
        flags: 0,
        payload: payload.clone(),
    };
    let done = done.clone();
    let told = move |result: Result<(), aqueduct_storage::Error>| {
        result.unwrap();
        done.send(()).unwrap();
    };
    log.append(vec![entry], Box::new(told)).unwrap();
}

/// Keeps one log within its bounds: forgets all but the newest entries now and then.
fn trim(log: &Log, index: u64) {
    if index.is_multiple_of(4_096) {
        log.purge(EntryId {
            term: 1,
            leader: 1,
            index: index - 1,
        })
        .unwrap();
    }
}

fn appends(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("append+sync");
    for (what, count, size) in [
        ("1x100", 1, 100),
        ("1000x100", 1_000, 100),
        ("256x1024", 256, 1_024),
    ] {
        let (_directory, store) = store();
        let log = store.create_logs(&[1]).unwrap().remove(0);
        let payload = batch(count, size, Compression::None);
        let (sender, receiver) = mpsc::channel();
        let mut index = 0;
        group.throughput(Throughput::Bytes(payload.len() as u64));
        group.bench_function(format!("one waits for each, {what}"), |bencher| {
            bencher.iter(|| {
                index += 1;
                append(&log, index, &payload, &sender);
                receiver.recv().unwrap();
                trim(&log, index);
            });
        });
        group.throughput(Throughput::Bytes(payload.len() as u64 * 64));
        group.bench_function(format!("64 in flight, {what}"), |bencher| {
            bencher.iter(|| {
                for _ in 0..64 {
                    index += 1;
                    append(&log, index, &payload, &sender);
                    trim(&log, index);
                }
                for _ in 0..64 {
                    receiver.recv().unwrap();
                }
            });
        });
        store.close();
    }
    group.finish();
}

/// One small write to each of a thousand logs: the journal makes one sync of them.
fn many_logs(criterion: &mut Criterion) {
    const LOGS: u64 = 1_000;
    let (_directory, store) = store();
    let ids: Vec<u64> = (1..=LOGS).collect();
    let logs = store.create_logs(&ids).unwrap();
    let payload = batch(1, 100, Compression::None);
    let (sender, receiver) = mpsc::channel();
    let mut index = 0;
    let mut group = criterion.benchmark_group("append+sync");
    group.sample_size(10).throughput(Throughput::Elements(LOGS));
    group.bench_function("one to each of 1000 logs", |bencher| {
        bencher.iter(|| {
            index += 1;
            for log in &logs {
                append(log, index, &payload, &sender);
            }
            for _ in 0..LOGS {
                receiver.recv().unwrap();
            }
        });
    });
    group.finish();
    store.close();
}

fn reads(criterion: &mut Criterion) {
    let (_directory, store) = store();
    let log = store.create_logs(&[1]).unwrap().remove(0);
    let payload = batch(1_000, 100, Compression::None);
    let (sender, receiver) = mpsc::channel();
    for index in 1..=200 {
        append(&log, index, &payload, &sender);
        receiver.recv().unwrap();
    }
    let end = log.next_offset();
    let mut group = criterion.benchmark_group("read");
    group.throughput(Throughput::Elements(end));
    group.bench_function("200 batches of 1000x100, hot", |bencher| {
        bencher.iter(|| {
            let mut next = 0;
            while next < end {
                let found = match log.plan_read(next, end, 256 << 10).unwrap() {
                    ReadPlan::Ready(found) => found,
                    ReadPlan::Blocking(read) => read.run().unwrap(),
                };
                next += found.len() as u64 * 1_000;
            }
        });
    });
    group.finish();
    store.close();
}

criterion_group!(benches, appends, many_logs, reads);
criterion_main!(benches);
