//! openraft's own storage suite on our log store, over the real disk and the simulated one.

use std::sync::Arc;

use aqueduct_storage::{
    Store, StoreOptions,
    disk::{Disk, RealDisk},
    sim_disk::SimDisk,
};
use openraft::{
    StorageError,
    testing::log::{StoreBuilder, Suite},
};
use tempfile::TempDir;

use super::{
    engine::{Data, Reply},
    log_store::LogStore,
    machine::{Adapter, Machine},
    types::TypeConfig,
};

struct Nothing;

impl Machine for Nothing {
    fn apply(&mut self, _data: &Data) -> Reply {
        Reply::Done
    }
    fn applied(&mut self) {}
    fn checkpoint(&self) -> Vec<u8> {
        Vec::new()
    }
    fn restore(&mut self, _state: &[u8]) -> std::io::Result<()> {
        Ok(())
    }
    fn next_offset(&self) -> u64 {
        0
    }
}

/// What must live as long as the log store: the open store, and its directory if it has one.
struct Guard {
    store: Store,
    _dir: Option<TempDir>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.store.close();
    }
}

struct OnDisk {
    real: bool,
}

impl StoreBuilder<TypeConfig, LogStore, Adapter<Nothing>, Guard> for OnDisk {
    async fn build(&self) -> Result<(Guard, LogStore, Adapter<Nothing>), StorageError<TypeConfig>> {
        let (disk, dir): (Arc<dyn Disk>, _) = if self.real {
            let dir = TempDir::new().expect("a temporary directory can be made");
            (
                Arc::new(RealDisk::new(dir.path()).expect("the directory opens")),
                Some(dir),
            )
        } else {
            (Arc::new(SimDisk::new(7)), None)
        };
        let options = StoreOptions {
            min_free_bytes: 0,
            ..StoreOptions::default()
        };
        let store = Store::open(disk, options).expect("an empty store opens");
        let log = store
            .create_logs(&[1])
            .expect("a log can be made")
            .remove(0);
        let log_store = LogStore::new(log.clone());
        let adapter = Adapter::open(Nothing, log, log_store.tail()).expect("the machine opens");
        Ok((Guard { store, _dir: dir }, log_store, adapter))
    }
}

fn run(real: bool) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let suite = Suite::test_all(OnDisk { real });
    runtime
        .expect("a runtime starts")
        .block_on(suite)
        .expect("the suite passes");
}

#[test]
fn openraft_suite_on_the_real_disk() {
    run(true);
}

#[test]
fn openraft_suite_on_the_simulated_disk() {
    run(false);
}
