//! A disk in memory that loses what was not synced (feature `sim`).
//!
//! Two planes: what was written, and what is durable. A crash keeps each sector of 512 bytes that
//! was written since the last sync in any of its versions, at random; it keeps changes of names only
//! as far as each directory got in order, unless the directory was synced; a file whose length was
//! never synced may come back empty. The seed decides, so a run can be repeated.
//!
//! Faults: crash at the k-th call (with or without its effect), a full disk, errors of single calls,
//! unreadable ranges, bit rot. What lives here must never know: the store's formats.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use self::file::SimFile;
use self::state::{FileState, Inode, Names, ROOT, State, apply, dead, meanwhile};
use crate::disk::{Disk, DiskFile, Item};

mod file;
mod state;

/// A small seeded generator (splitmix64).
#[derive(Clone, Debug)]
pub struct Chance(u64);

impl Chance {
    /// A generator; the same seed gives the same numbers.
    pub fn new(seed: u64) -> Chance {
        Chance(seed)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound` (which is not 0).
    pub fn below(&mut self, bound: u64) -> u64 {
        self.number() % bound
    }

    /// True in `percent` of 100 cases.
    pub fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// What a call does, for faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// `write_at`, `write_durable`.
    Write,
    /// `sync`, `sync_dir`, and the sync in `write_durable`.
    Sync,
    /// `read_at`, `map`.
    Read,
    /// `create`, `make_dir`, `rename`, `remove`, `remove_dir`.
    Name,
}

/// A simulated disk. Clones are the same disk.
#[derive(Clone)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

impl std::fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SimDisk({} calls)", self.state.lock().calls)
    }
}

impl SimDisk {
    /// An empty disk of 1 GiB.
    pub fn new(seed: u64) -> SimDisk {
        let state = State {
            chance: Chance::new(seed),
            files: BTreeMap::new(),
            names: Names::from([(ROOT, BTreeMap::new())]),
            durable_names: Names::from([(ROOT, BTreeMap::new())]),
            pending: Vec::new(),
            next_inode: ROOT + 1,
            calls: 0,
            ticks: 0,
            crash_at: None,
            dead: false,
            locked: false,
            capacity: 1 << 30,
            failing: Vec::new(),
            meanwhile: None,
            unreadable: BTreeMap::new(),
            trace: None,
        };
        SimDisk {
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// Calls so far.
    pub fn calls(&self) -> u64 {
        self.state.lock().calls
    }

    /// The machine dies at this call (counted from the disk's beginning): it may still take effect,
    /// nothing after it does.
    pub fn crash_at(&self, call: u64) {
        self.state.lock().crash_at = Some(call);
    }

    /// Whether the machine has died.
    pub fn is_dead(&self) -> bool {
        self.state.lock().dead
    }

    /// Pulls the plug now and gives the disk as the next start finds it. Of what was not synced,
    /// `keep` percent survives. The old disk is dead.
    pub fn crash(&self, keep: u64) -> SimDisk {
        let mut old = self.state.lock();
        old.dead = true;
        let mut state = old.clone();
        let mut stopped: BTreeSet<Inode> = BTreeSet::new();
        for change in std::mem::take(&mut state.pending) {
            let mut dirs = change.iter().map(|(dir, ..)| *dir);
            if dirs.any(|dir| stopped.contains(&dir)) || !state.chance.percent(keep) {
                stopped.extend(change.iter().map(|(dir, ..)| *dir));
            } else {
                apply(&mut state.durable_names, &change);
            }
        }
        state.names = state.durable_names.clone();
        let mut chance = state.chance.clone();
        for file in state.files.values_mut() {
            file.crash(&mut chance, keep);
        }
        state.chance = chance;
        (state.crash_at, state.dead, state.locked) = (None, false, false);
        state.failing.clear();
        state.meanwhile = None;
        state.unreadable.clear();
        SimDisk {
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// A copy of the disk as it is now, as after the death of the process alone.
    pub fn kill(&self) -> SimDisk {
        let mut old = self.state.lock();
        old.dead = true;
        let mut state = old.clone();
        (state.crash_at, state.dead, state.locked) = (None, false, false);
        state.failing.clear();
        state.meanwhile = None;
        SimDisk {
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// Bytes that files may take.
    pub fn set_capacity(&self, bytes: u64) {
        self.state.lock().capacity = bytes;
    }

    /// Bytes that files take.
    pub fn used(&self) -> u64 {
        self.state.lock().used()
    }

    /// After `skip` more calls of this kind, one fails.
    pub fn fail(&self, call: Call, skip: u64) {
        self.state.lock().failing.push((call, skip));
    }

    /// Right before the next call of this kind, once, this is run: what another thread does at
    /// just that moment.
    pub fn meanwhile(&self, call: Call, act: impl Fn() + Send + Sync + 'static) {
        self.state.lock().meanwhile = Some((call, Arc::new(act)));
    }

    /// Makes a range of a file unreadable.
    pub fn make_unreadable(&self, path: &str, range: Range<u64>) -> io::Result<()> {
        let mut state = self.state.lock();
        let inode = state.find(path)?;
        state.unreadable.entry(inode).or_default().push(range);
        Ok(())
    }

    /// Changes durable bytes behind everybody's back.
    pub fn damage(&self, path: &str, change: impl FnOnce(&mut Vec<u8>)) -> io::Result<()> {
        let mut state = self.state.lock();
        let inode = state.find(path)?;
        let file = state
            .files
            .get_mut(&inode)
            .ok_or(io::ErrorKind::IsADirectory)?;
        change(&mut file.data);
        file.dirty.clear();
        file.lost.clear();
        Ok(())
    }

    /// The bytes of a file.
    pub fn bytes(&self, path: &str) -> io::Result<Vec<u8>> {
        let state = self.state.lock();
        let inode = state.find(path)?;
        let file = state.files.get(&inode).ok_or(io::ErrorKind::IsADirectory)?;
        Ok(file.data.clone())
    }

    /// Notes every call from now on.
    pub fn start_trace(&self) {
        self.state.lock().trace = Some(Vec::new());
    }

    /// The calls noted.
    pub fn trace(&self) -> Vec<String> {
        self.state.lock().trace.clone().unwrap_or_default()
    }

    fn file(&self, inode: Inode) -> Arc<dyn DiskFile> {
        Arc::new(SimFile {
            state: self.state.clone(),
            inode,
        })
    }

    fn names_call(
        &self,
        what: &str,
        act: impl FnOnce(&mut State) -> io::Result<()>,
    ) -> io::Result<()> {
        meanwhile(&self.state, Call::Name);
        let mut state = self.state.lock();
        let go_on = state.begin(Call::Name, || what.to_string())?;
        act(&mut state)?;
        State::end(go_on)
    }
}

impl Disk for SimDisk {
    fn create(&self, path: &str, len: u64) -> io::Result<Arc<dyn DiskFile>> {
        let mut inode = 0;
        self.names_call(&format!("create {path}"), |state| {
            let (dir, name) = state.resolve(path)?;
            if state.names[&dir].contains_key(&name) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            if state.used() + len > state.capacity {
                return Err(io::ErrorKind::StorageFull.into());
            }
            inode = state.next_inode;
            state.next_inode += 1;
            let data = vec![0; len as usize];
            state.files.insert(
                inode,
                FileState {
                    data,
                    ..FileState::default()
                },
            );
            state.change(vec![(dir, name, Some(inode))]);
            Ok(())
        })?;
        Ok(self.file(inode))
    }

    fn open(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        let state = self.state.lock();
        if state.dead {
            return Err(dead());
        }
        let inode = state.find(path)?;
        if !state.files.contains_key(&inode) {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        drop(state);
        Ok(self.file(inode))
    }

    fn list(&self, dir: &str) -> io::Result<Vec<Item>> {
        let state = self.state.lock();
        if state.dead {
            return Err(dead());
        }
        let dir = state.dir(dir)?;
        let items = state.names[&dir].iter().map(|(name, inode)| Item {
            name: name.clone(),
            is_dir: state.names.contains_key(inode),
        });
        Ok(items.collect())
    }

    fn make_dir(&self, path: &str) -> io::Result<()> {
        self.names_call(&format!("make_dir {path}"), |state| {
            let (dir, name) = state.resolve(path)?;
            if state.names[&dir].contains_key(&name) {
                return Ok(());
            }
            let inode = state.next_inode;
            state.next_inode += 1;
            state.names.insert(inode, BTreeMap::new());
            state.durable_names.insert(inode, BTreeMap::new());
            state.change(vec![(dir, name, Some(inode))]);
            Ok(())
        })
    }

    fn rename(&self, old: &str, new: &str) -> io::Result<()> {
        self.names_call(&format!("rename {old} {new}"), |state| {
            let inode = state.find(old)?;
            let (from, old_name) = state.resolve(old)?;
            let (to, new_name) = state.resolve(new)?;
            if from == to && old_name == new_name {
                return Ok(());
            }
            state.change(vec![(from, old_name, None), (to, new_name, Some(inode))]);
            Ok(())
        })
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        self.names_call(&format!("remove {path}"), |state| {
            state.find(path)?;
            let (dir, name) = state.resolve(path)?;
            state.change(vec![(dir, name, None)]);
            Ok(())
        })
    }

    fn remove_dir(&self, path: &str) -> io::Result<()> {
        self.names_call(&format!("remove_dir {path}"), |state| {
            let inode = state.dir(path)?;
            if !state.names[&inode].is_empty() {
                return Err(io::ErrorKind::DirectoryNotEmpty.into());
            }
            let (dir, name) = state.resolve(path)?;
            state.change(vec![(dir, name, None)]);
            Ok(())
        })
    }

    fn sync_dir(&self, path: &str) -> io::Result<()> {
        meanwhile(&self.state, Call::Sync);
        let mut state = self.state.lock();
        let go_on = state.begin(Call::Sync, || format!("sync_dir {path}"))?;
        let dir = state.dir(path)?;
        state.sync_dir(dir);
        State::end(go_on)
    }

    fn lock(&self) -> io::Result<Box<dyn Any + Send + Sync>> {
        let mut state = self.state.lock();
        if state.locked {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        state.locked = true;
        Ok(Box::new(Guard {
            state: self.state.clone(),
        }))
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let state = self.state.lock();
        Ok(state.capacity.saturating_sub(state.used()))
    }

    fn random(&self) -> u64 {
        self.state.lock().chance.number()
    }

    fn now(&self) -> Duration {
        let mut state = self.state.lock();
        state.ticks += 1;
        Duration::from_micros(state.ticks)
    }
}

struct Guard {
    state: Arc<Mutex<State>>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.state.lock().locked = false;
    }
}
