//! What can go wrong on one node's disk, each with the file and the position it happened at.
//!
//! `Error` answers everything that writes or opens, `ReadError` answers reads. A store that has met
//! a failed write or sync answers `Closed` to everything afterwards and keeps the first cause.

use std::io;

/// Space that is there and cannot be had means that the files are what is missing.
fn no_room(wanted: u64, free: u64) -> String {
    if wanted <= free {
        return format!(
            "no room for {wanted} bytes, though {free} are free: the process may open no more files \
             (ulimit -Hn), or another took the space"
        );
    }
    format!("disk full: {wanted} bytes wanted, {free} bytes free")
}

/// An operation on the store or on a log failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused a call.
    #[error("{op} of {path} failed: {source}")]
    Io {
        /// File or directory, relative to the store's directory.
        path: String,
        /// Name of the call: "open", "sync", ...
        op: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// No space is left for what was asked. Nothing was written; reads go on.
    #[error("{}", no_room(*wanted, *free))]
    Full {
        /// Bytes that were asked for.
        wanted: u64,
        /// Bytes that may still be used (after `min_free_bytes` and `max_total_bytes`).
        free: u64,
    },
    /// Stored bytes are not what was written.
    #[error("{file} is damaged at byte {position}: {why}")]
    Corrupt {
        /// File, relative to the store's directory.
        file: String,
        /// Byte in that file.
        position: u64,
        /// What does not fit.
        why: String,
    },
    /// The directory or a file in it belongs to something else, or to a newer version.
    #[error("{path} is not ours: {why}")]
    Foreign {
        /// File or directory, relative to the store's directory.
        path: String,
        /// What was found.
        why: String,
    },
    /// Another process holds the directory.
    #[error("{path} is locked by another process")]
    Locked {
        /// The directory.
        path: String,
    },
    /// The store was closed, by `close()` or by its first failed write or sync.
    #[error("the store is closed: {cause}")]
    Closed {
        /// The first cause.
        cause: String,
    },
    /// The caller asked for something that the rules of a log forbid.
    #[error("invalid {what}: {value} (limit {limit})")]
    Invalid {
        /// What was wrong.
        what: &'static str,
        /// The value that was given.
        value: u64,
        /// The value or the bound that was expected.
        limit: u64,
    },
}

impl Error {
    pub(crate) fn io(path: &str, op: &'static str, source: io::Error) -> Error {
        Error::Io {
            path: path.to_string(),
            op,
            source,
        }
    }

    pub(crate) fn invalid(what: &'static str, value: u64, limit: u64) -> Error {
        Error::Invalid { what, value, limit }
    }

    pub(crate) fn corrupt(file: &str, position: u64, why: impl Into<String>) -> Error {
        Error::Corrupt {
            file: file.to_string(),
            position,
            why: why.into(),
        }
    }
}

/// A read of batches failed.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The offset is not in the log.
    #[error("offset out of range: the log holds {earliest} up to {latest} (exclusive)")]
    OutOfRange {
        /// First offset that is held.
        earliest: u64,
        /// Log end offset, exclusive.
        latest: u64,
    },
    /// The bytes that hold this offset are damaged.
    #[error("{file} is damaged at byte {position} (offset {offset})")]
    Damaged {
        /// First offset that cannot be read.
        offset: u64,
        /// File, relative to the store's directory.
        file: String,
        /// Byte in that file.
        position: u64,
    },
    /// Anything else.
    #[error(transparent)]
    Storage(#[from] Error),
}
