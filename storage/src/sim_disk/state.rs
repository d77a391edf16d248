//! The simulated disk's two planes, and what a crash leaves of them.
//!
//! It must never know files' handles, and nothing but a seed decides in it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::sync::Arc;

use parking_lot::Mutex;

use super::{Call, Chance};

pub(super) const SECTOR: usize = 512;
pub(super) type Inode = u64;
type Sector = [u8; SECTOR];

#[derive(Clone, Default)]
pub(super) struct FileState {
    pub(super) data: Vec<u8>,
    /// Earlier versions of the sectors written since the last sync, oldest (the durable one) first.
    pub(super) dirty: BTreeMap<usize, Vec<Sector>>,
    /// What the device holds of sectors that a failed sync has dropped: reads still show what was
    /// written, no later sync writes it.
    pub(super) lost: BTreeMap<usize, Sector>,
    /// The length is durable.
    pub(super) sized: bool,
}

impl FileState {
    pub(super) fn write(&mut self, position: usize, bytes: &[u8]) {
        let end = position + bytes.len();
        if end > self.data.len() {
            self.data.resize(end, 0);
        }
        let mut at = position;
        while at < end {
            let sector = at / SECTOR;
            let stop = ((sector + 1) * SECTOR).min(end);
            let new = &bytes[at - position..stop - position];
            if let Some(old) = self.lost.remove(&sector) {
                // Written again, be it with the same bytes: it waits for a sync again.
                self.dirty.entry(sector).or_default().push(old);
            }
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

    pub(super) fn sync(&mut self) {
        self.dirty.clear();
        self.sized = true;
    }

    /// Some of what waits is written, the rest is forgotten; all of it counts as clean.
    pub(super) fn fail_sync(&mut self, chance: &mut Chance) {
        for (sector, versions) in std::mem::take(&mut self.dirty) {
            if chance.percent(50) {
                let version = versions[chance.below(versions.len() as u64) as usize];
                self.lost.insert(sector, version);
            }
        }
    }

    /// From now on reads show what the device holds.
    pub(super) fn drop_cache(&mut self) {
        for (sector, version) in std::mem::take(&mut self.lost) {
            self.restore(sector, &version);
        }
    }

    fn restore(&mut self, sector: usize, version: &Sector) {
        let begin = sector * SECTOR;
        let held = self.data.len().saturating_sub(begin).min(SECTOR);
        if held > 0 {
            self.data[begin..begin + held].copy_from_slice(&version[..held]);
        }
    }

    /// What a crash leaves, keeping each unsynced sector's newest version in `keep` percent.
    pub(super) fn crash(&mut self, chance: &mut Chance, keep: u64) {
        if !self.sized && !chance.percent(keep) {
            self.data.clear();
        }
        for (sector, versions) in std::mem::take(&mut self.dirty) {
            if chance.percent(keep) || sector * SECTOR >= self.data.len() {
                continue;
            }
            let version = versions[chance.below(versions.len() as u64) as usize];
            self.restore(sector, &version);
        }
        self.drop_cache();
        self.sized = true;
    }
}

pub(super) type Names = BTreeMap<Inode, BTreeMap<String, Inode>>;

/// Changes of names that belong together: directory, name, what it names then.
pub(super) type Change = Vec<(Inode, String, Option<Inode>)>;

#[derive(Clone)]
pub(super) struct State {
    pub(super) chance: Chance,
    pub(super) files: BTreeMap<Inode, FileState>,
    pub(super) names: Names,
    pub(super) durable_names: Names,
    pub(super) pending: Vec<Change>,
    pub(super) next_inode: Inode,
    pub(super) calls: u64,
    pub(super) ticks: u64,
    pub(super) crash_at: Option<u64>,
    pub(super) dead: bool,
    pub(super) locked: bool,
    pub(super) capacity: u64,
    pub(super) failing: Vec<(Call, u64)>,
    pub(super) meanwhile: Option<(Call, Arc<dyn Fn() + Send + Sync>)>,
    pub(super) unreadable: BTreeMap<Inode, Vec<Range<u64>>>,
    pub(super) trace: Option<Vec<String>>,
}

pub(super) const ROOT: Inode = 1;

/// Runs what was left to be done right before a call of this kind.
pub(super) fn meanwhile(state: &Mutex<State>, call: Call) {
    let due = state.lock().meanwhile.take_if(|(of, _)| *of == call);
    if let Some((_, act)) = due {
        act();
    }
}

pub(super) fn dead() -> io::Error {
    io::Error::other("the simulated machine has crashed")
}

impl State {
    /// Counts a call. `Ok(true)`: do it and go on; `Ok(false)`: do it and then report the crash.
    pub(super) fn begin(&mut self, call: Call, what: impl Fn() -> String) -> io::Result<bool> {
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

    pub(super) fn end(go_on: bool) -> io::Result<()> {
        if go_on { Ok(()) } else { Err(dead()) }
    }

    /// The directory of a path and the name in it.
    pub(super) fn resolve(&self, path: &str) -> io::Result<(Inode, String)> {
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        Ok((self.dir(dir)?, name.to_string()))
    }

    pub(super) fn dir(&self, path: &str) -> io::Result<Inode> {
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

    pub(super) fn find(&self, path: &str) -> io::Result<Inode> {
        let (dir, name) = self.resolve(path)?;
        self.names[&dir]
            .get(&name)
            .copied()
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    pub(super) fn change(&mut self, change: Change) {
        apply(&mut self.names, &change);
        self.pending.push(change);
    }

    pub(super) fn used(&self) -> u64 {
        let named: BTreeSet<Inode> = self
            .names
            .values()
            .flat_map(|n| n.values().copied())
            .collect();
        let files = self.files.iter().filter(|(inode, _)| named.contains(inode));
        files.map(|(_, file)| file.data.len() as u64).sum()
    }

    /// Makes a directory's changes durable, and what came before them in the directories they touch.
    pub(super) fn sync_dir(&mut self, dir: Inode) {
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

pub(super) fn apply(names: &mut Names, change: &Change) {
    for (dir, name, inode) in change {
        let dir = names.entry(*dir).or_default();
        match inode {
            Some(inode) => dir.insert(name.clone(), *inode),
            None => dir.remove(name),
        };
    }
}
