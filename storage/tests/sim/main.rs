//! The store on a simulated disk: model runs, crash enumeration, faults.
//!
//! Random tests print their seed; `AQUEDUCT_SEED` repeats one.

#![allow(clippy::unwrap_used, reason = "tests")]

mod crash;
mod faults;
mod lost;
mod model;
mod work;

/// Seeds of a test: the one that is asked for, or this many.
fn seeds(count: u64) -> Vec<u64> {
    match std::env::var("AQUEDUCT_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
    {
        Some(seed) => vec![seed],
        None => (1..=count).collect(),
    }
}
