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
use std::io::{self, IoSlice};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::disk::{Disk, DiskFile, Item};
use crate::map::Map;

const SECTOR: usize = 512;
type Inode = u64;
type Sector = [u8; SECTOR];

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

#[derive(Clone, Default)]
struct FileState {
    data: Vec<u8>,
    /// Earlier versions of the sectors written since the last sync, oldest (the durable one) first.
    dirty: BTreeMap<usize, Vec<Sector>>,
    /// The length is durable.
    sized: bool,
}

impl FileState {
    fn write(&mut self, position: usize, bytes: &[u8]) {
        let end = position + bytes.len();
        if end > self.data.len() {
            self.data.resize(end, 0);
        }
        let mut at = position;
        while at < end {
            let sector = at / SECTOR;
            let stop = ((sector + 1) * SECTOR).min(end);
            let new = &bytes[at - position..stop - position];
            if self.data[at..stop] != *new {
                let mut old = [0; SECTOR];
                let begin = sector * SECTOR;
                let held = (self.data.len() - begin).min(SECTOR);
                old[..held].copy_from_slice(&self.data[begin..begin + held]);
                self.dirty.entry(sector).or_default().push(old);
                self.data[at..stop].copy_from_slice(new);
            }
            at = stop;
        }
    }

    fn sync(&mut self) {
        self.dirty.clear();
        self.sized = true;
    }

    /// What a crash leaves, keeping each unsynced sector's newest version in `keep` percent.
    fn crash(&mut self, chance: &mut Chance, keep: u64) {
        if !self.sized && !chance.percent(keep) {
            self.data.clear();
        }
        for (sector, versions) in std::mem::take(&mut self.dirty) {
            let begin = sector * SECTOR;
            if chance.percent(keep) || begin >= self.data.len() {
                continue;
            }
            let version = versions[chance.below(versions.len() as u64) as usize];
            let held = (self.data.len() - begin).min(SECTOR);
            self.data[begin..begin + held].copy_from_slice(&version[..held]);
        }
        self.sized = true;
    }
}

type Names = BTreeMap<Inode, BTreeMap<String, Inode>>;

/// Changes of names that belong together: directory, name, what it names then.
type Change = Vec<(Inode, String, Option<Inode>)>;

#[derive(Clone)]
struct State {
    chance: Chance,
    files: BTreeMap<Inode, FileState>,
    names: Names,
    durable_names: Names,
    pending: Vec<Change>,
    next_inode: Inode,
    calls: u64,
    ticks: u64,
    crash_at: Option<u64>,
    dead: bool,
    locked: bool,
    capacity: u64,
    failing: Vec<(Call, u64)>,
    unreadable: BTreeMap<Inode, Vec<Range<u64>>>,
    trace: Option<Vec<String>>,
}

const ROOT: Inode = 1;

fn dead() -> io::Error {
    io::Error::other("the simulated machine has crashed")
}

impl State {
    /// Counts a call. `Ok(true)`: do it and go on; `Ok(false)`: do it and then report the crash.
    fn begin(&mut self, call: Call, what: impl Fn() -> String) -> io::Result<bool> {
        if self.dead {
            return Err(dead());
        }
        self.calls += 1;
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{} {call:?} {}", self.calls, what()));
        }
        if let Some(at) = self
            .failing
            .iter()
            .position(|(of, left)| *of == call && *left == 0)
        {
            self.failing.remove(at);
            return Err(io::Error::other(format!("injected {call:?} error")));
        }
        for (_, left) in self.failing.iter_mut().filter(|(of, _)| *of == call) {
            *left -= 1;
        }
        if self.crash_at == Some(self.calls) {
            self.dead = true;
            return if self.chance.percent(50) {
                Ok(false)
            } else {
                Err(dead())
            };
        }
        Ok(true)
    }

    fn end(go_on: bool) -> io::Result<()> {
        if go_on { Ok(()) } else { Err(dead()) }
    }

    /// The directory of a path and the name in it.
    fn resolve(&self, path: &str) -> io::Result<(Inode, String)> {
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        Ok((self.dir(dir)?, name.to_string()))
    }

    fn dir(&self, path: &str) -> io::Result<Inode> {
        let mut at = ROOT;
        for part in path.split('/').filter(|part| !part.is_empty()) {
            let names = self.names.get(&at).ok_or(io::ErrorKind::NotADirectory)?;
            at = *names.get(part).ok_or(io::ErrorKind::NotFound)?;
        }
        if self.names.contains_key(&at) {
            Ok(at)
        } else {
            Err(io::ErrorKind::NotADirectory.into())
        }
    }

    fn find(&self, path: &str) -> io::Result<Inode> {
        let (dir, name) = self.resolve(path)?;
        self.names[&dir]
            .get(&name)
            .copied()
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn change(&mut self, change: Change) {
        apply(&mut self.names, &change);
        self.pending.push(change);
    }

    fn used(&self) -> u64 {
        let named: BTreeSet<Inode> = self
            .names
            .values()
            .flat_map(|n| n.values().copied())
            .collect();
        let files = self.files.iter().filter(|(inode, _)| named.contains(inode));
        files.map(|(_, file)| file.data.len() as u64).sum()
    }

    /// Makes a directory's changes durable, and what came before them in the directories they touch.
    fn sync_dir(&mut self, dir: Inode) {
        let mut dirs = BTreeSet::from([dir]);
        let mut goes = vec![false; self.pending.len()];
        for (at, change) in self.pending.iter().enumerate().rev() {
            if change.iter().any(|(of, ..)| dirs.contains(of)) {
                dirs.extend(change.iter().map(|(of, ..)| *of));
                goes[at] = true;
            }
        }
        let pending = std::mem::take(&mut self.pending);
        for (change, goes) in pending.into_iter().zip(goes) {
            if goes {
                apply(&mut self.durable_names, &change);
            } else {
                self.pending.push(change);
            }
        }
    }
}

fn apply(names: &mut Names, change: &Change) {
    for (dir, name, inode) in change {
        let dir = names.entry(*dir).or_default();
        match inode {
            Some(inode) => dir.insert(name.clone(), *inode),
            None => dir.remove(name),
        };
    }
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

struct SimFile {
    state: Arc<Mutex<State>>,
    inode: Inode,
}

impl SimFile {
    fn change(
        &self,
        call: Call,
        what: &str,
        act: impl FnOnce(&mut State, &mut FileState) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut state = self.state.lock();
        let go_on = state.begin(call, || format!("{what} inode {}", self.inode))?;
        let mut file = state.files.remove(&self.inode).unwrap_or_default();
        let outcome = act(&mut state, &mut file);
        state.files.insert(self.inode, file);
        outcome?;
        State::end(go_on)
    }

    fn check_readable(&self, state: &State, range: Range<u64>) -> io::Result<()> {
        if state.dead {
            return Err(dead());
        }
        let bad = state.unreadable.get(&self.inode);
        let hit = |bad: &Range<u64>| bad.start < range.end && range.start < bad.end;
        if bad.is_some_and(|ranges| ranges.iter().any(hit)) {
            return Err(io::Error::other("bad sector"));
        }
        Ok(())
    }
}

impl DiskFile for SimFile {
    fn write_at(&self, position: u64, pieces: &[IoSlice<'_>]) -> io::Result<()> {
        let len: usize = pieces.iter().map(|piece| piece.len()).sum();
        self.change(
            Call::Write,
            &format!("write {position}+{len}"),
            |state, file| {
                let grows = (position as usize + len).saturating_sub(file.data.len()) as u64;
                if grows > 0 && state.used() + grows > state.capacity {
                    return Err(io::ErrorKind::StorageFull.into());
                }
                let mut at = position as usize;
                for piece in pieces {
                    file.write(at, piece);
                    at += piece.len();
                }
                Ok(())
            },
        )
    }

    fn write_durable(&self, position: u64, bytes: &[u8]) -> io::Result<()> {
        assert!(position.is_multiple_of(4096) && bytes.len().is_multiple_of(4096));
        assert_eq!(bytes.as_ptr().align_offset(4096), 0, "aligned memory");
        self.change(
            Call::Write,
            &format!("write_durable {position}+{}", bytes.len()),
            |_, file| {
                file.write(position as usize, bytes);
                Ok(())
            },
        )?;
        self.change(Call::Sync, "its sync", |_, file| {
            let (first, last) = (
                position as usize / SECTOR,
                (position as usize + bytes.len()) / SECTOR,
            );
            file.dirty
                .retain(|sector, _| !(first..last).contains(sector));
            Ok(())
        })
    }

    fn read_at(&self, position: u64, into: &mut [u8]) -> io::Result<usize> {
        let mut state = self.state.lock();
        self.check_readable(&state, position..position + into.len() as u64)?;
        if state.failing.iter().any(|(call, _)| *call == Call::Read) {
            state.begin(Call::Read, || format!("read {position}"))?;
        }
        let file = state
            .files
            .get(&self.inode)
            .ok_or(io::ErrorKind::NotFound)?;
        let begin = (position as usize).min(file.data.len());
        let len = into.len().min(file.data.len() - begin);
        into[..len].copy_from_slice(&file.data[begin..begin + len]);
        Ok(len)
    }

    fn sync(&self) -> io::Result<()> {
        self.change(Call::Sync, "sync", |_, file| {
            file.sync();
            Ok(())
        })
    }

    fn len(&self) -> io::Result<u64> {
        let state = self.state.lock();
        if state.dead {
            return Err(dead());
        }
        let file = state
            .files
            .get(&self.inode)
            .ok_or(io::ErrorKind::NotFound)?;
        Ok(file.data.len() as u64)
    }

    fn map(&self, range: Range<u64>) -> io::Result<Map> {
        let state = self.state.lock();
        self.check_readable(&state, range.clone())?;
        let file = state
            .files
            .get(&self.inode)
            .ok_or(io::ErrorKind::NotFound)?;
        let end = (range.end as usize).min(file.data.len());
        let begin = (range.start as usize).min(end);
        Ok(Map::of_copy(file.data[begin..end].to_vec()))
    }
}
