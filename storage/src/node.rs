//! Whose directory this is: the `node` file, and the `clean` mark.
//!
//! What is promised: a directory that holds anything else is refused, and nothing in it is touched.
//! `node` is 24 bytes: magic `AQDNODE` and the format version (one digit), 8 bytes of a random
//! identity, CRC-32C of those 16 bytes, 4 bytes of zero. `clean` is empty: it says by its name that
//! every log is durable where it belongs and that its `state` file says where it ends.

use std::io::IoSlice;

use aqueduct_proto::crc::crc32c;

use crate::checkpoint::create_again;
use crate::disk::Disk;
use crate::entry::u32_at;
use crate::error::Error;
use crate::journal::JOURNAL_DIR;
use crate::pool::POOL_DIR;

pub(crate) const LOGS_DIR: &str = "logs";
const NODE: &str = "node";
const CLEAN: &str = "clean";
const MAGIC: &[u8; 8] = b"AQDNODE1";

/// Accepts our own directory, makes an empty one ours, refuses all others.
pub(crate) fn check_or_create(disk: &dyn Disk) -> Result<(), Error> {
    match disk.open(NODE) {
        Ok(handle) => {
            let mut bytes = [0; 24];
            let got = handle
                .read_at(0, &mut bytes)
                .map_err(|e| Error::io(NODE, "read", e))?;
            if got < 24 || bytes[..8] != MAGIC[..] {
                let why = String::from_utf8_lossy(&bytes[..8.min(got)])
                    .escape_debug()
                    .to_string();
                return Err(Error::Foreign {
                    path: NODE.into(),
                    why: format!("magic {why:?}"),
                });
            }
            if u32_at(&bytes, 16) != crc32c(&bytes[..16]) {
                return Err(Error::corrupt(NODE, 16, "checksum"));
            }
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => create(disk)?,
        Err(error) => return Err(Error::io(NODE, "open", error)),
    }
    for dir in [JOURNAL_DIR, POOL_DIR, LOGS_DIR] {
        disk.make_dir(dir)
            .map_err(|e| Error::io(dir, "create directory", e))?;
    }
    disk.sync_dir("")
        .map_err(|e| Error::io("", "sync directory", e))
}

fn create(disk: &dyn Disk) -> Result<(), Error> {
    let items = disk.list("").map_err(|e| Error::io("", "list", e))?;
    for item in items {
        if !["lock", "node.tmp", "lost+found"].contains(&item.name.as_str()) {
            let why = "the directory has no node file and is not empty".to_string();
            return Err(Error::Foreign {
                path: item.name,
                why,
            });
        }
    }
    let mut bytes = [0; 24];
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8..16].copy_from_slice(&disk.random().to_le_bytes());
    let crc = crc32c(&bytes[..16]);
    bytes[16..20].copy_from_slice(&crc.to_le_bytes());
    let write = || {
        let handle = create_again(disk, "node.tmp", 0)?;
        handle.write_at(0, &[IoSlice::new(&bytes)])?;
        handle.sync()?;
        disk.rename("node.tmp", NODE)?;
        disk.sync_dir("")
    };
    write().map_err(|e| Error::io(NODE, "create", e))
}

pub(crate) fn is_clean(disk: &dyn Disk) -> Result<bool, Error> {
    match disk.open(CLEAN) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Error::io(CLEAN, "open", error)),
    }
}

/// Before anything is written: the next start must look closely again.
pub(crate) fn forget_clean(disk: &dyn Disk) -> Result<(), Error> {
    let gone = disk.remove(CLEAN).and_then(|()| disk.sync_dir(""));
    gone.map_err(|e| Error::io(CLEAN, "remove", e))
}

pub(crate) fn note_clean(disk: &dyn Disk) -> Result<(), Error> {
    let write = || {
        create_again(disk, CLEAN, 0)?.sync()?;
        disk.sync_dir("")
    };
    write().map_err(|e| Error::io(CLEAN, "create", e))
}
