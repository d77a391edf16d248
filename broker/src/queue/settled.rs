//! Which offsets of a queue are settled: a floor, and a set above it. Pure.
//!
//! ```text
//!  0 ········ floor ······························ high watermark
//!  all settled │ some settled (`above`), the others are unfinished
//! ```
//! The floor's own offset is never settled: it is the oldest unfinished one. The set is turned
//! into its smallest form now and then, so one message that stays unfinished costs little
//! however many are settled above it.

use std::ops::Range;

use super::offsets::Offsets;

/// Insertions above the floor before the set is turned into its smallest form; a sixty-fourth
/// of the set where that is more, so the work stays in proportion.
const OPTIMISE_EVERY: u64 = 1 << 20;

/// Settled offsets.
#[derive(Debug, Clone, Default)]
pub(crate) struct Settled {
    floor: u64,
    above: Offsets,
    /// Insertions since the set was last optimised; not part of the meaning.
    since: u64,
}

impl Settled {
    /// Everything below `floor` is settled, nothing else.
    pub(crate) fn new(floor: u64) -> Settled {
        Settled {
            floor,
            ..Settled::default()
        }
    }

    /// The oldest offset that is not settled.
    pub(crate) fn floor(&self) -> u64 {
        self.floor
    }

    pub(crate) fn contains(&self, offset: u64) -> bool {
        offset < self.floor || self.above.contains(offset)
    }

    /// How many offsets of the range are settled.
    pub(crate) fn count(&self, range: Range<u64>) -> u64 {
        let below = self.floor.clamp(range.start, range.end.max(range.start));
        below - range.start + self.above.count(below..range.end)
    }

    /// The first run of offsets in `range` that are not settled.
    pub(crate) fn next_gap(&self, range: Range<u64>) -> Option<Range<u64>> {
        let mut start = range.start.max(self.floor);
        while start < range.end {
            match self.above.run_from(start, u64::MAX) {
                Some(run) if run.start == start => start = run.end,
                Some(run) => return Some(start..run.start.min(range.end)),
                None => return Some(start..range.end),
            }
        }
        None
    }

    /// Settles a range.
    pub(crate) fn insert(&mut self, range: Range<u64>) {
        if range.start > self.floor {
            self.since += self.above.insert_range(range);
            if self.since >= OPTIMISE_EVERY.max(self.above.len() / 64) {
                self.above.optimise();
                self.since = 0;
            }
        } else if range.end > self.floor {
            self.above.remove_range(self.floor..range.end);
            self.floor = range.end;
            while self.above.contains(self.floor) {
                let Some(run) = self.above.take_run(u64::MAX) else {
                    return;
                };
                self.floor = run.end;
            }
        }
    }

    /// The set above the floor, for a checkpoint.
    pub(crate) fn save(&self, out: &mut Vec<u8>) {
        self.above.save(out);
    }

    /// The inverse of [`Settled::save`]; nothing if the bytes do not fit the floor.
    pub(crate) fn load(floor: u64, bytes: &[u8]) -> Option<Settled> {
        let above = Offsets::load(bytes)?;
        let fits = above.first().is_none_or(|first| first > floor) && above.last() < Some(u64::MAX);
        fits.then_some(Settled {
            floor,
            above,
            since: 0,
        })
    }

    /// Bytes that the set takes, about.
    #[cfg(test)]
    pub(crate) fn bytes(&self) -> usize {
        self.above.bytes()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};

    use super::*;

    #[test]
    fn the_floor_passes_what_is_settled() {
        let mut settled = Settled::new(10);
        settled.insert(12..14);
        settled.insert(15..16);
        assert_eq!(
            (settled.floor(), settled.next_gap(0..20)),
            (10, Some(10..12))
        );
        assert_eq!(settled.count(5..15), 7);
        settled.insert(10..12);
        assert_eq!(settled.floor(), 14);
        settled.insert(0..100);
        assert_eq!((settled.floor(), settled.next_gap(0..100)), (100, None));
    }

    #[test]
    fn it_agrees_with_a_plain_set() {
        let seed = super::super::testing::seed();
        for round in 0..200 {
            let mut random = StdRng::seed_from_u64(seed.wrapping_add(round));
            let start = random.random_range(0..3) * ((1 << 32) - 100);
            let mut settled = Settled::new(start);
            let mut model: BTreeSet<u64> = BTreeSet::new();
            for _ in 0..60 {
                let first = start + random.random_range(0..200);
                let count = random.random_range(0..12);
                settled.insert(first..first + count);
                model.extend(first..first + count);
                let floor = (start..).find(|o| !model.contains(o)).unwrap();
                assert_eq!(settled.floor(), floor);
                let probe = start + random.random_range(0..220);
                assert_eq!(settled.contains(probe), model.contains(&probe));
                let inside = model.range(start..probe).count() as u64;
                assert_eq!(settled.count(start..probe), inside);
                let gap = (start..probe).find(|o| !model.contains(o));
                assert_eq!(settled.next_gap(start..probe).map(|run| run.start), gap);
                if random.random_bool(0.1) {
                    let mut bytes = Vec::new();
                    settled.save(&mut bytes);
                    settled = Settled::load(settled.floor(), &bytes).unwrap();
                }
            }
        }
    }

    #[test]
    fn ten_million_with_nine_in_ten_settled_stay_small() {
        let mut random = StdRng::seed_from_u64(7);
        let mut order: Vec<u32> = (1..10_000_000).collect();
        order.shuffle(&mut random);
        let mut settled = Settled::default();
        for offset in &order[..9_000_000] {
            settled.insert(u64::from(*offset)..u64::from(*offset) + 1);
        }
        let mut bytes = Vec::new();
        settled.save(&mut bytes);
        println!("memory {} saved {}", settled.bytes(), bytes.len());
        assert!(settled.bytes() <= 2_000_000 && bytes.len() <= 2_000_000);
    }

    #[test]
    fn one_message_that_stays_unfinished_costs_little() {
        let mut settled = Settled::default();
        for first in (1..200_000_000).step_by(1000) {
            settled.insert(first..first + 1000);
        }
        assert!(settled.bytes() <= 1_000_000, "{}", settled.bytes());
    }
}
