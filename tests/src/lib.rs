//! The harness of Aqueduct's tests.
//!
//! What lives here: the real binary as a child process (`process`), its command line
//! (`cli`), a raw gRPC channel to it (`grpc`), real input (`input`), what clients saw
//! (`history`) and what must hold of it (`checker`), the same of queue groups (`queue`),
//! seeds (`seed`).
//!
//! What it promises: every process it starts is ended when its handle is dropped, also
//! when a test panics; every wait has an end; every random choice follows from a seed
//! that is printed and can be given again by `AQUEDUCT_SEED`.
//!
//! What it must never know: anything of the broker's inside. It sees what a user sees:
//! a command line, an address, a data directory.
#![allow(
    clippy::unwrap_used,
    reason = "a harness stops the test at the first surprise"
)]

pub mod checker;
pub mod cli;
pub mod grpc;
pub mod history;
pub mod http;
pub mod input;
pub mod member;
pub mod process;
pub mod queue;
pub mod seed;

pub use checker::check_publish_history;
pub use cli::{Cli, Finished};
pub use history::{Acknowledged, Stored};
pub use process::Process;
pub use seed::Seed;
