//! Sets of offsets, small where offsets lie close together. Pure.
//!
//! A thin cover over a roaring bitmap that speaks in half-open runs, so that no caller handles
//! inclusive ends or the bitmap's own errors. It knows nothing of messages.

use std::ops::Range;

use roaring::RoaringTreemap;

/// From this length on a run is asked for as a whole, which walks to its end however far that
/// is; a shorter one is counted offset by offset.
const WHOLE_RUNS_FROM: u64 = 1_024;

/// A set of offsets.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Offsets {
    set: RoaringTreemap,
    /// How many are in the set, which the bitmap would count anew each time.
    len: u64,
}

impl Offsets {
    pub(crate) fn insert(&mut self, offset: u64) -> bool {
        let is_new = self.set.insert(offset);
        self.len += u64::from(is_new);
        is_new
    }

    /// Returns how many of the range were not in the set.
    pub(crate) fn insert_range(&mut self, range: Range<u64>) -> u64 {
        let added = match range.end.saturating_sub(range.start) {
            0 => 0,
            1 => u64::from(self.set.insert(range.start)),
            _ => self.set.insert_range(range),
        };
        self.len += added;
        added
    }

    pub(crate) fn remove(&mut self, offset: u64) -> bool {
        let was_there = self.set.remove(offset);
        self.len -= u64::from(was_there);
        was_there
    }

    /// Returns how many of the range were in the set.
    pub(crate) fn remove_range(&mut self, range: Range<u64>) -> u64 {
        let removed = match range.end.saturating_sub(range.start) {
            0 => 0,
            1 => u64::from(self.set.remove(range.start)),
            _ => self.set.remove_range(range),
        };
        self.len -= removed;
        removed
    }

    pub(crate) fn contains(&self, offset: u64) -> bool {
        self.set.contains(offset)
    }

    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.set.is_empty()
    }

    pub(crate) fn first(&self) -> Option<u64> {
        self.set.min()
    }

    pub(crate) fn last(&self) -> Option<u64> {
        self.set.max()
    }

    /// How many offsets of the range are in the set.
    pub(crate) fn count(&self, range: Range<u64>) -> u64 {
        match range.end.saturating_sub(range.start) {
            0 => 0,
            1 => u64::from(self.set.contains(range.start)),
            _ if self.set.is_empty() => 0,
            _ => self.set.range_cardinality(range),
        }
    }

    /// The offsets at and after `from`, in order.
    pub(crate) fn iter_from(&self, from: u64) -> impl Iterator<Item = u64> + '_ {
        let mut offsets = self.set.iter();
        offsets.advance_to(from);
        offsets
    }

    /// The first run at or after `from`, cut after `max` offsets. Two runs may touch.
    pub(crate) fn run_from(&self, from: u64, max: u64) -> Option<Range<u64>> {
        let (high, low) = ((from >> 32) as u32, from as u32);
        for (key, bitmap) in self.set.bitmaps() {
            if key < high {
                continue;
            }
            let mut offsets = bitmap.range(if key == high { low } else { 0 }..);
            let (first, mut count) = if max < WHOLE_RUNS_FROM {
                let Some(first) = offsets.next() else {
                    continue;
                };
                (first, 1)
            } else {
                let Some(run) = offsets.next_range() else {
                    continue;
                };
                (
                    *run.start(),
                    (u64::from(run.end() - run.start()) + 1).min(max),
                )
            };
            if max < WHOLE_RUNS_FROM {
                let mut next = |count| {
                    offsets
                        .next()
                        .is_some_and(|o| u64::from(o - first) == count)
                };
                while count < max && next(count) {
                    count += 1;
                }
            }
            let first = u64::from(key) << 32 | u64::from(first);
            return Some(first..first + count);
        }
        None
    }

    /// Takes the lowest run out, at most `max` offsets of it.
    pub(crate) fn take_run(&mut self, max: u64) -> Option<Range<u64>> {
        let run = self.run_from(0, max)?;
        self.remove_range(run.clone());
        Some(run)
    }

    /// Chooses the smallest form for each part.
    pub(crate) fn optimise(&mut self) {
        self.set.optimize();
    }

    /// Memory about as large as this, and the bytes of [`Offsets::save`].
    #[cfg(test)]
    pub(crate) fn bytes(&self) -> usize {
        self.set.serialized_size()
    }

    /// Appends the set in the portable roaring format.
    pub(crate) fn save(&self, out: &mut Vec<u8>) {
        let mut smallest = self.set.clone();
        smallest.optimize();
        // A vector takes everything.
        let _ = smallest.serialize_into(out);
    }

    /// The inverse of [`Offsets::save`]; nothing if the bytes are not a set. What it allocates
    /// is bounded by the bytes that are there.
    pub(crate) fn load(bytes: &[u8]) -> Option<Offsets> {
        let mut rest = bytes;
        let set = RoaringTreemap::deserialize_from(&mut rest).ok()?;
        let len = set.len();
        rest.is_empty().then_some(Offsets { set, len })
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

    use super::*;

    #[test]
    fn runs_come_in_order_and_are_cut() {
        let mut set = Offsets::default();
        set.insert_range(5..8);
        set.insert(3);
        set.insert_range((1 << 32) - 1..(1 << 32) + 1);
        assert_eq!(set.len(), 6);
        assert_eq!(set.run_from(4, 2), Some(5..7));
        assert_eq!(set.run_from(9, 9), Some((1 << 32) - 1..1 << 32));
        assert_eq!(set.take_run(9), Some(3..4));
        assert_eq!(set.take_run(9), Some(5..8));
        assert_eq!(set.remove_range(0..u64::MAX), 2);
        assert_eq!(set.take_run(1), None);
    }

    #[test]
    fn it_knows_how_many_it_holds() {
        let mut random = StdRng::seed_from_u64(super::super::testing::seed());
        let mut set = Offsets::default();
        for _ in 0..5_000 {
            let first =
                random.random_range(0..3_u64) * ((1 << 32) - 50) + random.random_range(0..99);
            let range = first..first + random.random_range(0..20);
            match random.random_range(0..5) {
                0 => drop(set.insert(first)),
                1 => drop(set.remove(first)),
                2 => drop(set.insert_range(range)),
                3 => drop(set.remove_range(range)),
                _ => drop(set.take_run(9)),
            }
            assert_eq!(set.len(), set.set.len());
        }
    }

    #[test]
    fn a_set_survives_save_and_load_and_garbage_is_refused() {
        let mut set = Offsets::default();
        set.insert_range(10..100_000);
        set.insert(1 << 40);
        let mut bytes = Vec::new();
        set.save(&mut bytes);
        assert_eq!(Offsets::load(&bytes).unwrap().len(), set.len());
        assert!(Offsets::load(&bytes[..bytes.len() - 1]).is_none());
        assert!(Offsets::load(&[0xff; 64]).is_none());
    }
}
