//! What retention took before a pulling member came to it, until the member is known to have been
//! told: pure.
//!
//! A skip is told with the partition's assignment, one per partition in an answer, and counts as
//! told when that answer has arrived. Until then it is told again, also when the partition was
//! claimed anew meanwhile.

use std::collections::BTreeMap;

use super::terms::Assignment;

/// Skips of one partition that may wait; of more the oldest are forgotten.
const WAITING: usize = 16;

/// From, and to (exclusive).
type Range = (u64, u64);

/// The skips of one member, by partition, in order.
#[derive(Debug, Default)]
pub(super) struct Skips {
    waiting: BTreeMap<u32, Vec<Range>>,
    /// In the answer that was made last.
    told: BTreeMap<u32, Range>,
}

impl Skips {
    /// The member was assigned these.
    pub(super) fn note(&mut self, assignments: &[Assignment]) {
        for assignment in assignments {
            if let Some(skipped) = assignment.skipped {
                let waiting = self.waiting.entry(assignment.partition).or_default();
                push(waiting, skipped);
            }
        }
    }

    /// The member does not have these any more.
    pub(super) fn forget(&mut self, partitions: &[u32]) {
        for partition in partitions {
            self.waiting.remove(partition);
            self.told.remove(partition);
        }
    }

    /// The last answer has arrived.
    pub(super) fn arrived(&mut self) {
        self.told.clear();
    }

    /// The last answer has not arrived.
    pub(super) fn lost(&mut self) {
        for (partition, told) in std::mem::take(&mut self.told) {
            let waiting = self.waiting.entry(partition).or_default();
            for later in std::mem::replace(waiting, vec![told]) {
                push(waiting, later);
            }
        }
    }

    /// Writes what is to be told into the assignments of an answer.
    pub(super) fn tell(&mut self, assignments: &mut [Assignment]) {
        for assignment in assignments {
            let Some(waiting) = self.waiting.get_mut(&assignment.partition) else {
                continue;
            };
            let skipped = waiting.remove(0);
            if waiting.is_empty() {
                self.waiting.remove(&assignment.partition);
            }
            assignment.skipped = Some(skipped);
            self.told.insert(assignment.partition, skipped);
        }
    }
}

/// What goes on where the last one ended is one skip with it.
fn push(waiting: &mut Vec<Range>, skipped: Range) {
    match waiting.last_mut() {
        Some(last) if skipped.0 <= last.1 => last.1 = last.1.max(skipped.1),
        _ => waiting.push(skipped),
    }
    if waiting.len() > WAITING {
        waiting.remove(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assigned(epoch: u64, skipped: Option<Range>) -> [Assignment; 1] {
        [Assignment {
            partition: 3,
            epoch,
            position: 0,
            skipped,
        }]
    }

    fn told(skips: &mut Skips, epoch: u64) -> Option<Range> {
        let mut standing = assigned(epoch, None);
        skips.tell(&mut standing);
        standing[0].skipped
    }

    #[test]
    fn a_skip_is_told_until_the_answer_arrives() {
        let mut skips = Skips::default();
        skips.note(&assigned(1, Some((5, 9))));
        for _ in 0..2 {
            assert_eq!(told(&mut skips, 1), Some((5, 9)));
            skips.lost();
        }
        assert_eq!(told(&mut skips, 1), Some((5, 9)));
        skips.arrived();
        assert_eq!(told(&mut skips, 1), None);
    }

    #[test]
    fn a_skip_outlives_the_assignment_that_it_came_with() {
        let mut skips = Skips::default();
        skips.note(&assigned(1, Some((5, 9))));
        assert_eq!(told(&mut skips, 1), Some((5, 9)));
        skips.lost();
        // Claimed anew: the position has moved behind it, so nobody else says it again.
        skips.note(&assigned(2, None));
        assert_eq!(told(&mut skips, 2), Some((5, 9)));
    }

    #[test]
    fn skips_are_told_one_after_the_other_or_as_one() {
        let mut skips = Skips::default();
        skips.note(&assigned(1, Some((5, 9))));
        assert_eq!(told(&mut skips, 1), Some((5, 9)));
        skips.note(&assigned(2, Some((12, 20))));
        skips.lost();
        skips.note(&assigned(3, Some((20, 30))));
        assert_eq!(
            told(&mut skips, 3),
            Some((5, 9)),
            "10 and 11 were delivered"
        );
        skips.arrived();
        assert_eq!(told(&mut skips, 3), Some((12, 30)));
        skips.forget(&[3]);
        skips.lost();
        assert_eq!(told(&mut skips, 3), None, "somebody else's");
    }

    #[test]
    fn what_waits_is_bounded() {
        let mut skips = Skips::default();
        for n in 0..100 {
            skips.note(&assigned(n, Some((10 * n, 10 * n + 5))));
        }
        assert_eq!(skips.waiting[&3].len(), WAITING);
        assert_eq!(told(&mut skips, 100), Some((840, 845)));
    }
}
