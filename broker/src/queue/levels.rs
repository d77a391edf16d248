//! Messages that are ready, by priority, and which priority is next. Pure.
//!
//! - `Off`: one line, in order of offsets.
//! - `Strict`: the highest priority that has messages.
//! - `Weighted`: rounds. In a round, priority `p` may hand out [`weight`]`(p)` = (p + 1)²
//!   messages, highest priority first; a new round begins when every priority that has messages
//!   has used its share. A round is at most 385 hand-outs, so a message that is the first of
//!   its priority waits for at most 770 others, whatever is published above it.

use std::ops::Range;

use super::{offsets::Offsets, policy::Priorities};

/// Priorities 0 to 9.
pub(crate) const LEVELS: usize = 10;
/// The priority of a message that does not say.
pub(crate) const DEFAULT_PRIORITY: u8 = 4;

/// Hand-outs of a priority in a round.
pub(crate) const fn weight(priority: usize) -> u64 {
    (priority as u64 + 1) * (priority as u64 + 1)
}

/// Ready messages.
#[derive(Debug, Default)]
pub(super) struct Levels {
    mode: Priorities,
    lines: [Offsets; LEVELS],
    /// What is left of the round.
    left: [u64; LEVELS],
    len: u64,
}

impl Levels {
    pub(super) fn new(mode: Priorities) -> Levels {
        Levels {
            mode,
            ..Levels::default()
        }
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    pub(super) fn insert(&mut self, offset: u64, priority: u8) {
        self.len += u64::from(self.lines[usize::from(priority)].insert(offset));
    }

    pub(super) fn insert_range(&mut self, range: Range<u64>) {
        self.len += self.lines[usize::from(DEFAULT_PRIORITY)].insert_range(range);
    }

    /// Whether it was there.
    pub(super) fn remove(&mut self, offset: u64, priority: u8) -> bool {
        let removed = self.lines[usize::from(priority)].remove(offset);
        self.len -= u64::from(removed);
        removed
    }

    /// Removes a range from all lines.
    pub(super) fn remove_range(&mut self, range: &Range<u64>) {
        for line in &mut self.lines {
            self.len -= line.remove_range(range.clone());
        }
    }

    /// Takes the next run, at most `max` messages, with its priority.
    pub(super) fn take_run(&mut self, max: u64) -> Option<(Range<u64>, u8)> {
        let level = self.choose()?;
        let max = match self.mode {
            Priorities::Weighted => max.min(self.left[level]),
            Priorities::Off | Priorities::Strict => max,
        };
        let run = self.lines[level].take_run(max)?;
        self.len -= run.end - run.start;
        Some((run, level as u8))
    }

    /// Messages of this priority were handed out, and count for the round.
    pub(super) fn charge(&mut self, priority: u8, count: u64) {
        let left = &mut self.left[usize::from(priority)];
        *left = left.saturating_sub(count);
    }

    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.lines.iter().map(Offsets::bytes).sum()
    }

    fn choose(&mut self) -> Option<usize> {
        let has = |level: &usize| !self.lines[*level].is_empty();
        let mut ready = (0..LEVELS).rev().filter(has);
        match self.mode {
            Priorities::Off | Priorities::Strict => ready.next(),
            Priorities::Weighted => {
                let highest = ready.next()?;
                let in_round = (0..LEVELS)
                    .rev()
                    .filter(has)
                    .find(|level| self.left[*level] > 0);
                Some(in_round.unwrap_or_else(|| {
                    self.left = std::array::from_fn(weight);
                    highest
                }))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hand_out(levels: &mut Levels, max: u64) -> Option<(u64, u8)> {
        let (run, priority) = levels.take_run(max)?;
        levels.charge(priority, run.end - run.start);
        Some((run.end - run.start, priority))
    }

    #[test]
    fn strict_goes_from_high_to_low() {
        let mut levels = Levels::new(Priorities::Strict);
        levels.insert(1, 0);
        levels.insert(2, 9);
        levels.insert_range(3..5);
        let order: Vec<_> = std::iter::from_fn(|| hand_out(&mut levels, 10)).collect();
        assert_eq!(order, [(1, 9), (2, 4), (1, 0)]);
        assert_eq!(levels.len(), 0);
    }

    #[test]
    fn weighted_keeps_its_shares_and_its_bound() {
        let mut levels = Levels::new(Priorities::Weighted);
        for offset in 0..20_000u64 {
            levels.insert(offset, (offset % 10) as u8);
        }
        let (mut given, mut since) = ([0u64; LEVELS], [0u64; LEVELS]);
        for _ in 0..3_850 {
            let (count, priority) = hand_out(&mut levels, 1).unwrap();
            given[usize::from(priority)] += count;
            since.iter_mut().for_each(|waited| *waited += 1);
            since[usize::from(priority)] = 0;
            assert!(since.iter().all(|waited| *waited <= 770));
        }
        let shares: [u64; LEVELS] = std::array::from_fn(|level| weight(level) * 10);
        assert_eq!(given, shares);
    }
}
