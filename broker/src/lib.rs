//! The Aqueduct broker: one node, from its disk to its front doors. In reading order:
//!
//! - [`config`], [`limits`], [`error`]: what it is told, what it bounds, what it refuses
//! - [`node`]: puts everything together, starts, drains, stops; the only file that knows all
//! - `files`: what the limit of open files allows
//! - `topics`: which partitions there are, and the rules of changing that
//! - `partition`: one owner per partition; publish, apply, read
//! - `groups`: consumer groups: who has which partition, and what it is given
//! - `queue`: work queues: what is leased, retried, dead, and who is next; pure
//! - `work`: queue groups at work: a task for each, consumers, dead letters
//! - `dead`: dead letters: looked at, redriven, discarded
//! - `metadata`: what the cluster agrees on
//! - `raft`: replication; the only place that names openraft
//! - `grpc`, `http`: the front doors, on one port; they translate and hold no rules
//! - `telemetry`: a span for each request, for whoever wants it
//! - `metrics`: the node's numbers as Prometheus reads them
//! - [`testing`]: a broker inside your own tests

pub mod config;
pub mod error;
pub mod limits;
pub mod node;
pub mod testing;

mod clock;
mod dead;
mod files;
mod groups;
mod grpc;
mod http;
mod lanes;
mod listen;
mod metadata;
mod metrics;
mod partition;
mod publish;
mod queue;
mod raft;
mod reading;
mod retention;
mod schedules;
mod services;
mod shards;
mod slips;
mod stats;
mod telemetry;
mod topics;
mod work;

pub use raft::DEFAULT_LOG;
