//! What earlier looks at a partition found: since when messages are done, and whether anything
//! comes. Pure.
//!
//! Only in memory: after a restart it begins anew, which keeps messages longer and never shorter.
//!
//! - A message that is unfinished in a segment that could go is kept aside only if the look before
//!   found the same, so that what is just being worked on is not moved.
//! - With a window, messages stay so long after a look found them done: those of a segment in the
//!   log, the unfinished ones aside, until for each of them a look has found so.

use std::collections::{BTreeMap, VecDeque};

use crate::queue::offsets::Offsets;

/// Looks that are remembered; when there are so many, every second is forgotten, which keeps
/// messages a little longer.
const LOOKS: usize = 256;
/// Nothing comes if nothing was published for so long.
const IDLE_MS: i64 = 60_000;

/// What one look found.
#[derive(Debug, Clone)]
struct Look {
    at_ms: i64,
    /// The log could begin here.
    to: u64,
    /// These below were needed.
    needed: Offsets,
}

/// Where the log is to begin.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Wanted {
    pub(super) to: u64,
    /// Kept although nobody needs them any more: they were done too recently.
    pub(super) recent: Offsets,
}

/// The looks at one partition.
#[derive(Debug, Default)]
pub(super) struct Watch {
    looks: VecDeque<Look>,
    /// Changes with every seek.
    epochs: u64,
    /// Since when a message that is kept aside is needed by nobody.
    done_since: BTreeMap<u64, i64>,
    /// The log's end, and since when it is that.
    end: Option<(u64, i64)>,
    /// When somebody was told last that there is no room aside.
    warned_ms: Option<i64>,
}

impl Watch {
    /// Whether nothing was published for a while, if the log ends here now.
    pub(super) fn is_idle(&mut self, now_ms: i64, end: u64) -> bool {
        match self.end {
            Some((known, since_ms)) if known == end => now_ms - since_ms >= IDLE_MS,
            _ => {
                self.end = Some((end, now_ms));
                false
            }
        }
    }

    /// A look found that the log could begin at `to`, with these kept aside.
    pub(super) fn note(&mut self, now_ms: i64, epochs: u64, to: Option<u64>, needed: &Offsets) {
        if self.epochs != epochs {
            self.looks.clear();
            self.epochs = epochs;
        }
        let to = to.unwrap_or(0);
        while self.looks.back().is_some_and(|look| look.to > to) {
            self.looks.pop_back();
        }
        let is_new = self.looks.back().is_none_or(|look| look.to < to);
        if self.looks.len() >= LOOKS {
            let mut stays = false;
            self.looks.retain(|_| {
                stays = !stays;
                stays
            });
        }
        if to > 0 && is_new {
            let needed = needed.clone();
            self.looks.push_back(Look {
                at_ms: now_ms,
                to,
                needed,
            });
        }
    }

    /// Where the log is to begin now; looks that are of no use any more are forgotten.
    pub(super) fn wanted(&mut self, now_ms: i64, window_ms: i64, start: u64) -> Option<Wanted> {
        while self.looks.front().is_some_and(|look| look.to <= start) {
            self.looks.pop_front();
        }
        let is_ripe = |look: &&Look| {
            let is_sure = look.at_ms < now_ms || look.needed.is_empty();
            is_sure && now_ms - look.at_ms >= window_ms
        };
        let look = self.looks.iter().rev().find(is_ripe)?;
        let recent = match window_ms {
            0 => Offsets::default(),
            _ => look.needed.clone(),
        };
        Some(Wanted {
            to: look.to,
            recent,
        })
    }

    /// Of what is kept aside, in order and with whether somebody needs it: what can be dropped.
    pub(super) fn droppable(
        &mut self,
        now_ms: i64,
        window_ms: i64,
        kept: impl Iterator<Item = (u64, bool)>,
    ) -> Vec<u64> {
        let before = std::mem::take(&mut self.done_since);
        let mut droppable = Vec::new();
        for (offset, is_needed) in kept {
            if is_needed {
                continue;
            }
            let since_ms = before.get(&offset).copied().unwrap_or(now_ms);
            self.done_since.insert(offset, since_ms);
            if now_ms - since_ms >= window_ms {
                droppable.push(offset);
            }
        }
        droppable
    }

    /// Whether to say something again that is true for longer.
    pub(super) fn warns(&mut self, now_ms: i64) -> bool {
        const EVERY_MS: i64 = 600_000;
        let warns = self
            .warned_ms
            .is_none_or(|at_ms| now_ms - at_ms >= EVERY_MS);
        if warns {
            self.warned_ms = Some(now_ms);
        }
        warns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(offsets: &[u64]) -> Offsets {
        let mut set = Offsets::default();
        for offset in offsets {
            set.insert(*offset);
        }
        set
    }

    fn to(watch: &mut Watch, now_ms: i64, window_ms: i64) -> Option<u64> {
        watch.wanted(now_ms, window_ms, 0).map(|wanted| wanted.to)
    }

    #[test]
    fn what_is_done_goes_at_once_and_stragglers_are_looked_at_twice() {
        let mut watch = Watch::default();
        watch.note(10, 1, Some(100), &set(&[]));
        assert_eq!(to(&mut watch, 10, 0), Some(100));
        watch.note(20, 1, Some(200), &set(&[150]));
        assert_eq!(to(&mut watch, 20, 0), Some(100));
        watch.note(30, 1, Some(200), &set(&[150]));
        let wanted = watch.wanted(30, 0, 100).unwrap();
        assert_eq!(
            wanted,
            Wanted {
                to: 200,
                recent: set(&[])
            }
        );
        assert_eq!(watch.wanted(31, 0, 200), None);
    }

    #[test]
    fn with_a_window_everything_stays_so_long() {
        let mut watch = Watch::default();
        watch.note(0, 1, Some(100), &set(&[5]));
        watch.note(50, 1, Some(200), &set(&[]));
        assert_eq!(to(&mut watch, 99, 100), None);
        let wanted = watch.wanted(100, 100, 0).unwrap();
        assert_eq!(
            wanted,
            Wanted {
                to: 100,
                recent: set(&[5])
            }
        );
        assert_eq!(to(&mut watch, 150, 100), Some(200));
        let kept = |is_needed| [(5, is_needed)].into_iter();
        assert!(watch.droppable(150, 100, kept(true)).is_empty());
        assert!(watch.droppable(160, 100, kept(false)).is_empty());
        assert_eq!(watch.droppable(260, 100, kept(false)), [5]);
        assert!(watch.droppable(270, 100, kept(true)).is_empty());
        assert!(
            watch.droppable(280, 100, kept(false)).is_empty(),
            "since 280"
        );
    }

    #[test]
    fn what_is_not_done_any_more_does_not_count() {
        let mut watch = Watch::default();
        watch.note(0, 1, Some(100), &set(&[]));
        watch.note(10, 1, None, &set(&[]));
        watch.note(20, 1, Some(100), &set(&[]));
        assert_eq!(to(&mut watch, 105, 100), None);
        watch.note(110, 2, Some(100), &set(&[]));
        assert_eq!(to(&mut watch, 125, 100), None, "a seek came between");
        assert_eq!(to(&mut watch, 210, 100), Some(100));
    }

    #[test]
    fn idle_is_what_does_not_move() {
        let mut watch = Watch::default();
        assert!(!watch.is_idle(0, 5));
        assert!(watch.is_idle(IDLE_MS, 5));
        assert!(!watch.is_idle(IDLE_MS + 1, 6));
    }
}
