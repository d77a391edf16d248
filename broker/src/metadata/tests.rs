//! Room for commands on a disk that is nearly full.
#![allow(clippy::unwrap_used, reason = "tests")]

use aqueduct_storage::{Store, StoreOptions, disk::RealDisk};
use futures::{StreamExt as _, stream};

use super::*;

/// Commands take the room of their entries and no more: what was reserved for each is given back.
/// With twice the room of their entries, these would not fit the one segment that there is space for.
#[tokio::test]
async fn room_that_was_reserved_for_commands_is_given_back() {
    const COMMANDS: usize = 10_000;
    let dir = tempfile::tempdir().unwrap();
    let options = StoreOptions {
        // The first journal file, the first segment, and not enough for another one of it.
        max_total_bytes: Some((2 << 20) + (1 << 20) + (512 << 10)),
        ..StoreOptions::default()
    };
    let disk = RealDisk::new(dir.path()).unwrap();
    let store = Store::open(Arc::new(disk), options).unwrap();
    let log = store.create_logs(&[METADATA_GROUP]).unwrap().pop().unwrap();
    let metadata = Metadata::start(log, Clock::default()).await.unwrap();
    let proposed = stream::iter(0..COMMANDS)
        .map(|_| metadata.propose(Change::InitProducer(String::new())))
        .buffered(256)
        .filter(|outcome| std::future::ready(outcome.is_err()));
    let refused: Vec<_> = proposed.collect().await;
    assert!(refused.is_empty(), "{:?}", refused.first());
    metadata.shutdown().await;
    store.close();
}
