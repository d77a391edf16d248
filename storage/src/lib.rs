//! One node's disk: segments, logs, the shared redo journal, recovery and retention.
//!
//! What is promised: an entry whose completion was called with `Ok` is on stable storage; published
//! bytes never change; a torn tail is cut, rot is reported and never cut away, a foreign directory
//! is refused; a failed write or sync is never retried and closes the store.
//! What this crate must never know: Raft, gRPC, tokio, topics, consumers. It knows logs by number.

mod append;
mod checkpoint;
mod cut;
pub mod disk;
mod drain;
pub mod entry;
pub mod error;
mod index;
mod journal;
mod locate;
pub mod log;
mod log_recovery;
pub mod map;
mod node;
mod pool;
pub mod read;
mod recovery;
pub mod retention;
mod scan;
mod segment;
#[cfg(feature = "sim")]
pub mod sim_disk;
mod state_file;
pub mod store;
mod sync_engine;
mod windows;

pub use entry::{Done, Entry, EntryId, Kind, NewEntry, RaftId, stored_len};
pub use error::{Error, ReadError};
pub use log::{Checkpoint, Damage, Log, SegmentFacts};
pub use read::{BlockingRead, ReadPlan};
pub use store::{Store, StoreOptions, StoreStats};
pub use sync_engine::SYNC_BOUNDS_US;
