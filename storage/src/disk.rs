//! The seam to the disk: `Disk` and `DiskFile` are the system calls the store makes, and nothing
//! else, so that a simulated disk can stand in for the real one. `RealDisk` is a directory.
//!
//! What is promised: paths are relative to the store's directory and use `/`; a call either does
//! all it says or returns an error; nothing is durable before `sync`, `sync_dir` or `write_durable`
//! has returned. What lives here must never know: segments, entries, the journal's format.
//! This is the only file that uses `std::fs`, `rustix` and the clock.

use std::any::Any;
use std::fs::{File, OpenOptions, TryLockError};
use std::hash::{BuildHasher, Hasher};
use std::io::{self, IoSlice};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::io::Errno;

use crate::error::Error;
use crate::map::Map;

/// Alignment in bytes that `DiskFile::write_durable` asks of position, length and memory.
pub const BLOCK: usize = 4096;

/// Pieces that one `pwritev` takes.
const MAX_PIECES: usize = 1024;

/// One name in a directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Item {
    /// Its name, without the directory.
    pub name: String,
    /// Whether it is a directory.
    pub is_dir: bool,
}

/// A directory tree that belongs to one store.
pub trait Disk: Send + Sync {
    /// Creates a file that must not exist, with space for `len` bytes that read as zeros.
    fn create(&self, path: &str, len: u64) -> io::Result<Arc<dyn DiskFile>>;
    /// Opens a file for reading and writing.
    fn open(&self, path: &str) -> io::Result<Arc<dyn DiskFile>>;
    /// The names in a directory, in any order.
    fn list(&self, dir: &str) -> io::Result<Vec<Item>>;
    /// Creates a directory; fine if it is there.
    fn make_dir(&self, path: &str) -> io::Result<()>;
    /// Renames a file or directory; a file at the new name is replaced.
    fn rename(&self, old: &str, new: &str) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &str) -> io::Result<()>;
    /// Removes an empty directory.
    fn remove_dir(&self, path: &str) -> io::Result<()>;
    /// Makes the names in a directory durable ("" is the store's own directory).
    fn sync_dir(&self, path: &str) -> io::Result<()>;
    /// Locks the tree until the guard is dropped; `WouldBlock` if another holds it.
    fn lock(&self) -> io::Result<Box<dyn Any + Send + Sync>>;
    /// Bytes that may still be allocated.
    fn free_bytes(&self) -> io::Result<u64>;
    /// A number that does not come twice (salts).
    fn random(&self) -> u64;
    /// Monotonic time since some start.
    fn now(&self) -> Duration;
}

/// An open file.
pub trait DiskFile: Send + Sync {
    /// Writes all pieces one after another from `position`.
    fn write_at(&self, position: u64, pieces: &[IoSlice<'_>]) -> io::Result<()>;
    /// Overwrites prepared space; durable on return. Position, length and memory are aligned to
    /// `BLOCK`. Not to be mixed with `write_at` on the same range without a `sync` between.
    fn write_durable(&self, position: u64, bytes: &[u8]) -> io::Result<()>;
    /// Reads until `into` is full or the file ends; returns the bytes read.
    fn read_at(&self, position: u64, into: &mut [u8]) -> io::Result<usize>;
    /// Makes all that was written durable, with the length and the allocation.
    fn sync(&self) -> io::Result<()>;
    /// Drops what memory holds of the file, as far as it is not waiting to be written: what is read
    /// afterwards comes from the device. A hint where the platform has no such thing.
    fn drop_cache(&self) -> io::Result<()>;
    /// Length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Whether the file has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Maps a range for reading; it begins at a multiple of the page size.
    fn map(&self, range: Range<u64>) -> io::Result<Map>;
}

/// A directory of the operating system.
#[derive(Debug)]
pub struct RealDisk {
    root: PathBuf,
    start: Instant,
    salt: std::hash::RandomState,
    count: std::sync::atomic::AtomicU64,
    /// Let go of where a file must be opened for a moment and the process may open no more.
    reserve: Mutex<Option<File>>,
}

impl RealDisk {
    /// A disk rooted at this directory, which is created when missing.
    pub fn new(root: impl Into<PathBuf>) -> Result<RealDisk, Error> {
        let root = root.into();
        std::fs::create_dir_all(&root)
            .map_err(|error| Error::io(&root.to_string_lossy(), "create directory", error))?;
        Ok(RealDisk {
            root,
            start: Instant::now(),
            salt: std::hash::RandomState::new(),
            count: std::sync::atomic::AtomicU64::new(0),
            reserve: Mutex::new(File::open("/dev/null").ok()),
        })
    }

    /// Does what opens a file for a moment only, whatever the limit of open files.
    fn in_passing<T>(&self, work: impl Fn() -> io::Result<T>) -> io::Result<T> {
        match work() {
            Err(error) if out_of_files(&error) => {
                let mut reserve = self.reserve.lock();
                drop(reserve.take());
                let done = work();
                *reserve = File::open("/dev/null").ok();
                done
            }
            done => done,
        }
    }

    /// The directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn path(&self, path: &str) -> PathBuf {
        if path.is_empty() {
            self.root.clone()
        } else {
            self.root.join(path)
        }
    }
}

/// The process, or the system, may open no more files.
fn out_of_files(error: &io::Error) -> bool {
    let number = Errno::from_io_error(error);
    matches!(number, Some(Errno::MFILE | Errno::NFILE))
}

/// A new file that may not be opened is as good as one without space: who asked waits until there
/// is room again, and nothing has failed.
fn no_more_files_is_no_room(error: io::Error) -> io::Error {
    if out_of_files(&error) {
        return io::Error::new(io::ErrorKind::StorageFull, error);
    }
    error
}

impl Disk for RealDisk {
    fn create(&self, path: &str, len: u64) -> io::Result<Arc<dyn DiskFile>> {
        let path = self.path(path);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(no_more_files_is_no_room)?;
        if len > 0
            && let Err(error) = allocate(&file, len)
        {
            // The name goes too: a file without its space is of no use to anybody.
            std::fs::remove_file(&path)?;
            return Err(error);
        }
        Ok(Arc::new(RealFile::new(file, path)))
    }

    fn open(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        let path = self.path(path);
        let file = OpenOptions::new().read(true).write(true).open(&path)?;
        Ok(Arc::new(RealFile::new(file, path)))
    }

    fn list(&self, dir: &str) -> io::Result<Vec<Item>> {
        let mut items = Vec::new();
        for entry in self.in_passing(|| std::fs::read_dir(self.path(dir)))? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            items.push(Item {
                name,
                is_dir: entry.file_type()?.is_dir(),
            });
        }
        Ok(items)
    }

    fn make_dir(&self, path: &str) -> io::Result<()> {
        match std::fs::create_dir(self.path(path)) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            other => other,
        }
    }

    fn rename(&self, old: &str, new: &str) -> io::Result<()> {
        std::fs::rename(self.path(old), self.path(new))
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        std::fs::remove_file(self.path(path))
    }

    fn remove_dir(&self, path: &str) -> io::Result<()> {
        std::fs::remove_dir(self.path(path))
    }

    fn sync_dir(&self, path: &str) -> io::Result<()> {
        self.in_passing(|| File::open(self.path(path))?.sync_all())
    }

    fn lock(&self) -> io::Result<Box<dyn Any + Send + Sync>> {
        let path = self.path("lock");
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Box::new(file)),
            Err(TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let facts = rustix::fs::statvfs(&self.root)?;
        Ok(facts.f_bavail.saturating_mul(facts.f_frsize))
    }

    fn random(&self) -> u64 {
        // Keyed by the system's randomness once, then a counter and the clock.
        let mut hasher = self.salt.build_hasher();
        hasher.write_u64(
            self.count
                .fetch_add(1, std::sync::atomic::Ordering::Relaxed),
        );
        hasher.write_u128(self.start.elapsed().as_nanos());
        hasher.finish()
    }

    fn now(&self) -> Duration {
        self.start.elapsed()
    }
}

#[cfg(target_os = "linux")]
fn allocate(file: &File, len: u64) -> io::Result<()> {
    match rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, len) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::OPNOTSUPP) => write_zeros(file, len),
        Err(error) => Err(error.into()),
    }
}

#[cfg(not(target_os = "linux"))]
fn allocate(file: &File, len: u64) -> io::Result<()> {
    write_zeros(file, len)
}

fn write_zeros(file: &File, len: u64) -> io::Result<()> {
    let zeros = vec![0_u8; 1 << 20];
    let mut at = 0;
    while at < len {
        let step = (len - at).min(1 << 20) as usize;
        file.write_all_at(&zeros[..step], at)?;
        at += step as u64;
    }
    Ok(())
}

struct RealFile {
    file: File,
    path: PathBuf,
    /// A second descriptor with O_DIRECT | O_DSYNC, opened by the first `write_durable`; `None`
    /// inside if the file system has no such thing.
    durable: std::sync::OnceLock<Option<File>>,
}

impl RealFile {
    fn new(file: File, path: PathBuf) -> RealFile {
        RealFile {
            file,
            path,
            durable: std::sync::OnceLock::new(),
        }
    }

    #[cfg(target_os = "linux")]
    fn open_direct(&self) -> Option<File> {
        use rustix::fs::{Mode, OFlags};
        // By the descriptor and not by name: the file may have been renamed since it was opened.
        use std::os::fd::AsRawFd;
        let by_descriptor = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        let flags = OFlags::WRONLY | OFlags::DIRECT | OFlags::DSYNC | OFlags::CLOEXEC;
        rustix::fs::open(by_descriptor, flags, Mode::empty())
            .ok()
            .map(File::from)
    }

    #[cfg(not(target_os = "linux"))]
    fn open_direct(&self) -> Option<File> {
        None
    }
}

impl DiskFile for RealFile {
    fn write_at(&self, position: u64, pieces: &[IoSlice<'_>]) -> io::Result<()> {
        let mut at = position;
        for group in pieces.chunks(MAX_PIECES) {
            at += write_group(&self.file, at, group)?;
        }
        Ok(())
    }

    fn write_durable(&self, position: u64, bytes: &[u8]) -> io::Result<()> {
        if let Some(direct) = self.durable.get_or_init(|| self.open_direct()) {
            match direct.write_at(bytes, position) {
                Ok(n) if n == bytes.len() => return Ok(()),
                // Short or refused by the file system for its alignment rules: the ordinary way.
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => {}
                Err(error) => return Err(error),
            }
        }
        self.file.write_all_at(bytes, position)?;
        self.file.sync_data()
    }

    fn read_at(&self, position: u64, into: &mut [u8]) -> io::Result<usize> {
        let mut done = 0;
        while done < into.len() {
            match self.file.read_at(&mut into[done..], position + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    #[cfg(target_os = "linux")]
    fn drop_cache(&self) -> io::Result<()> {
        rustix::fs::fadvise(&self.file, 0, None, rustix::fs::Advice::DontNeed)?;
        Ok(())
    }

    #[cfg(not(target_os = "linux"))]
    fn drop_cache(&self) -> io::Result<()> {
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn map(&self, range: Range<u64>) -> io::Result<Map> {
        Map::of_file(&self.file, range.start, (range.end - range.start) as usize)
    }
}

impl std::fmt::Debug for RealFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RealFile({})", self.path.display())
    }
}

/// One `pwritev`, and plain writes for what it left over; returns the bytes of the group.
fn write_group(file: &File, position: u64, group: &[IoSlice<'_>]) -> io::Result<u64> {
    let total: u64 = group.iter().map(|piece| piece.len() as u64).sum();
    let mut done = loop {
        match rustix::io::pwritev(file, group, position) {
            Ok(n) => break n as u64,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    };
    if done == total {
        return Ok(total);
    }
    let mut at = position;
    for piece in group {
        let skip = done.min(piece.len() as u64);
        done -= skip;
        file.write_all_at(&piece[skip as usize..], at + skip)?;
        at += piece.len() as u64;
    }
    Ok(total)
}
