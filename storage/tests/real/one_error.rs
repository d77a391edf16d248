//! A failed sync is reported once for each open file: whichever thread asks next is told that all
//! is well. So what one thread was told must be known to the other before it believes that.

use std::any::Any;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use aqueduct_storage::disk::{Disk, DiskFile, Item, RealDisk};
use aqueduct_storage::map::Map;
use aqueduct_storage::{Error, Store, StoreOptions};
use parking_lot::Mutex;

use crate::{batch, entry};

/// How long the failing sync takes, and the other one has for its mistake.
const OVERLAP: Duration = Duration::from_millis(300);
const PATIENCE: Duration = Duration::from_secs(60);

/// A disk on which the background's first sync of a segment fails, slowly.
struct OneError {
    disk: RealDisk,
    failed: Arc<AtomicBool>,
    begun: Arc<Mutex<Option<mpsc::Sender<()>>>>,
}

struct OneErrorFile {
    file: Arc<dyn DiskFile>,
    is_segment: bool,
    failed: Arc<AtomicBool>,
    begun: Arc<Mutex<Option<mpsc::Sender<()>>>>,
}

impl OneError {
    fn wrap(&self, path: &str, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        Arc::new(OneErrorFile {
            file,
            is_segment: path.starts_with("pool/") || path.ends_with(".seg"),
            failed: self.failed.clone(),
            begun: self.begun.clone(),
        })
    }
}

impl Disk for OneError {
    fn create(&self, path: &str, len: u64) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.wrap(path, self.disk.create(path, len)?))
    }
    fn open(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.wrap(path, self.disk.open(path)?))
    }
    fn list(&self, dir: &str) -> io::Result<Vec<Item>> {
        self.disk.list(dir)
    }
    fn make_dir(&self, path: &str) -> io::Result<()> {
        self.disk.make_dir(path)
    }
    fn rename(&self, old: &str, new: &str) -> io::Result<()> {
        self.disk.rename(old, new)
    }
    fn remove(&self, path: &str) -> io::Result<()> {
        self.disk.remove(path)
    }
    fn remove_dir(&self, path: &str) -> io::Result<()> {
        self.disk.remove_dir(path)
    }
    fn sync_dir(&self, path: &str) -> io::Result<()> {
        self.disk.sync_dir(path)
    }
    fn lock(&self) -> io::Result<Box<dyn Any + Send + Sync>> {
        self.disk.lock()
    }
    fn free_bytes(&self) -> io::Result<u64> {
        self.disk.free_bytes()
    }
    fn random(&self) -> u64 {
        self.disk.random()
    }
    fn now(&self) -> Duration {
        self.disk.now()
    }
}

impl DiskFile for OneErrorFile {
    fn write_at(&self, position: u64, pieces: &[IoSlice<'_>]) -> io::Result<()> {
        self.file.write_at(position, pieces)
    }
    fn write_durable(&self, position: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_durable(position, bytes)
    }
    fn read_at(&self, position: u64, into: &mut [u8]) -> io::Result<usize> {
        self.file.read_at(position, into)
    }
    fn sync(&self) -> io::Result<()> {
        let background = std::thread::current().name() == Some("aqueduct-drain");
        if background && self.is_segment && !self.failed.swap(true, Ordering::AcqRel) {
            if let Some(tell) = self.begun.lock().take() {
                tell.send(()).unwrap();
            }
            std::thread::sleep(OVERLAP);
            return Err(io::Error::other("injected: the drive gave up"));
        }
        self.file.sync()
    }
    fn drop_cache(&self) -> io::Result<()> {
        self.file.drop_cache()
    }
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn map(&self, range: Range<u64>) -> io::Result<Map> {
        self.file.map(range)
    }
}

#[test]
fn a_sync_that_failed_elsewhere_is_not_believed_to_be_good() {
    let dir = tempfile::tempdir().unwrap();
    let (tell, begun) = mpsc::channel();
    let disk = OneError {
        disk: RealDisk::new(dir.path()).unwrap(),
        failed: Arc::default(),
        begun: Arc::new(Mutex::new(Some(tell))),
    };
    let options = StoreOptions {
        sync_ahead_bytes: 10_000,
        direct_sync_bytes: 30_000,
        ..StoreOptions::default()
    };
    let store = Store::open(Arc::new(disk), options).unwrap();
    let log = store.create_logs(&[1]).unwrap().remove(0);
    // Into the journal, until the background begins to sync the segment ahead.
    for index in 0..4 {
        crate::append(&log, vec![entry(index, batch(1, 4_000, 0))]);
    }
    begun.recv_timeout(PATIENCE).unwrap();
    // Large enough to be synced directly, beside the sync that is about to fail.
    let (tell, told) = mpsc::channel();
    let done = move |outcome| drop(tell.send(outcome));
    log.append(vec![entry(4, batch(1, 60_000, 0))], Box::new(done))
        .unwrap();
    let outcome = told.recv_timeout(PATIENCE).unwrap();
    assert!(matches!(outcome, Err(Error::Closed { .. })), "{outcome:?}");
    assert!(log.synced_index() < Some(4));
}
