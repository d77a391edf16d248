//! Work queues: the pure core. Decides everything, does nothing.
//!
//! One [`state::State`] and, on the leader, one [`schedule::Schedule`] for each queue group and
//! partition:
//!
//! ```text
//!        commands (entries of the partition's log)           the log itself
//!                      │                                          │ scan
//!                      ▼                                          ▼
//!   State ── replies ──▶ callers        State ── events ──▶ Schedule ── next() ──▶ leases
//!   replicated: leases, attempts,       derived, leader only: order, delays, priorities,
//!   retry times, settled, dead          keys, time to live
//! ```
//! - [`command`]: what lies in the log. Whoever proposes has resolved the [`policy`] before.
//! - [`parcel`], [`outbox`]: what is published together with verdicts.
//! - [`state`], with verdicts, dropping, trimming, the saved form and the [`view`] of it apart.
//! - [`schedule`], with keys, [`levels`] of priority and what it follows apart.
//! - [`policy`], its [`fields`], [`filter`], [`rate`]: rules without memory, or nearly.
//! - [`settled`], [`offsets`], [`pages`], [`record`], [`history`]: small forms of large sets.
//!
//! Nothing here knows a clock, chance, I/O, tasks, payloads or the network: time and jitter are
//! arguments. Same entries, same state.

pub(crate) mod command;
pub(crate) mod dropping;
pub(crate) mod events;
pub(crate) mod fields;
pub(crate) mod filter;
mod following;
pub(crate) mod history;
mod keys;
pub(crate) mod known;
mod leased;
pub(crate) mod levels;
#[cfg(test)]
mod model;
pub(crate) mod offsets;
pub(crate) mod outbox;
pub(crate) mod pages;
pub(crate) mod parcel;
pub(crate) mod policy;
pub(crate) mod rate;
pub(crate) mod record;
pub(crate) mod saved;
pub(crate) mod schedule;
pub(crate) mod settled;
#[cfg(test)]
mod sizes;
mod spans;
pub(crate) mod state;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
pub(crate) mod time;
#[cfg(test)]
mod trial;
mod trimming;
pub(crate) mod verdicts;
pub(crate) mod view;
mod waiting;
