//! What becomes of a queue when the log's start moves. Pure.
//!
//! Below the log's start nothing can be read any more but the messages that the partition keeps
//! aside. So there everything is settled that is not kept; what is kept stays as it is: lease,
//! attempts, retry time.
//!
//! Which messages are kept is the partition's to know (it has their records); a queue is told, and
//! has to be told again after it was loaded.

use std::ops::Range;

use super::{
    events::Event, leased::Leases, offsets::Offsets, pages::Visit, record::Record,
    settled::Settled, state::State,
};
use crate::limits::MAX_KEPT_MESSAGES;

impl State {
    /// A queue that has not begun, of a log that begins here.
    pub(crate) fn of_log(log_start: u64, kept: &Offsets) -> State {
        State {
            trimmed_to: log_start,
            kept: kept.clone(),
            ..State::default()
        }
    }

    /// The log begins at `log_start` now, and of what lies below only `kept` is left. All else
    /// there is settled, whatever its phase was, and counted as trimmed if it was unfinished.
    pub(crate) fn trim(&mut self, log_start: u64, kept: &Offsets) -> Vec<Event> {
        self.trimmed_to = self.trimmed_to.max(log_start);
        self.kept = kept.clone();
        let mut events = Vec::new();
        if !self.begun {
            return events;
        }
        for hole in holes(&self.kept, self.settled.floor()..self.trimmed_to) {
            if hole.start == self.settled.floor() {
                self.lose(hole.clone());
                events.push(Event::Trimmed { to: hole.end });
                continue;
            }
            let mut at = hole.start;
            while let Some(run) = self.settled.next_gap(at..hole.end) {
                at = run.end;
                events.push(Event::Dropped { run });
            }
            self.lose(hole);
        }
        events
    }

    fn lose(&mut self, run: Range<u64>) {
        let lost = (run.end - run.start) - self.settled.count(run.clone());
        if lost == 0 {
            return;
        }
        self.counters.trimmed += lost;
        let mut ended = Leases::default();
        self.open.visit(run.clone(), |offset, packed| {
            ended.note(offset, &Record::from(*packed));
            Visit::Remove
        });
        self.leased.end(ended);
        let mut from_here = self.errors.split_off(&run.start);
        let mut behind = from_here.split_off(&run.end);
        self.errors.append(&mut behind);
        self.histories.settle(run.clone());
        self.settled.insert(run);
    }

    /// Everything is settled that lies below `offset` or cannot be read; nothing else.
    pub(super) fn settled_from(&self, offset: u64) -> Settled {
        let mut settled = Settled::new(offset);
        for hole in holes(&self.kept, offset..self.trimmed_to) {
            settled.insert(hole);
        }
        settled
    }

    /// Whether a message of the range is needed that is not excepted: it is unfinished, or a dead
    /// letter whose copy is not written.
    pub(crate) fn needs_in(&self, range: Range<u64>, is_excepted: impl Fn(u64) -> bool) -> bool {
        let mut at = range.start;
        while let Some(mut run) = self.settled.next_gap(at..range.end) {
            at = run.end;
            if !run.all(&is_excepted) {
                return true;
            }
        }
        let is_needed = |offset| range.contains(&offset) && !is_excepted(offset);
        self.dead_letters(0).any(|(_, dead)| is_needed(dead.offset))
    }

    /// Those of `offsets` that are needed.
    pub(crate) fn needed_of(&self, offsets: &Offsets, needed: &mut Offsets) {
        for offset in offsets.iter_from(0) {
            if !self.settled.contains(offset) {
                needed.insert(offset);
            }
        }
        let pending = self.dead_numbered_to() - self.dead_written_to();
        if pending > MAX_KEPT_MESSAGES {
            // Too many to look at: they leave soon, and until then all are needed.
            offsets.iter_from(0).for_each(|offset| {
                needed.insert(offset);
            });
            return;
        }
        for (_, dead) in self.dead_letters(0) {
            if offsets.contains(dead.offset) {
                needed.insert(dead.offset);
            }
        }
    }

    /// The first message of the range that is needed.
    pub(crate) fn first_needed(&self, range: Range<u64>) -> Option<u64> {
        let unfinished = self.settled.next_gap(range.clone()).map(|run| run.start);
        let dead = self.dead_letters(0).map(|(_, dead)| dead.offset);
        let dead = dead.filter(|offset| range.contains(offset));
        unfinished.into_iter().chain(dead).min()
    }

    /// Unfinished messages below the log's start: all of them are kept aside.
    pub(super) fn unfinished_aside(&self) -> u64 {
        self.unfinished(self.settled.floor()..self.trimmed_to)
    }
}

/// The parts of a range that have no offset of the set.
fn holes(set: &Offsets, range: Range<u64>) -> Vec<Range<u64>> {
    let mut holes = Vec::new();
    let mut at = range.start;
    while at < range.end {
        let next = set.run_from(at, u64::MAX).unwrap_or(range.end..range.end);
        if at < next.start {
            holes.push(at..next.start.min(range.end));
        }
        at = next.end;
    }
    holes
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::single_range_in_vec_init,
        reason = "a list of runs has one at times"
    )]
    use super::*;

    #[test]
    fn holes_are_what_is_not_in_the_set() {
        let mut set = Offsets::default();
        set.insert_range(3..5);
        set.insert(8);
        assert_eq!(holes(&set, 0..10), [0..3, 5..8, 9..10]);
        assert_eq!(holes(&set, 3..9), [5..8]);
        assert_eq!(holes(&set, 4..4), []);
        assert_eq!(holes(&Offsets::default(), 2..4), [2..4]);
    }
}
