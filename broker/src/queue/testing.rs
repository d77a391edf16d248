//! The seed of the queue's random tests. Only in tests.

/// `AQUEDUCT_SEED`, or one of the clock's; printed either way.
pub(super) fn seed() -> u64 {
    let seed = match std::env::var("AQUEDUCT_SEED") {
        Ok(text) if text != "random" => text.parse().expect("AQUEDUCT_SEED is a number"),
        _ => rand::random(),
    };
    println!("AQUEDUCT_SEED={seed}");
    seed
}
