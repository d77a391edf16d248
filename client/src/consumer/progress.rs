//! What of one assignment was handed out, is done, and may be committed: pure.
//!
//! Promises: `done` is the end of the longest run of finished messages from the start on, so
//! committing it can never skip one; it never goes back; a place that holds no message (offsets
//! that were never handed out) does not hold it up.

use std::collections::BTreeMap;

/// Offsets are those of one partition, under one epoch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Progress {
    /// One past the last message handed out.
    taken: u64,
    /// Everything below is done.
    done: u64,
    /// Runs that are done above `done`: start to end, apart from each other.
    apart: BTreeMap<u64, u64>,
    /// What was last sent as a commit.
    asked: u64,
    /// What the broker has.
    committed: u64,
}

impl Progress {
    pub(super) fn new(position: u64) -> Self {
        Self {
            taken: position,
            done: position,
            apart: BTreeMap::new(),
            asked: position,
            committed: position,
        }
    }

    /// Messages up to this one are handed out now; those that were passed over are no messages.
    pub(super) fn take(&mut self, first: u64, next: u64) {
        if first > self.taken {
            self.finish(self.taken, first);
        }
        self.taken = self.taken.max(next);
    }

    /// These are done, whatever is before them.
    pub(super) fn finish(&mut self, from: u64, until: u64) {
        let (mut from, mut until) = (from.max(self.done), until);
        if from >= until {
            return;
        }
        // Joined with every run that it touches.
        while let Some((&start, &end)) = self.apart.range(..=until).next_back() {
            if end < from {
                break;
            }
            from = from.min(start);
            until = until.max(end);
            self.apart.remove(&start);
        }
        if from <= self.done {
            self.done = until;
        } else {
            self.apart.insert(from, until);
        }
    }

    /// All below is done; true if that was handed out.
    pub(super) fn finish_through(&mut self, next: u64) -> bool {
        if next > self.taken {
            return false;
        }
        self.finish(self.done, next);
        true
    }

    pub(super) fn taken(&self) -> u64 {
        self.taken
    }

    pub(super) fn committed(&self) -> u64 {
        self.committed
    }

    /// Messages handed out from the first one on that is not done.
    pub(super) fn open(&self) -> u64 {
        self.taken - self.done.min(self.taken)
    }

    /// True if everything that was handed out is done.
    pub(super) fn is_idle(&self) -> bool {
        self.done >= self.taken
    }

    /// What should be committed, if there is something new.
    pub(super) fn due(&self) -> Option<u64> {
        (self.done > self.asked).then_some(self.done)
    }

    pub(super) fn ask(&mut self) {
        self.asked = self.done;
    }

    /// The last commit did not go through; the same may be asked again.
    pub(super) fn ask_again(&mut self) {
        self.asked = self.committed;
    }

    /// The broker has this position.
    pub(super) fn confirm(&mut self, position: u64) {
        self.committed = self.committed.max(position);
        self.asked = self.committed;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

    use super::*;

    #[test]
    fn a_gap_holds_up_what_is_behind_it() {
        let mut progress = Progress::new(10);
        progress.take(10, 15);
        progress.finish(12, 13);
        progress.finish(10, 11);
        assert_eq!((progress.done, progress.open()), (11, 4));
        progress.finish(11, 12);
        assert_eq!(progress.done, 13);
        progress.finish(14, 15);
        progress.finish(13, 14);
        assert!(progress.is_idle());
        assert_eq!(progress.due(), Some(15));
        progress.ask();
        assert_eq!(progress.due(), None);
        progress.ask_again();
        assert_eq!(progress.due(), Some(15));
        progress.confirm(15);
        assert_eq!((progress.due(), progress.committed()), (None, 15));
    }

    #[test]
    fn offsets_without_a_message_hold_nothing_up() {
        let mut progress = Progress::new(0);
        progress.take(5, 6);
        assert_eq!(progress.done, 5);
        progress.finish(5, 6);
        progress.take(9, 10);
        assert_eq!(progress.done, 9);
        assert!(!progress.finish_through(11), "not handed out");
        assert!(progress.finish_through(10));
        assert!(
            progress.finish_through(3),
            "an old place is done long since"
        );
        assert_eq!(progress.done, 10);
    }

    /// Against the plain way: a set of every finished offset.
    #[test]
    fn any_order_gives_the_longest_run() {
        let seed = std::env::var("AQUEDUCT_SEED").ok();
        let seed = seed.and_then(|seed| seed.parse().ok());
        let seed: u64 = seed.unwrap_or_else(rand::random);
        println!("AQUEDUCT_SEED={seed}");
        let mut random = StdRng::seed_from_u64(seed);
        for _ in 0..300 {
            let start = random.random_range(0..50);
            let mut progress = Progress::new(start);
            let (mut set, mut taken) = (BTreeSet::new(), start);
            for _ in 0..80 {
                if random.random_bool(0.5) {
                    let hole = if random.random_bool(0.1) {
                        random.random_range(0..3)
                    } else {
                        0
                    };
                    let next = taken + hole + random.random_range(1..5);
                    progress.take(taken + hole, next);
                    set.extend(taken..taken + hole);
                    taken = next;
                } else if taken > start {
                    let from = random.random_range(start..taken);
                    let until = random.random_range(from..=taken);
                    progress.finish(from, until);
                    set.extend(from..until);
                }
                let run = (start..).find(|offset| !set.contains(offset));
                assert_eq!(Some(progress.done), run);
                assert_eq!(progress.is_idle(), run >= Some(taken));
                let apart = progress.apart.iter().map(|(start, end)| end - start);
                let above = set.iter().filter(|offset| **offset >= progress.done);
                assert_eq!(apart.sum::<u64>(), above.count() as u64);
            }
        }
    }
}
