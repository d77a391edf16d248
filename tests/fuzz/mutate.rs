//! Mutation of inputs: small, seeded, and fond of the numbers that decoders trip over.

use aqueduct_tests::Seed;
use rand::{Rng as _, rngs::StdRng, seq::IndexedRandom as _};

/// Inputs never grow beyond this.
const MAX_INPUT: usize = 64 << 10;

/// Lengths and counts that are just too much, just too little, or negative.
const INTERESTING: [u64; 10] = [
    0,
    1,
    0x7f,
    0x80,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    u64::MAX / 2,
    u64::MAX,
];

/// Makes inputs from samples.
pub(crate) struct Mutator {
    rng: StdRng,
    samples: Vec<Vec<u8>>,
}

impl Mutator {
    pub(crate) fn new(seed: Seed, samples: Vec<Vec<u8>>) -> Mutator {
        Mutator {
            rng: seed.rng(),
            samples,
        }
    }

    /// A sample with one to eight mutations, or now and then plain noise.
    pub(crate) fn next_input(&mut self) -> Vec<u8> {
        if self.samples.is_empty() || self.rng.random_ratio(1, 50) {
            let length = self.rng.random_range(0..400);
            return (0..length).map(|_| self.rng.random()).collect();
        }
        let mut bytes = self.samples.choose(&mut self.rng).unwrap().clone();
        for _ in 0..self.rng.random_range(1..=8) {
            self.mutate(&mut bytes);
        }
        bytes.truncate(MAX_INPUT.max(self.samples.iter().map(Vec::len).max().unwrap_or(0)));
        bytes
    }

    fn mutate(&mut self, bytes: &mut Vec<u8>) {
        if bytes.is_empty() {
            bytes.push(self.rng.random());
            return;
        }
        // Headers decide most, so half of all mutations hit the first hundred bytes.
        let reach = if self.rng.random() {
            bytes.len()
        } else {
            bytes.len().min(100)
        };
        let at = self.rng.random_range(0..reach);
        let end = (at + self.rng.random_range(1..64)).min(bytes.len());
        match self.rng.random_range(0..7) {
            0 => bytes[at] ^= 1 << self.rng.random_range(0..8),
            1 => bytes[at] = self.rng.random(),
            2 => bytes.truncate(at),
            3 => drop(bytes.drain(at..end)),
            4 => {
                let span = bytes[at..end].to_vec();
                bytes.splice(at..at, span);
            }
            5 => self.rng.fill(&mut bytes[at..end]),
            _ => self.write_number(bytes, at),
        }
    }

    fn write_number(&mut self, bytes: &mut [u8], at: usize) {
        let number = INTERESTING.choose(&mut self.rng).unwrap();
        let width = *[1, 2, 4, 8].choose(&mut self.rng).unwrap();
        let all = if self.rng.random() {
            number.to_be_bytes()
        } else {
            number.to_le_bytes()
        };
        let end = (at + width).min(bytes.len());
        bytes[at..end].copy_from_slice(&all[..end - at]);
    }
}
