//! Prepared files and finished files that wait for their next use.
//!
//! Every file of entries is born here, with its whole length allocated, and comes back here when
//! its segment is retired *and* its last reader has let go. What is promised: a file is given out
//! once; the store never takes more than `max_total_bytes`, nor the file system's last
//! `min_free_bytes`. What lives here must never know: logs, entries, the journal.

use std::io::IoSlice;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::disk::{BLOCK, Disk, DiskFile};
use crate::error::Error;

/// Directory of files that belong to no log.
pub(crate) const POOL_DIR: &str = "pool";
/// Spare files kept at most.
const MAX_SPARES: usize = 256;
/// Files are allocated in steps of this many bytes.
const STEP: u64 = 64 << 10;

/// Limits of space.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budget {
    pub(crate) min_free_bytes: u64,
    pub(crate) max_total_bytes: Option<u64>,
    pub(crate) max_spare_bytes: u64,
}

pub(crate) struct Pool {
    disk: Arc<dyn Disk>,
    budget: Budget,
    used: AtomicU64,
    /// Looking for space and counting it go together.
    admitting: Mutex<()>,
    next_name: AtomicU64,
    spares: Mutex<Spares>,
}

#[derive(Default)]
struct Spares {
    ready: Vec<Spare>,
    bytes: u64,
    doomed: Vec<Spare>,
}

struct Spare {
    handle: Arc<dyn DiskFile>,
    name: String,
    capacity: u64,
}

/// A file of entries, wherever its name is. Goes back to the pool when dropped after `retire`.
pub(crate) struct SegmentFile {
    pub(crate) handle: Arc<dyn DiskFile>,
    pub(crate) capacity: u64,
    name: Mutex<String>,
    returns: AtomicBool,
    pool: Arc<Pool>,
}

impl SegmentFile {
    /// Its path, relative to the store's directory.
    pub(crate) fn name(&self) -> String {
        self.name.lock().clone()
    }

    /// Gives the file another name; not durable before the directory is synced.
    pub(crate) fn rename(&self, new: String) -> Result<(), Error> {
        let mut name = self.name.lock();
        self.pool
            .disk
            .rename(&name, &new)
            .map_err(|e| Error::io(&name, "rename", e))?;
        *name = new;
        Ok(())
    }

    /// Takes the file's name out of its log. The caller syncs both directories and then calls
    /// `allow_reuse`; until then the file is not given out again.
    pub(crate) fn retire(&self) -> Result<(), Error> {
        self.rename(self.pool.fresh_name())
    }

    /// The file's name is removed with its directory, by somebody else.
    pub(crate) fn forget(&self) {
        self.pool.release(self.capacity);
    }

    /// The name's move is durable: once the last reader drops the file it may be used again.
    pub(crate) fn allow_reuse(&self) {
        self.returns.store(true, Ordering::Release);
    }
}

impl Drop for SegmentFile {
    fn drop(&mut self) {
        if self.returns.load(Ordering::Acquire) {
            let spare = Spare {
                handle: self.handle.clone(),
                name: std::mem::take(&mut *self.name.lock()),
                capacity: self.capacity,
            };
            self.pool.give_back(spare);
        }
    }
}

impl Pool {
    /// Opens the pool's directory; what lies in it is free. After a crash a file here may be a
    /// segment whose new name was lost, with a header that is still good for its log: that header is
    /// wiped, or a second crash at the file's next use could bring it back.
    pub(crate) fn open(
        disk: Arc<dyn Disk>,
        budget: Budget,
        clean: bool,
    ) -> Result<Arc<Pool>, Error> {
        let items = disk
            .list(POOL_DIR)
            .map_err(|e| Error::io(POOL_DIR, "list", e))?;
        let pool = Pool {
            disk,
            budget,
            used: AtomicU64::new(0),
            admitting: Mutex::default(),
            next_name: AtomicU64::new(0),
            spares: Mutex::default(),
        };
        for item in items {
            let name = format!("{POOL_DIR}/{}", item.name);
            let number = item
                .name
                .strip_suffix(".free")
                .and_then(|n| n.parse::<u64>().ok());
            let Some(number) = number.filter(|_| !item.is_dir) else {
                return Err(Error::Foreign {
                    path: name,
                    why: "unknown name".into(),
                });
            };
            pool.next_name.fetch_max(number + 1, Ordering::Relaxed);
            let handle = pool
                .disk
                .open(&name)
                .map_err(|e| Error::io(&name, "open", e))?;
            let capacity = handle.len().map_err(|e| Error::io(&name, "stat", e))?;
            if !clean && capacity > 0 {
                let wiped = handle.write_at(0, &[IoSlice::new(&[0; BLOCK])]);
                let synced = wiped.and_then(|()| handle.sync());
                synced.map_err(|e| Error::io(&name, "wipe", e))?;
            }
            pool.used.fetch_add(capacity, Ordering::Relaxed);
            pool.give_back(Spare {
                handle,
                name,
                capacity,
            });
        }
        pool.tidy();
        Ok(Arc::new(pool))
    }

    fn fresh_name(&self) -> String {
        format!(
            "{POOL_DIR}/{:010}.free",
            self.next_name.fetch_add(1, Ordering::Relaxed)
        )
    }

    /// Counts a file that is already in use.
    pub(crate) fn adopt(
        self: &Arc<Pool>,
        handle: Arc<dyn DiskFile>,
        name: String,
        capacity: u64,
    ) -> Arc<SegmentFile> {
        self.used.fetch_add(capacity, Ordering::Relaxed);
        self.wrap(Spare {
            handle,
            name,
            capacity,
        })
    }

    fn wrap(self: &Arc<Pool>, spare: Spare) -> Arc<SegmentFile> {
        Arc::new(SegmentFile {
            handle: spare.handle,
            capacity: spare.capacity,
            name: Mutex::new(spare.name),
            returns: AtomicBool::new(false),
            pool: self.clone(),
        })
    }

    /// A file of at least `need` bytes, `wish` if possible. Without space: `Error::Full`.
    pub(crate) fn take(self: &Arc<Pool>, need: u64, wish: u64) -> Result<Arc<SegmentFile>, Error> {
        let need = need.next_multiple_of(STEP);
        let wish = wish.max(need).next_multiple_of(STEP);
        let fits = |spare: &Spare| spare.capacity >= wish && spare.capacity <= wish * 2;
        if let Some(spare) = self.pick(fits) {
            return Ok(self.wrap(spare));
        }
        match self.create(wish) {
            Ok(spare) => return Ok(self.wrap(spare)),
            Err(Error::Full { .. }) => {}
            Err(error) => return Err(error),
        }
        // The disk is full: any spare that holds what is needed, then the space of all the others.
        if let Some(spare) = self.pick(|spare| spare.capacity >= need) {
            return Ok(self.wrap(spare));
        }
        self.doom_all();
        self.create(need).map(|spare| self.wrap(spare))
    }

    /// As `take`, for recovery: what was acknowledged has its place whatever the limits say.
    pub(crate) fn take_regardless(
        self: &Arc<Pool>,
        capacity: u64,
    ) -> Result<Arc<SegmentFile>, Error> {
        match self.take(capacity, capacity) {
            Err(Error::Full { .. }) => {}
            other => return other,
        }
        let capacity = capacity.next_multiple_of(STEP);
        self.count(capacity);
        self.make(capacity).map(|spare| self.wrap(spare))
    }

    fn pick(&self, fits: impl Fn(&Spare) -> bool) -> Option<Spare> {
        let mut spares = self.spares.lock();
        let best = spares
            .ready
            .iter()
            .enumerate()
            .filter(|(_, spare)| fits(spare));
        let at = best
            .min_by_key(|(_, spare)| spare.capacity)
            .map(|(at, _)| at)?;
        let spare = spares.ready.swap_remove(at);
        spares.bytes -= spare.capacity;
        Some(spare)
    }

    fn create(&self, capacity: u64) -> Result<Spare, Error> {
        self.admit(capacity)?;
        self.make(capacity)
    }

    /// Makes a file that is counted already.
    fn make(&self, capacity: u64) -> Result<Spare, Error> {
        let name = self.fresh_name();
        match self.disk.create(&name, capacity) {
            Ok(handle) => Ok(Spare {
                handle,
                name,
                capacity,
            }),
            Err(error) => {
                self.used.fetch_sub(capacity, Ordering::Relaxed);
                if error.kind() == std::io::ErrorKind::StorageFull {
                    return Err(Error::Full {
                        wanted: capacity,
                        free: self.free_bytes(),
                    });
                }
                Err(Error::io(&name, "create", error))
            }
        }
    }

    /// Counts `bytes` as used if the limits allow it.
    pub(crate) fn admit(&self, bytes: u64) -> Result<(), Error> {
        let _one = self.admitting.lock();
        let free = self.free_bytes();
        if bytes > free {
            return Err(Error::Full {
                wanted: bytes,
                free,
            });
        }
        self.used.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }

    /// Counts a file that is there already.
    pub(crate) fn count(&self, bytes: u64) {
        self.used.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Takes back what `admit` counted.
    pub(crate) fn release(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Bytes that may still be allocated, within both limits. Spares count as used.
    pub(crate) fn free_bytes(&self) -> u64 {
        let disk = self
            .disk
            .free_bytes()
            .unwrap_or(0)
            .saturating_sub(self.budget.min_free_bytes);
        let used = self.used.load(Ordering::Relaxed);
        self.budget
            .max_total_bytes
            .map_or(disk, |max| disk.min(max.saturating_sub(used)))
    }

    /// Whether new files of this size could be had, spares included. Says nothing about later.
    pub(crate) fn check_room(&self, wanted: u64) -> Result<(), Error> {
        let free = self.free_bytes() + self.spares.lock().bytes;
        if wanted > free {
            return Err(Error::Full { wanted, free });
        }
        Ok(())
    }

    pub(crate) fn used_bytes(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    fn give_back(&self, spare: Spare) {
        let mut spares = self.spares.lock();
        let room = spares.ready.len() < MAX_SPARES
            && spares.bytes + spare.capacity <= self.budget.max_spare_bytes
            && spare.capacity > 0;
        if room {
            spares.bytes += spare.capacity;
            spares.ready.push(spare);
        } else {
            spares.doomed.push(spare);
        }
    }

    fn doom_all(&self) {
        {
            let mut spares = self.spares.lock();
            spares.bytes = 0;
            let all = std::mem::take(&mut spares.ready);
            spares.doomed.extend(all);
        }
        self.tidy();
    }

    /// Removes what is above the bounds. A name that cannot be removed is tried again later.
    pub(crate) fn tidy(&self) {
        let doomed = std::mem::take(&mut self.spares.lock().doomed);
        for spare in doomed {
            if self.disk.remove(&spare.name).is_ok() {
                self.used.fetch_sub(spare.capacity, Ordering::Relaxed);
            } else {
                self.spares.lock().doomed.push(spare);
            }
        }
    }
}
