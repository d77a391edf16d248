//! Fuzz: every decoder and the recovery of arbitrary bytes, without a nightly compiler.
//!
//! A target is a function of bytes that must not panic, hang, or allocate more than its
//! limits allow. Inputs are mutations of good ones (bits flipped, spans cut, doubled,
//! overwritten with interesting numbers) and plain noise; all follow from a seed.
//! `smoke` runs every target for a moment; `chosen` runs the one named by `AQUEDUCT_FUZZ`
//! for `AQUEDUCT_FUZZ_SECONDS`; `canary` proves that a target that panics is noticed.
//! A failing input is printed in hexadecimal: make it a case of the decoder's own tests.
#![allow(clippy::unwrap_used, reason = "tests")]

mod mutate;
mod store;
mod targets;
mod watchdog;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::{Duration, Instant},
};

use aqueduct_tests::Seed;

use crate::{mutate::Mutator, targets::Target, watchdog::Watchdog};

/// Runs a target until the time is up; the number of inputs it was given.
fn run(target: &dyn Target, seed: Seed, budget: Duration) -> Result<u64, String> {
    let start = Instant::now();
    let mut mutator = Mutator::new(seed, target.samples());
    let watchdog = Watchdog::start();
    let mut count = 0;
    while start.elapsed() < budget {
        let input = mutator.next_input();
        let what = format!("target {}, seed {}, input {count}", target.name(), seed.0);
        watchdog.begin(&what, &input);
        if catch_unwind(AssertUnwindSafe(|| target.run(&input))).is_err() {
            return Err(format!("{what} failed: {}", hex(&input)));
        }
        count += 1;
    }
    Ok(count)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn smoke() {
    let seed = Seed::from_env();
    for target in targets::all() {
        let count = run(target.as_ref(), seed, Duration::from_secs(2)).unwrap();
        println!("{}: {count} inputs", target.name());
        assert!(count > 0);
    }
}

/// `just fuzz NAME SEED`. Without a name there is nothing to do.
#[test]
fn chosen() {
    let Ok(name) = std::env::var("AQUEDUCT_FUZZ") else {
        return;
    };
    let seconds = std::env::var("AQUEDUCT_FUZZ_SECONDS").map_or(60, |text| text.parse().unwrap());
    let all = targets::all();
    let names: Vec<&str> = all.iter().map(|target| target.name()).collect();
    let target = all.iter().find(|target| target.name() == name);
    let target = target.unwrap_or_else(|| panic!("no target {name:?}; there are {names:?}"));
    let count = run(
        target.as_ref(),
        Seed::from_env(),
        Duration::from_secs(seconds),
    )
    .unwrap();
    println!("{name}: {count} inputs");
}

/// A target that panics on some inputs must be found out, or the others prove nothing.
#[test]
fn canary() {
    let why = run(&targets::Canary, Seed(1), Duration::from_secs(30)).unwrap_err();
    assert!(why.contains("target canary, seed 1"), "{why}");
}
