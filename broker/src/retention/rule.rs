//! Which head segments of a log go when groups are done with them, and what of them is kept aside.
//! Pure.
//!
//! A segment goes if no stream group has to read it any more, and if what queue groups still need
//! of all that goes is little: at most one message in [`MESSAGES_FOR_ONE`], and no more than there
//! is room for aside. So one stuck message does not hold the disk, and a queue that is merely
//! behind is not moved out of its log.

use std::ops::Range;

use crate::queue::{offsets::Offsets, state::State};

/// So many messages have to go for one that is kept aside.
pub(super) const MESSAGES_FOR_ONE: u64 = 16;
/// The segment that is written to is closed for it from this size on, bytes.
pub(super) const CLOSE_FROM: u64 = 1 << 20;

/// A segment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Piece {
    /// The first offset behind it.
    pub(super) end: u64,
    pub(super) bytes: u64,
    pub(super) is_active: bool,
}

/// What groups need of a log.
#[derive(Debug, Clone)]
pub(super) struct Needs {
    /// Everything from here on is needed, or not looked at.
    known_to: u64,
    /// Below, these are.
    some: Offsets,
    /// More than so many are not looked at.
    most: u64,
    /// There are more.
    is_full: bool,
}

impl Needs {
    /// Nothing is needed below `end`; at most `most` messages can be.
    pub(super) fn new(end: u64, most: u64) -> Needs {
        Needs {
            known_to: end,
            some: Offsets::default(),
            most,
            is_full: false,
        }
    }

    /// Everything from an offset on.
    pub(super) fn add_all_from(&mut self, offset: u64) {
        if offset < self.known_to {
            self.know_to(offset);
            self.is_full = false;
        }
    }

    fn know_to(&mut self, offset: u64) {
        self.known_to = offset;
        self.some.remove_range(offset..u64::MAX);
    }

    /// What a queue has not finished from `start` on.
    pub(super) fn add_queue(&mut self, state: &State, start: u64) {
        let mut at = start;
        while let Some(run) = state.next_unfinished(at, self.known_to) {
            at = run.end;
            self.add(run);
        }
        let pending = state.dead_numbered_to() - state.dead_written_to();
        if pending > self.most {
            return self.know_to(start);
        }
        for (_, dead) in state.dead_letters(0) {
            if (start..self.known_to).contains(&dead.offset) {
                self.add(dead.offset..dead.offset + 1);
            }
        }
    }

    fn add(&mut self, run: Range<u64>) {
        let room = (self.most + 1).saturating_sub(self.some.count(0..run.start));
        let end = run.end.min(run.start.saturating_add(room));
        self.some.insert_range(run.start..end);
        while self.some.len() > self.most {
            // The last ones are not known then, and all behind them.
            let Some(last) = self.some.last() else { break };
            self.know_to(last);
            self.is_full = true;
        }
    }

    /// Those below an offset.
    pub(super) fn below(&self, offset: u64) -> Offsets {
        let mut below = self.some.clone();
        below.remove_range(offset..u64::MAX);
        below
    }

    /// The last that are known do not lie close together: stragglers, and no backlog.
    fn are_sparse(&self) -> bool {
        let many = (self.most / 2).max(1);
        self.count(self.known_to.saturating_sub(many)..self.known_to) < many
    }

    fn count(&self, range: Range<u64>) -> u64 {
        self.some.count(range)
    }
}

/// What comes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Reach {
    /// Where the log can begin.
    pub(super) to: Option<u64>,
    /// More could go if there were more room aside.
    pub(super) is_full: bool,
}

/// Where a log can begin that begins at `start`. `is_idle`: nothing was published for a while.
pub(super) fn reach(start: u64, pieces: &[Piece], needs: &Needs, is_idle: bool) -> Reach {
    let is_little = |to: u64| to > start && needs.count(start..to) * MESSAGES_FOR_ONE <= to - start;
    let can_go = |at: usize, piece: &Piece| {
        let from = at.checked_sub(1).map_or(start, |before| pieces[before].end);
        let is_done = needs.count(from.max(start)..piece.end) == 0;
        let closes = is_idle || (is_done && piece.bytes >= CLOSE_FROM);
        piece.end <= needs.known_to && is_little(piece.end) && (!piece.is_active || closes)
    };
    let mut able = pieces.iter().enumerate().filter(|(at, it)| can_go(*at, it));
    let to = able.next_back().map(|(_, piece)| piece.end);
    Reach {
        to,
        is_full: to.is_none() && needs.is_full && is_little(needs.known_to) && needs.are_sparse(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::single_range_in_vec_init,
        reason = "a list of runs has one at times"
    )]
    use super::*;
    use crate::queue::command::{Action, Batch, Command, Grant, Kind, Run, Verdict, Verdicts};

    const END: u64 = 400;

    /// Segments of 100 messages, of which the last is written to.
    fn pieces() -> Vec<Piece> {
        let piece = |n: u64| Piece {
            end: n * 100,
            bytes: CLOSE_FROM,
            is_active: n == 4,
        };
        (1..=4).map(piece).collect()
    }

    fn needs(some: &[Range<u64>], most: u64) -> Needs {
        let mut needs = Needs::new(END, most);
        some.iter().for_each(|run| needs.add(run.clone()));
        needs
    }

    fn to(some: &[Range<u64>], most: u64) -> Option<u64> {
        reach(0, &pieces(), &needs(some, most), false).to
    }

    #[test]
    fn what_is_done_goes_and_a_little_is_kept() {
        assert_eq!(to(&[], 10), Some(400));
        assert_eq!(to(&[5..6], 10), Some(400));
        assert_eq!(
            to(&[5..6, 399..400], 10),
            Some(300),
            "the last is worked on"
        );
        // 7 in the first 100 are too many there, but not of 200.
        assert_eq!(to(&[0..7], 10), Some(400));
        assert_eq!(to(&[0..7, 150..400], 1_000), None);
        assert_eq!(to(&[0..7, 250..400], 1_000), Some(200));
    }

    #[test]
    fn there_is_room_for_so_many_only() {
        let some = needs(&[5..6, 105..106, 205..206], 2);
        let found = reach(0, &pieces(), &some, false);
        assert_eq!((found.to, found.is_full), (Some(200), false));
        assert_eq!(Vec::from_iter(some.below(200).iter_from(0)), [5, 105]);
        let found = reach(0, &pieces(), &needs(&[50..51, 70..71, 90..91], 2), false);
        assert_eq!((found.to, found.is_full), (None, true));
    }

    #[test]
    fn a_long_backlog_is_not_looked_through() {
        let mut needs = Needs::new(u64::MAX - 1, 10);
        needs.add(50..u64::MAX - 1);
        assert_eq!((needs.known_to, needs.some.len()), (60, 10));
        assert!(
            !reach(0, &pieces(), &needs, false).is_full,
            "it is no straggler"
        );
    }

    #[test]
    fn streams_need_the_log() {
        let mut needs = needs(&[5..6], 10);
        needs.add_all_from(250);
        needs.add_all_from(280);
        assert_eq!(reach(0, &pieces(), &needs, false).to, Some(200));
        assert_eq!(reach(200, &pieces(), &needs, false).to, None);
    }

    #[test]
    fn a_small_last_segment_goes_when_nothing_comes() {
        let mut pieces = pieces();
        pieces[3].bytes = 10;
        let needs = needs(&[399..400], 10);
        assert_eq!(reach(300, &pieces, &needs, false).to, None);
        assert_eq!(reach(300, &pieces, &needs, true).to, Some(400));
        assert_eq!(reach(400, &pieces, &needs, true).to, None);
    }

    #[test]
    fn a_queue_needs_what_is_unfinished_and_dead_letters_without_a_copy() {
        let mut state = State::default();
        let mut apply = |kind| {
            let commands = vec![Command::new(kind)];
            let batch = Batch {
                now_ms: 1,
                commands,
                ..Batch::default()
            };
            state.apply(&batch, END);
        };
        apply(Kind::Begin(0));
        let runs = vec![Run {
            first: 0,
            count: 300,
        }];
        apply(Kind::Lease(Grant {
            consumer: 1,
            deadline_ms: 100,
            runs,
            epoch: 1,
        }));
        let verdict = |first, count, action| Verdict {
            first,
            count,
            lease: first + 1,
            action: Some(action),
        };
        let dead = Action::Dead(crate::queue::command::Death {
            reason: 3,
            ..Default::default()
        });
        let verdicts = vec![
            verdict(0, 7, Action::Ack(true)),
            verdict(7, 1, dead),
            verdict(8, 200, Action::Ack(true)),
        ];
        let consumer = None;
        apply(Kind::Settle(Verdicts { consumer, verdicts }));
        let needed = |state: &State| {
            let mut needs = Needs::new(END, 10);
            needs.add_queue(state, 0);
            Vec::from_iter(needs.below(210).iter_from(0))
        };
        assert_eq!(needed(&state), [7, 208, 209]);
        let written = Kind::DeadWritten(1);
        let commands = vec![Command::new(written)];
        let batch = Batch {
            now_ms: 1,
            commands,
            ..Batch::default()
        };
        state.apply(&batch, END);
        assert_eq!(needed(&state), [208, 209]);
    }
}
