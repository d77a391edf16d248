//! Crash after every call, also inside recovery; compare with what was acknowledged.

use aqueduct_storage::sim_disk::{Call, Chance, SimDisk};

use crate::seeds;
use crate::work::{Run, open, options};

const STEPS: usize = 70;

/// Works until the disk dies (or the work ends); the model says what must be found.
fn work_until_crash(seed: u64, crash_at: Option<u64>) -> (SimDisk, Run) {
    let disk = SimDisk::new(seed);
    if std::env::var("AQUEDUCT_VERBOSE").is_ok() {
        disk.start_trace();
    }
    if let Some(call) = crash_at {
        disk.crash_at(call);
    }
    let mut run = Run::new(seed);
    let options = options(&mut run.chance);
    if let Ok(store) = open(&disk, &options) {
        let outcome = run.work(&store, STEPS);
        if let Err(error) = &outcome {
            assert!(disk.is_dead(), "seed {seed}: {error}");
        } else if seed.is_multiple_of(2) {
            store.close();
        }
    }
    (disk, run)
}

/// Opens after a crash and compares; goes on working; crashes again and compares again.
fn check(seed: u64, call: u64, disk: &SimDisk, mut run: Run) {
    let mut chance = Chance::new(seed ^ (call << 20));
    for line in disk.trace() {
        eprintln!("{line}");
    }
    let keep = [0, 50, 100][chance.below(3) as usize];
    let mut disk = if chance.percent(20) {
        disk.kill()
    } else {
        disk.crash(keep)
    };
    // Recovery itself dies now and then.
    while chance.percent(50) {
        disk.crash_at(disk.calls() + 1 + chance.below(30));
        let _ = open(&disk, &options(&mut chance));
        disk = disk.crash([0, 50, 100][chance.below(3) as usize]);
    }
    if run.verbose {
        disk.start_trace();
    }
    let store = open(&disk, &options(&mut chance)).unwrap();
    run.model.check_recovered(&store);
    run.chance = chance.clone();
    run.next_id += 1000;
    run.work(&store, 25)
        .unwrap_or_else(|error| panic!("after recovery: {error}"));
    for line in disk.trace() {
        eprintln!("{line}");
    }
    let disk = disk.crash([0, 50, 100][chance.below(3) as usize]);
    drop(store);
    let store = open(&disk, &options(&mut chance)).unwrap();
    run.model.check_recovered(&store);
}

fn enumerate(seed: u64) {
    let (disk, run) = work_until_crash(seed, None);
    let calls = disk.calls();
    check(seed, 0, &disk, run);
    let only: Option<u64> = std::env::var("AQUEDUCT_CALL")
        .ok()
        .and_then(|call| call.parse().ok());
    for call in (1..=calls).filter(|call| only.is_none_or(|only| only == *call)) {
        let outcome = std::panic::catch_unwind(|| {
            let (disk, run) = work_until_crash(seed, Some(call));
            check(seed, call, &disk, run);
        });
        if let Err(panic) = outcome {
            eprintln!("seed {seed}, crash at call {call} of {calls}");
            std::panic::resume_unwind(panic);
        }
    }
}

/// Seeds and calls that found something once: what it was is in the commit that mended it.
#[test]
fn crashes_that_once_lost_something() {
    let found = [
        (4, 16),
        (4, 39),
        (10, 149),
        (19, 45),
        (19, 67),
        (20, 97),
        (20, 119),
        (22, 94),
        (22, 104),
        (23, 142),
        (29, 104),
        (30, 57),
    ];
    for (seed, call) in found {
        let (disk, run) = work_until_crash(seed, Some(call));
        check(seed, call, &disk, run);
    }
}

/// A sync fails, the process ends and starts again, and then the machine dies.
fn fail_then_crash(seed: u64, skip: u64) -> bool {
    let disk = SimDisk::new(seed);
    disk.fail(Call::Sync, skip);
    let mut run = Run::new(seed);
    let options = options(&mut run.chance);
    let Ok(store) = open(&disk, &options) else {
        return true;
    };
    let failed = run.work(&store, STEPS).is_err();
    let mut disk = disk.kill();
    for _ in 0..2 {
        let store = open(&disk, &options).unwrap();
        run.model.check_recovered(&store);
        disk = disk.crash(0);
    }
    let store = open(&disk, &options).unwrap();
    run.model.check_recovered(&store);
    failed
}

#[test]
fn a_failed_sync_loses_nothing_acknowledged() {
    for seed in seeds(6) {
        eprintln!("AQUEDUCT_SEED={seed}");
        let mut skip = 0;
        while fail_then_crash(seed, skip) {
            skip += 1;
        }
        assert!(skip > 20, "seed {seed}: {skip} syncs");
    }
}

#[test]
fn a_crash_after_any_call_loses_nothing_acknowledged() {
    for seed in seeds(3) {
        eprintln!("AQUEDUCT_SEED={seed}");
        enumerate(seed);
    }
}
