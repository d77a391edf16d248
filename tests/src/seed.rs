//! Seeds: one number from which a run's random choices follow.
//!
//! A run prints its seed, so a failing one can be replayed with `AQUEDUCT_SEED=<number>`.

use rand::{SeedableRng as _, rngs::StdRng};

/// The seed of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seed(pub u64);

impl Seed {
    /// The seed given by `AQUEDUCT_SEED`, else a fresh one; printed either way.
    ///
    /// # Panics
    /// If `AQUEDUCT_SEED` is neither a number nor `random`.
    #[must_use]
    pub fn from_env() -> Seed {
        let seed = match std::env::var("AQUEDUCT_SEED") {
            Ok(text) if text != "random" => text.parse().unwrap_or_else(|_| {
                panic!("AQUEDUCT_SEED must be a number or \"random\", not {text:?}")
            }),
            _ => rand::random(),
        };
        println!("AQUEDUCT_SEED={seed}");
        Seed(seed)
    }

    /// A generator for this seed.
    #[must_use]
    pub fn rng(self) -> StdRng {
        StdRng::seed_from_u64(self.0)
    }

    /// Another seed, that follows from this one and a number.
    #[must_use]
    pub fn child(self, n: u64) -> Seed {
        // SplitMix64's step: neighbouring numbers give unrelated seeds.
        let mut z = self.0.wrapping_add(n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Seed(z ^ (z >> 31))
    }
}
