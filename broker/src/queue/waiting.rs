//! Messages of a schedule that wait for a time, by one of two clocks. Pure.
//!
//! Each can be found by its offset and taken out, so nothing of one that is gone or was moved
//! stays behind.

use std::collections::BTreeSet;

use super::{
    pages::{Pages, Visit},
    time::{Next, Now},
};

/// Until when a message waits, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Until {
    Steady(i64),
    Wall(i64),
}

/// An [`Until`] in 8 bytes: the lowest bit is the clock. A time that far ahead that its highest bit
/// is lost is kept as the greatest that is not.
#[derive(Debug, Clone, Copy)]
struct Packed(i64);

const GREATEST_MS: i64 = i64::MAX >> 1;
const LEAST_MS: i64 = i64::MIN >> 1;

fn bounded(at_ms: i64) -> i64 {
    at_ms.clamp(LEAST_MS, GREATEST_MS)
}

impl From<Until> for Packed {
    fn from(until: Until) -> Packed {
        match until {
            Until::Steady(at_ms) => Packed(bounded(at_ms) << 1),
            Until::Wall(at_ms) => Packed(bounded(at_ms) << 1 | 1),
        }
    }
}

impl From<Packed> for Until {
    fn from(Packed(packed): Packed) -> Until {
        match packed & 1 {
            0 => Until::Steady(packed >> 1),
            _ => Until::Wall(packed >> 1),
        }
    }
}

/// Messages that wait.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    steady: BTreeSet<(i64, u64)>,
    wall: BTreeSet<(i64, u64)>,
    until: Pages<Packed>,
}

impl Waiting {
    /// A message waits until then, and for nothing else.
    pub(super) fn insert(&mut self, offset: u64, until: Until) {
        self.remove(offset);
        let packed = Packed::from(until);
        self.until.insert(offset, packed);
        match Until::from(packed) {
            Until::Steady(at_ms) => self.steady.insert((at_ms, offset)),
            Until::Wall(at_ms) => self.wall.insert((at_ms, offset)),
        };
    }

    /// Whether it did wait.
    pub(super) fn remove(&mut self, offset: u64) -> bool {
        match self.until.remove(offset).map(Until::from) {
            Some(Until::Steady(at_ms)) => self.steady.remove(&(at_ms, offset)),
            Some(Until::Wall(at_ms)) => self.wall.remove(&(at_ms, offset)),
            None => false,
        }
    }

    /// Forgets all below an offset.
    pub(super) fn trim(&mut self, to: u64) {
        let Waiting {
            steady,
            wall,
            until,
        } = self;
        until.visit(0..to, |offset, packed| {
            match Until::from(*packed) {
                Until::Steady(at_ms) => steady.remove(&(at_ms, offset)),
                Until::Wall(at_ms) => wall.remove(&(at_ms, offset)),
            };
            Visit::Remove
        });
    }

    /// Takes out one whose time has come: those of the steady clock first, each in order.
    pub(super) fn pop(&mut self, now: Now) -> Option<(u64, Until)> {
        let first = |set: &BTreeSet<(i64, u64)>, now_ms: i64| {
            let first = set.first().copied();
            first.filter(|(at_ms, _)| *at_ms <= now_ms)
        };
        let (offset, until) = if let Some(due) = first(&self.steady, now.steady_ms) {
            self.steady.remove(&due);
            (due.1, Until::Steady(due.0))
        } else {
            let due = first(&self.wall, now.wall_ms)?;
            self.wall.remove(&due);
            (due.1, Until::Wall(due.0))
        };
        self.until.remove(offset);
        Some((offset, until))
    }

    /// Whether the time of any has come.
    pub(super) fn is_any_due(&self, now: Now) -> bool {
        let next = self.next();
        let is_due = |at_ms: Option<i64>, now_ms: i64| at_ms.is_some_and(|at_ms| at_ms <= now_ms);
        is_due(next.steady_ms, now.steady_ms) || is_due(next.wall_ms, now.wall_ms)
    }

    /// When the next times come.
    pub(super) fn next(&self) -> Next {
        Next {
            steady_ms: self.steady.first().map(|(at_ms, _)| *at_ms),
            wall_ms: self.wall.first().map(|(at_ms, _)| *at_ms),
        }
    }

    /// How many wait for a time that has not come.
    pub(super) fn count(&self, now: Now) -> u64 {
        let waiting = |set: &BTreeSet<(i64, u64)>, now_ms: i64| {
            let is_late = |(at_ms, _): &&(i64, u64)| *at_ms <= now_ms;
            set.len() - set.iter().take_while(is_late).count()
        };
        (waiting(&self.steady, now.steady_ms) + waiting(&self.wall, now.wall_ms)) as u64
    }

    /// Those that wait by the wall clock, in order, from this time and offset on.
    pub(super) fn by_wall(&self, from: (i64, u64)) -> impl Iterator<Item = (i64, u64)> + '_ {
        self.wall.range(from..).copied()
    }

    /// Bytes that they take, about.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        (self.steady.len() + self.wall.len()) * 32 + self.until.bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            command::{Batch, Command, Delay, Kind},
            known::Attributes,
            schedule::{Rules, Schedule, WOKEN_AT_A_TIME},
            state::State,
            view::Standing,
        },
        *,
    };

    const COUNT: u64 = 25_000;

    /// Messages that are all delayed to the time 1,000.
    fn delayed() -> (State, Schedule) {
        let mut state = State::default();
        apply(&mut state, Kind::Begin(0));
        let mut schedule = Schedule::new(Rules::default(), &state);
        for offset in 0..COUNT {
            let attributes = Attributes {
                delay_until_ms: Some(1_000),
                ..Attributes::default()
            };
            schedule.scanned(offset, &attributes, Standing::Fresh);
        }
        (state, schedule)
    }

    fn apply(state: &mut State, kind: Kind) -> Vec<super::super::events::Event> {
        let batch = Batch {
            now_ms: 0,
            commands: vec![Command::new(kind)],
            ..Batch::default()
        };
        state.apply(&batch, COUNT).events
    }

    #[test]
    fn what_comes_due_at_once_is_woken_in_pieces_and_all_of_it() {
        let (_, mut schedule) = delayed();
        assert!(schedule.next(Now::both(999), COUNT).is_empty());
        let mut looks = Vec::new();
        while schedule.in_flight() < COUNT {
            let before = schedule.in_flight();
            assert!(!schedule.next(Now::both(1_000), COUNT).is_empty());
            looks.push((schedule.in_flight() - before) as usize);
        }
        assert_eq!(looks, [WOKEN_AT_A_TIME, WOKEN_AT_A_TIME, 5_000]);
        let (_, mut schedule) = delayed();
        assert!(schedule.wake(Now::both(1_000)) && schedule.wake(Now::both(1_000)));
        assert!(!schedule.wake(Now::both(1_000)));
        assert_eq!(schedule.ready(), COUNT);
    }

    #[test]
    fn moved_messages_come_at_their_new_time_and_once() {
        let (mut state, mut schedule) = delayed();
        for offset in 0..COUNT {
            let delay = Delay {
                offset,
                until_ms: 2_000 + (offset % 2) as i64 * 1_000,
                epoch: state.epoch(),
            };
            let events = apply(&mut state, Kind::Delay(delay));
            events.iter().for_each(|event| schedule.follow(event));
        }
        let count_due = |schedule: &mut Schedule, now_ms| {
            while schedule.wake(Now::both(now_ms)) {}
            schedule.ready()
        };
        assert_eq!(count_due(&mut schedule, 1_999), 0);
        assert_eq!(schedule.delayed(Now::both(1_999)), COUNT);
        assert_eq!(count_due(&mut schedule, 2_000), COUNT / 2);
        assert_eq!(count_due(&mut schedule, 3_000), COUNT);
        assert_eq!(schedule.next_due(), Next::default());
    }

    #[test]
    fn what_was_moved_or_taken_out_leaves_nothing_behind() {
        let mut waiting = Waiting::default();
        waiting.insert(1, Until::Wall(10));
        waiting.insert(2, Until::Wall(20));
        waiting.insert(3, Until::Steady(5));
        waiting.insert(1, Until::Wall(30));
        assert!(waiting.remove(3) && !waiting.remove(3));
        assert_eq!(waiting.count(Now::both(0)), 2);
        assert_eq!(
            waiting.by_wall((0, 0)).collect::<Vec<_>>(),
            [(20, 2), (30, 1)]
        );
        assert_eq!(waiting.pop(Now::both(19)), None);
        assert_eq!(waiting.pop(Now::both(20)), Some((2, Until::Wall(20))));
        assert!(!waiting.is_any_due(Now::both(29)) && waiting.is_any_due(Now::both(30)));
        waiting.trim(2);
        assert_eq!(waiting.next(), Next::default());
        assert_eq!(waiting.until.len(), 0);
    }

    #[test]
    fn times_of_all_kinds_come_back() {
        for at_ms in [i64::MIN, -1, 0, 1, 1 << 48, i64::MAX] {
            for until in [Until::Steady(at_ms), Until::Wall(at_ms)] {
                let mut waiting = Waiting::default();
                waiting.insert(7, until);
                assert!(waiting.remove(7));
                assert_eq!(waiting.next(), Next::default());
            }
        }
    }
}
