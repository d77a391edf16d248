//! Open files: how many partitions and connections there is room for.
//!
//! Storage that may open no more files takes no more messages, as on a full disk. So the limit of
//! open files has to bound what clients can make the node open: partitions are refused beyond it,
//! and connections leave the last files to the storage.

use crate::{
    error::Refusal,
    limits::{MAX_CONNECTIONS, MAX_PARTITIONS, OPEN_FILES_PER_PARTITION, SPARE_OPEN_FILES},
};

/// Whether `more` partitions beside those of `now` have room under this limit of open files.
/// Who comes at the same time is not counted; the spare files are for that too.
///
/// # Errors
/// `LimitReached`. The node's own bound is not looked at here.
pub(crate) fn check_partitions(
    now: usize,
    more: usize,
    open_files: Option<u64>,
) -> Result<(), Refusal> {
    let limit = max_partitions(open_files);
    if more == 0 || now + more <= limit || limit == MAX_PARTITIONS {
        return Ok(());
    }
    let open_files = open_files.unwrap_or(u64::MAX);
    Err(Refusal::LimitReached {
        what: format!(
            "partitions of this node, which may have {open_files} files open (ulimit -Hn)"
        ),
        limit: limit as u64,
    })
}

/// Partitions that a process with this limit of open files has room for: two thirds of what is
/// not left to the storage, so that connections cannot take their files.
fn max_partitions(open_files: Option<u64>) -> usize {
    let Some(open_files) = open_files else {
        return MAX_PARTITIONS;
    };
    let room = shared_out(open_files) / 3 * 2 / OPEN_FILES_PER_PARTITION;
    usize::try_from(room).map_or(MAX_PARTITIONS, |room| room.min(MAX_PARTITIONS))
}

/// Connections that a process with this limit of open files has room for: the other third.
pub(crate) fn max_connections(open_files: Option<u64>) -> u64 {
    let most = MAX_CONNECTIONS as u64;
    open_files.map_or(most, |open_files| most.min(shared_out(open_files) / 3))
}

fn shared_out(open_files: u64) -> u64 {
    open_files.saturating_sub(spare(open_files))
}

/// Does a connection with this number take a file that is left to the storage? Numbers are given
/// out from the lowest free one, so all below it are in use.
pub(crate) fn is_spare(number: i32, open_files: Option<u64>) -> bool {
    let number = u64::try_from(number).unwrap_or(0);
    open_files.is_some_and(|limit| number >= limit.saturating_sub(spare(limit)))
}

fn spare(open_files: u64) -> u64 {
    SPARE_OPEN_FILES.min(open_files / 4)
}

/// What this process may open, as of now.
pub(crate) fn limit() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).current
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_and_connections_leave_files_to_the_storage() {
        for (open_files, partitions) in [
            (Some(0), 0),
            (Some(256), 42),
            (Some(1_024), 170),
            (Some(20_000), 4_333),
            (Some(524_288), MAX_PARTITIONS),
            (Some(u64::MAX), MAX_PARTITIONS),
            (None, MAX_PARTITIONS),
        ] {
            assert_eq!(max_partitions(open_files), partitions, "{open_files:?}");
        }
        assert!(check_partitions(100, 70, Some(1_024)).is_ok());
        assert!(check_partitions(100, 71, Some(1_024)).is_err());
        for (open_files, connections) in [
            (Some(0), 0),
            (Some(1_024), 256),
            (Some(20_000), 6_500),
            (Some(u64::MAX), MAX_CONNECTIONS as u64),
            (None, MAX_CONNECTIONS as u64),
        ] {
            assert_eq!(max_connections(open_files), connections, "{open_files:?}");
        }
        assert!(
            check_partitions(300, 0, Some(1_024)).is_ok(),
            "other changes go on"
        );
        assert!(!is_spare(767, Some(1_024)) && is_spare(768, Some(1_024)));
        assert!(!is_spare(19_499, Some(20_000)) && is_spare(19_500, Some(20_000)));
        assert!(!is_spare(i32::MAX, None));
    }
}
