//! A mapped piece of a file, for reading. The only `unsafe` of the workspace.
//!
//! Safety contract:
//! 1. A map is read-only and shared; bytes enter a file by `pwritev` alone, so a full disk or a bad
//!    write is a code and not a SIGBUS, and files are preallocated to their whole length.
//! 2. The store's directory is locked: no other process of ours writes these files.
//! 3. A file is never shortened while mapped, and goes back to the pool only after its last map is
//!    dropped (each map's owner holds the segment file).
//! 4. The appender touches only bytes at and beyond the published end, readers only bytes below it,
//!    and the end moves (under the log's lock) after `pwritev` has returned. On Linux the page cache
//!    is one for both ways; file systems where it is not (some network and FUSE mounts) are not
//!    supported.
//! 5. A handed-out slice (`Bytes` with the map as owner) keeps the map alive: retention renames, the
//!    last reader unmaps.
//!
//! A read error under the map still kills the process; old data is therefore read by `pread`.

use std::fs::File;
use std::io;

/// Mapped (or, for a simulated disk, copied) bytes of a file.
#[derive(Debug)]
pub struct Map {
    bytes: Source,
}

#[derive(Debug)]
enum Source {
    File(memmap2::Mmap),
    Copy(Vec<u8>),
}

impl Map {
    /// Maps `len` bytes of a file from `position`, which is a multiple of the page size.
    #[expect(unsafe_code, reason = "the one place that maps files")]
    pub(crate) fn of_file(file: &File, position: u64, len: usize) -> io::Result<Map> {
        let mut options = memmap2::MmapOptions::new();
        options.offset(position).len(len);
        // SAFETY: clauses 1 to 4: nobody shortens the file, and bytes that readers may look at no
        // longer change.
        let map = unsafe { options.map(file) }?;
        Ok(Map {
            bytes: Source::File(map),
        })
    }

    /// A map that is a copy, for disks without files. It does not follow later writes.
    pub fn of_copy(bytes: Vec<u8>) -> Map {
        Map {
            bytes: Source::Copy(bytes),
        }
    }

    /// Whether later writes to the file show in the map.
    pub fn is_live(&self) -> bool {
        matches!(self.bytes, Source::File(_))
    }
}

impl AsRef<[u8]> for Map {
    fn as_ref(&self) -> &[u8] {
        match &self.bytes {
            Source::File(map) => map,
            Source::Copy(bytes) => bytes,
        }
    }
}
