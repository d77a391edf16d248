//! Recovery of arbitrary bytes: a file of a store is replaced, and the store is opened.
//!
//! Whatever the file holds: opening answers or refuses, reading answers or refuses, and what
//! is answered is what was appended. The first byte of an input chooses the file.

use std::{collections::HashMap, sync::Arc};

use aqueduct_proto::{batch::Batch, compression::Compression, record::BatchBuilder};
use aqueduct_storage::{
    Entry, EntryId, Kind, Log, NewEntry, ReadPlan, Store, StoreOptions, disk::Disk as _,
    sim_disk::SimDisk,
};
use bytes::Bytes;

use crate::targets::Target;

fn options() -> StoreOptions {
    StoreOptions {
        journal_file_bytes: 64 << 10,
        first_segment_bytes: 16 << 10,
        max_segment_bytes: 32 << 10,
        direct_sync_bytes: 4 << 10,
        min_free_bytes: 0,
        manual: true,
        ..StoreOptions::default()
    }
}

/// A store that was killed, what was appended to it, and the files a target replaces.
pub(crate) struct StoreFile {
    name: &'static str,
    disk: SimDisk,
    files: Vec<String>,
    appended: HashMap<(u64, u64), Bytes>,
}

impl StoreFile {
    /// The target that replaces files whose names contain one of these words.
    pub(crate) fn new(name: &'static str, words: &[&str]) -> StoreFile {
        let (disk, appended) = template();
        let mut files = Vec::new();
        list(&disk, "", &mut files);
        files.retain(|file| words.iter().any(|word| file.contains(word)));
        files.sort();
        assert!(!files.is_empty(), "the template has no file for {name}");
        StoreFile {
            name,
            disk,
            files,
            appended,
        }
    }

    fn check_log(&self, log: &Log) {
        let last = log.last_id().map_or(0, |id| id.index);
        for index in log.first_index()..=last {
            // Up to a megabyte: in one call as many as there are, or an error.
            if let Ok(entries) = log.read_entries(index..index + 1, 1 << 20) {
                entries
                    .iter()
                    .for_each(|entry| self.check_entry(log.id(), entry));
            }
        }
        let (mut next, end) = (log.first_offset(), log.next_offset());
        while next < end {
            let plan = match log.plan_read(next, end, 64 << 10) {
                Ok(ReadPlan::Ready(batches)) => Ok(batches),
                Ok(ReadPlan::Blocking(read)) => read.run(),
                Err(error) => Err(error),
            };
            let Ok(batches) = plan else { break };
            let Some(last) = batches.last() else { break };
            let last = Batch::check(last.clone()).expect("reads verify what they give");
            let after = last.header().base_offset as u64 + u64::from(last.count());
            assert!(after > next, "a read makes progress");
            next = after;
        }
    }

    fn check_entry(&self, log: u64, entry: &Entry) {
        let expected = self.appended.get(&(log, entry.id.index));
        let expected = expected.unwrap_or_else(|| panic!("never appended: {:?}", entry.id));
        // Base offset and leader epoch of a batch are the log's own.
        let from = if entry.kind == Kind::Batch { 16 } else { 0 };
        assert!(
            entry.payload[from..] == expected[from..],
            "{:?} has changed",
            entry.id
        );
    }
}

impl Target for StoreFile {
    fn name(&self) -> &'static str {
        self.name
    }

    fn samples(&self) -> Vec<Vec<u8>> {
        let with_number = |(n, file): (usize, &String)| {
            let mut bytes = self.disk.bytes(file).unwrap();
            // Prepared space is zeros; a short tail of it is enough to mutate.
            let used = bytes
                .iter()
                .rposition(|byte| *byte != 0)
                .map_or(0, |last| last + 1);
            bytes.truncate(used + 100);
            bytes.insert(0, n as u8);
            bytes
        };
        self.files.iter().enumerate().map(with_number).collect()
    }

    fn run(&self, input: &[u8]) {
        let Some((first, rest)) = input.split_first() else {
            return;
        };
        let file = &self.files[usize::from(*first) % self.files.len()];
        let disk = self.disk.kill();
        disk.damage(file, |bytes| {
            // Half of the time the prepared length stays, as a real file's would.
            if first % 2 == 0 {
                let kept = bytes.len().min(rest.len());
                bytes.fill(0);
                bytes[..kept].copy_from_slice(&rest[..kept]);
            } else {
                *bytes = rest.to_vec();
            }
        })
        .unwrap();
        let Ok(store) = Store::open(Arc::new(disk), options()) else {
            return;
        };
        for id in store.logs() {
            let Ok(log) = store.open_log(id) else {
                continue;
            };
            self.check_log(&log);
            let next = log.last_id().map_or(1, |last| last.index + 1);
            let more = entry(next, Kind::Command, Bytes::from_static(b"and it goes on"));
            let _ = log.append(vec![more], Box::new(|_| {}));
        }
        for _ in 0..100 {
            if !store.step() {
                break;
            }
        }
    }
}

fn entry(index: u64, kind: Kind, payload: Bytes) -> NewEntry {
    NewEntry {
        id: EntryId {
            term: 9,
            leader: 1,
            index,
        },
        kind,
        flags: 0,
        payload,
    }
}

fn batch(n: u64) -> Bytes {
    let mut builder = BatchBuilder::new(Compression::None);
    for record in 0..=n % 4 {
        let value = vec![b'a' + (n % 26) as u8; (n as usize * 37) % 900];
        builder.push(
            1_000 * n as i64 + record as i64,
            Some(b"key"),
            Some(&value),
            &[],
        );
    }
    builder.finish().unwrap()
}

/// Two logs of several segments with checkpoints and votes; the end lies in the journal only.
fn template() -> (SimDisk, HashMap<(u64, u64), Bytes>) {
    let disk = SimDisk::new(1);
    let store = Store::open(Arc::new(disk.clone()), options()).unwrap();
    let logs = store.create_logs(&[1, 2]).unwrap();
    let mut appended = HashMap::new();
    for index in 1..=90_u64 {
        for log in &logs {
            let (kind, payload) = match index % 5 {
                0 => (Kind::Command, Bytes::from(format!("command {index}"))),
                _ => (Kind::Batch, batch(index + log.id())),
            };
            appended.insert((log.id(), index), payload.clone());
            log.append(vec![entry(index, kind, payload)], Box::new(|_| {}))
                .unwrap();
            if index % 30 == 0 {
                log.save_vote(Bytes::from(format!("vote {index}")), Box::new(|_| {}))
                    .unwrap();
                log.roll();
                let id = EntryId {
                    term: 9,
                    leader: 1,
                    index,
                };
                log.save_checkpoint(id, Bytes::from(format!("state {index}")));
            }
        }
        if index < 80 {
            while store.step() {}
        } else {
            while store.step_engine() {}
        }
    }
    let left = disk.kill();
    drop(store);
    // What the fuzzer appends after recovery may be met again by nobody: disks are copies.
    (left, appended)
}

fn list(disk: &SimDisk, directory: &str, found: &mut Vec<String>) {
    for item in disk.list(directory).unwrap() {
        let path = match directory {
            "" => item.name.clone(),
            _ => format!("{directory}/{}", item.name),
        };
        if item.is_dir {
            list(disk, &path, found);
        } else {
            found.push(path);
        }
    }
}
