//! A disk that is read and never written: changes stay in memory.
//!
//! `aqueduct log` opens a store over this, so that it sees exactly what a broker would recover
//! (torn tails cut, the journal replayed) while the directory stays as it is, evidence included.
//! Only changed pages are kept, so memory is bounded by what recovery writes.
//!
//! It must never know what the files mean.

use std::{
    any::Any,
    collections::{BTreeMap, BTreeSet},
    io::{self, ErrorKind, IoSlice},
    ops::Range,
    sync::Arc,
    time::Duration,
};

use aqueduct_storage::{
    disk::{Disk, DiskFile, Item, RealDisk},
    map::Map,
};
use parking_lot::Mutex;

const PAGE: u64 = 4096;

/// A directory of the operating system, with changes on top.
pub(super) struct Overlay {
    real: RealDisk,
    names: Mutex<Names>,
}

/// What the names in the tree have come to mean.
#[derive(Default)]
struct Names {
    /// Files that were opened, made or renamed; `None` is removed.
    files: BTreeMap<String, Option<Arc<File>>>,
    made_dirs: BTreeSet<String>,
    removed_dirs: BTreeSet<String>,
}

impl Overlay {
    pub(super) fn new(real: RealDisk) -> Self {
        Self {
            real,
            names: Mutex::default(),
        }
    }

    /// The file of this name, opened if it is a real one.
    fn find(&self, names: &mut Names, path: &str) -> io::Result<Arc<File>> {
        match names.files.get(path) {
            Some(Some(file)) => Ok(file.clone()),
            Some(None) => Err(ErrorKind::NotFound.into()),
            None => {
                let base = self.real.open(path)?;
                let length = base.len()?;
                let file = Arc::new(File::new(Some(base), length));
                names.files.insert(path.to_owned(), Some(file.clone()));
                Ok(file)
            }
        }
    }
}

impl Disk for Overlay {
    fn create(&self, path: &str, len: u64) -> io::Result<Arc<dyn DiskFile>> {
        let mut names = self.names.lock();
        match self.find(&mut names, path) {
            Ok(_) => Err(ErrorKind::AlreadyExists.into()),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let file = Arc::new(File::new(None, len));
                names.files.insert(path.to_owned(), Some(file.clone()));
                Ok(file)
            }
            Err(error) => Err(error),
        }
    }

    fn open(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = self.find(&mut self.names.lock(), path)?;
        Ok(file)
    }

    fn list(&self, dir: &str) -> io::Result<Vec<Item>> {
        let names = self.names.lock();
        let inside = |path: &str| {
            let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
            (parent == dir).then(|| name.to_owned())
        };
        let join = |name: &str| {
            if dir.is_empty() {
                name.to_owned()
            } else {
                format!("{dir}/{name}")
            }
        };
        let mut items = BTreeSet::new();
        let real = match self.real.list(dir) {
            Err(error) if error.kind() == ErrorKind::NotFound && names.made_dirs.contains(dir) => {
                Vec::new()
            }
            real => real?,
        };
        for item in real {
            let path = join(&item.name);
            let gone = if item.is_dir {
                names.removed_dirs.contains(&path)
            } else {
                names.files.get(&path).is_some_and(Option::is_none)
            };
            if !gone {
                items.insert(item);
            }
        }
        let files = names
            .files
            .iter()
            .filter(|(_, file)| file.is_some())
            .map(|(path, _)| path);
        items.extend(files.filter_map(|path| inside(path)).map(|name| Item {
            name,
            is_dir: false,
        }));
        let dirs = names.made_dirs.iter().filter_map(|path| inside(path));
        items.extend(dirs.map(|name| Item { name, is_dir: true }));
        Ok(items.into_iter().collect())
    }

    fn make_dir(&self, path: &str) -> io::Result<()> {
        let mut names = self.names.lock();
        names.removed_dirs.remove(path);
        names.made_dirs.insert(path.to_owned());
        Ok(())
    }

    fn rename(&self, old: &str, new: &str) -> io::Result<()> {
        let mut names = self.names.lock();
        // Directories are renamed when a log is removed, which nobody does here.
        let file = self.find(&mut names, old)?;
        names.files.insert(new.to_owned(), Some(file));
        names.files.insert(old.to_owned(), None);
        Ok(())
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let mut names = self.names.lock();
        self.find(&mut names, path)?;
        names.files.insert(path.to_owned(), None);
        Ok(())
    }

    fn remove_dir(&self, path: &str) -> io::Result<()> {
        let mut names = self.names.lock();
        names.made_dirs.remove(path);
        names.removed_dirs.insert(path.to_owned());
        Ok(())
    }

    fn sync_dir(&self, _path: &str) -> io::Result<()> {
        Ok(())
    }

    fn lock(&self) -> io::Result<Box<dyn Any + Send + Sync>> {
        self.real.lock()
    }

    /// Memory takes what recovery writes; a full disk does not matter to somebody who looks.
    fn free_bytes(&self) -> io::Result<u64> {
        Ok(u64::MAX / 4)
    }

    fn random(&self) -> u64 {
        self.real.random()
    }

    fn now(&self) -> Duration {
        self.real.now()
    }
}

/// A file whose changed pages lie in memory.
struct File {
    base: Option<Arc<dyn DiskFile>>,
    changed: Mutex<Changed>,
}

struct Changed {
    length: u64,
    pages: BTreeMap<u64, Vec<u8>>,
}

impl File {
    fn new(base: Option<Arc<dyn DiskFile>>, length: u64) -> Self {
        Self {
            base,
            changed: Mutex::new(Changed {
                length,
                pages: BTreeMap::new(),
            }),
        }
    }

    /// What lies below the changes; zeros beyond its end.
    fn below(&self, position: u64, into: &mut [u8]) -> io::Result<()> {
        let count = match &self.base {
            Some(base) => base.read_at(position, into)?,
            None => 0,
        };
        into[count..].fill(0);
        Ok(())
    }

    fn write(&self, changed: &mut Changed, position: u64, mut bytes: &[u8]) -> io::Result<()> {
        changed.length = changed.length.max(position + bytes.len() as u64);
        let mut position = position;
        while !bytes.is_empty() {
            let (page, start) = (position / PAGE, (position % PAGE) as usize);
            let count = bytes.len().min(PAGE as usize - start);
            let (piece, rest) = bytes.split_at(count);
            // Space that is prepared with zeros costs nothing where nothing is below it.
            let idle = self.base.is_none()
                && !changed.pages.contains_key(&page)
                && piece.iter().all(|byte| *byte == 0);
            if !idle {
                let content = match changed.pages.entry(page) {
                    std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
                    std::collections::btree_map::Entry::Vacant(entry) => {
                        let mut content = vec![0; PAGE as usize];
                        self.below(page * PAGE, &mut content)?;
                        entry.insert(content)
                    }
                };
                content[start..start + count].copy_from_slice(piece);
            }
            position += count as u64;
            bytes = rest;
        }
        Ok(())
    }
}

impl DiskFile for File {
    fn write_at(&self, position: u64, pieces: &[IoSlice<'_>]) -> io::Result<()> {
        let mut changed = self.changed.lock();
        let mut position = position;
        for piece in pieces {
            self.write(&mut changed, position, piece)?;
            position += piece.len() as u64;
        }
        Ok(())
    }

    fn write_durable(&self, position: u64, bytes: &[u8]) -> io::Result<()> {
        self.write(&mut self.changed.lock(), position, bytes)
    }

    fn read_at(&self, position: u64, into: &mut [u8]) -> io::Result<usize> {
        let changed = self.changed.lock();
        let left = usize::try_from(changed.length.saturating_sub(position)).unwrap_or(usize::MAX);
        let count = left.min(into.len());
        let into = &mut into[..count];
        self.below(position, into)?;
        let end = position + count as u64;
        for (page, content) in changed.pages.range(position / PAGE..end.div_ceil(PAGE)) {
            let (from, until) = ((page * PAGE).max(position), ((page + 1) * PAGE).min(end));
            let target = (from - position) as usize..(until - position) as usize;
            let source = (from - page * PAGE) as usize..(until - page * PAGE) as usize;
            into[target].copy_from_slice(&content[source]);
        }
        Ok(count)
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn drop_cache(&self) -> io::Result<()> {
        // What lies below is what somebody wants to look at.
        self.base.as_ref().map_or(Ok(()), |base| base.drop_cache())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.changed.lock().length)
    }

    fn map(&self, range: Range<u64>) -> io::Result<Map> {
        let length = usize::try_from(range.end.saturating_sub(range.start));
        let mut bytes = vec![0; length.map_err(io::Error::other)?];
        self.read_at(range.start, &mut bytes)?;
        Ok(Map::of_copy(bytes))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn changes_are_seen_and_nothing_is_written() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a"), vec![7; 10_000]).unwrap();
        let disk = Overlay::new(RealDisk::new(dir.path()).unwrap());
        let file = disk.open("a").unwrap();
        file.write_at(4090, &[IoSlice::new(b"0123"), IoSlice::new(b"456789")])
            .unwrap();
        let mut seen = [0; 14];
        assert_eq!(file.read_at(4088, &mut seen).unwrap(), 14);
        assert_eq!(&seen, b"\x07\x070123456789\x07\x07");
        assert_eq!(file.read_at(9_998, &mut seen).unwrap(), 2);

        let fresh = disk.create("d/new", 8192).unwrap();
        fresh.write_at(8190, &[IoSlice::new(b"end")]).unwrap();
        assert_eq!(fresh.len().unwrap(), 8193);
        assert_eq!(&fresh.map(8188..8193).unwrap().as_ref(), b"\0\0end");
        assert!(disk.create("a", 1).is_err());
        disk.rename("a", "b").unwrap();
        disk.make_dir("d").unwrap();
        let names = |dir: &str| -> Vec<String> {
            disk.list(dir)
                .unwrap()
                .into_iter()
                .map(|item| item.name)
                .collect()
        };
        assert_eq!(names(""), ["b", "d"]);
        assert_eq!(names("d"), ["new"]);
        disk.remove("b").unwrap();
        assert_eq!(disk.open("b").err().unwrap().kind(), ErrorKind::NotFound);

        let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().collect();
        assert_eq!(left.len(), 1);
        assert_eq!(
            std::fs::read(dir.path().join("a")).unwrap(),
            vec![7; 10_000]
        );
    }
}
