//! Queue groups as their consumers saw them, and what must hold of that.
//!
//! What lives here: the events of a run (`history`), what may have become of a lease
//! (`fates`), the rules (`check`, with `keys` and `letters`), and consumers over raw gRPC
//! that note everything (`worker`).
//!
//! What it promises: the checks are pure and never guess. A verdict without an answer is
//! *unknown* and may have been taken or not; whatever fits any of the possible fates is
//! allowed, and everything else is a violation, told in words with its events.
//!
//! What it must never know: how the broker does it.

mod check;
mod fates;
pub mod history;
mod keys;
mod letters;
#[cfg(test)]
mod planted;
pub mod worker;

pub use check::{Facts, Summary, check};
pub use history::{
    Backoff, Clock, Given, History, KeyOrder, Letter, Moment, Outcome, Rules, Said, Word,
};
