//! Where delivery of a partition begins for a group. Pure.
//!
//! In this order: the committed (or sought) position; the end or place that was pinned when a group
//! that starts there was created; the group's start policy. A position that retention has
//! overtaken is the overrun policy's matter.

use super::terms::{Found, LostReason};
use crate::metadata::groups::{Group, StartAt};

/// What of a partition is kept: first offset, and the next to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) start: u64,
    pub(crate) end: u64,
}

/// The group's own position: committed, sought or pinned.
pub(super) fn position(group: &Group, partition: u32, stored: Option<u64>) -> Option<u64> {
    stored.or_else(|| group.pinned.get(partition as usize).copied())
}

/// Where a member begins. `cursor`: where it stood, if it was consuming already.
pub(super) fn begin(
    group: &Group,
    partition: u32,
    stored: Option<u64>,
    cursor: Option<u64>,
    kept: Kept,
) -> Found {
    let Some(position) = position(group, partition, stored).or(cursor) else {
        return match group.start() {
            // Nothing was pinned, so the partition is younger than the group: all of it is new.
            StartAt::Earliest | StartAt::Latest | StartAt::Pinned => at(kept.start),
            StartAt::Refuse => Found::Stuck(LostReason::NoPosition),
        };
    };
    if position >= kept.start {
        return at(position.min(kept.end));
    }
    let jump = |to| Found::At {
        position: to,
        skipped: Some((position, to)),
    };
    match group.overrun() {
        StartAt::Earliest | StartAt::Pinned => jump(kept.start),
        StartAt::Latest => jump(kept.end),
        StartAt::Refuse => Found::Stuck(LostReason::Overrun),
    }
}

fn at(position: u64) -> Found {
    Found::At {
        position,
        skipped: None,
    }
}

/// The first offset that counts as lag.
pub(crate) fn lag_from(group: &Group, partition: u32, stored: Option<u64>, kept: Kept) -> u64 {
    position(group, partition, stored)
        .unwrap_or(kept.start)
        .clamp(kept.start, kept.end)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEPT: Kept = Kept { start: 10, end: 20 };

    fn group(start: StartAt, overrun: StartAt, pinned: &[u64]) -> Group {
        Group {
            start: start as i32,
            overrun: overrun as i32,
            pinned: pinned.to_vec(),
            ..Group::default()
        }
    }

    #[test]
    fn every_way_to_begin() {
        use StartAt::{Earliest, Latest, Pinned, Refuse};
        let jumped = |from, to| Found::At {
            position: to,
            skipped: Some((from, to)),
        };
        let stuck = Found::Stuck;
        let cases = [
            (Earliest, Earliest, &[][..], None, None, at(10)),
            (Earliest, Refuse, &[], Some(15), None, at(15)),
            (Latest, Earliest, &[18], None, None, at(18)),
            (Latest, Earliest, &[18], Some(12), None, at(12)),
            (Latest, Earliest, &[3], None, None, jumped(3, 10)),
            (Latest, Latest, &[], None, None, at(10)),
            (Pinned, Earliest, &[13], None, None, at(13)),
            (Pinned, Latest, &[3], None, None, jumped(3, 20)),
            (Pinned, Latest, &[], None, None, at(10)),
            (
                Refuse,
                Latest,
                &[],
                None,
                None,
                stuck(LostReason::NoPosition),
            ),
            (Refuse, Latest, &[], Some(20), None, at(20)),
            (Refuse, Latest, &[], Some(9), None, jumped(9, 20)),
            (
                Earliest,
                Refuse,
                &[],
                Some(9),
                Some(9),
                stuck(LostReason::Overrun),
            ),
            (Earliest, Earliest, &[], None, Some(7), jumped(7, 10)),
        ];
        for (start, overrun, pinned, stored, cursor, expected) in cases {
            let group = group(start, overrun, pinned);
            let found = begin(&group, 0, stored, cursor, KEPT);
            assert_eq!(found, expected, "{group:?} {stored:?} {cursor:?}");
        }
    }

    #[test]
    fn lag_counts_what_is_kept() {
        let group = group(StartAt::Earliest, StartAt::Earliest, &[]);
        let lag_from = |stored| lag_from(&group, 0, stored, KEPT);
        assert_eq!((lag_from(None), lag_from(Some(3))), (10, 10));
        assert_eq!((lag_from(Some(12)), lag_from(Some(20))), (12, 20));
    }
}
