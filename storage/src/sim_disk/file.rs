//! A file of the simulated disk.

use std::io::{self, IoSlice};
use std::ops::Range;
use std::sync::Arc;

use parking_lot::Mutex;

use super::Call;
use super::state::{FileState, Inode, SECTOR, State, dead, meanwhile};
use crate::disk::DiskFile;
use crate::map::Map;

pub(super) struct SimFile {
    pub(super) state: Arc<Mutex<State>>,
    pub(super) inode: Inode,
}

impl SimFile {
    fn change(
        &self,
        call: Call,
        what: &str,
        act: impl FnOnce(&mut State, &mut FileState) -> io::Result<()>,
    ) -> io::Result<()> {
        meanwhile(&self.state, call);
        let mut state = self.state.lock();
        let begun = state.begin(call, || format!("{what} inode {}", self.inode));
        let mut file = state.files.remove(&self.inode).unwrap_or_default();
        if begun.is_err() && call == Call::Sync && !state.dead {
            file.fail_sync(&mut state.chance);
        }
        let go_on = match begun {
            Ok(go_on) => go_on,
            Err(error) => {
                state.files.insert(self.inode, file);
                return Err(error);
            }
        };
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

    fn drop_cache(&self) -> io::Result<()> {
        let mut state = self.state.lock();
        if state.dead {
            return Err(dead());
        }
        let file = state.files.get_mut(&self.inode);
        file.ok_or(io::ErrorKind::NotFound)?.drop_cache();
        Ok(())
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
