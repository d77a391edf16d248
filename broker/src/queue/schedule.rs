//! What to hand out next: the leader's derived half of a queue. Pure, and never replicated.
//!
//! It is built from the replicated state and a scan of the log in order of offsets, and kept
//! true by the events of applied commands. Losing it loses nothing: it is built again.
//!
//! ```text
//!  scan ─▶ ready ──next()──▶ in flight ──┬─ done, dead
//!     │      ▲  ▲  ▲            │        ├─ released ─▶ ready
//!     │      │  │  └── called ──┤        └─ retry ────▶ due
//!     │      │  │     key's line◀── key is busy
//!     ├────▶ due (delays, retries), when the time has come
//!     └────▶ leaving: expired(), unmatched(), parked() ──dropped
//! ```
//! A message is in exactly one place. `next()` and the three that make messages leave take them
//! out of their places at once, so nothing is offered twice while a proposal is on its way; what
//! was not proposed or not applied is given back.
//!
//! Whoever drives it gives it all events in order, and all of them before it scans on or asks
//! for more. It must never know payloads, consumers or policies of failure.

use std::{collections::BTreeSet, ops::Range};

use super::{
    keys::{Gate, Keys},
    known::{Attributes, Known, Place},
    levels::{DEFAULT_PRIORITY, Levels},
    offsets::Offsets,
    pages::Pages,
    policy::{OnKeyFailure, Order, Policy, Priorities},
    record::Phase,
    state::State,
    time::{Next, Now},
    view::Standing,
    waiting::{Until, Waiting},
};

/// Messages that one look makes ready: a million that come due at once must not hold the lock.
pub(crate) const WOKEN_AT_A_TIME: usize = 10_000;

/// Ready messages to know ahead, where more are not needed for the order.
pub(crate) const WINDOW: u64 = 1_000_000;

/// What of a policy shapes the order of hand-outs. A changed one needs a new schedule.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Rules {
    pub(crate) order: Order,
    pub(crate) on_key_failure: OnKeyFailure,
    pub(crate) priorities: Priorities,
    /// Messages in flight; 0 = no limit.
    pub(crate) group_limit: u64,
    /// Messages of one key in flight; 0 = no limit.
    pub(crate) key_limit: u64,
}

impl From<&Policy> for Rules {
    fn from(policy: &Policy) -> Rules {
        Rules {
            order: policy.order,
            on_key_failure: policy.on_key_failure,
            priorities: policy.priorities,
            group_limit: policy.max_in_flight.group,
            key_limit: policy.max_in_flight.key,
        }
    }
}

/// The order of one queue.
#[derive(Debug)]
pub(crate) struct Schedule {
    pub(super) rules: Rules,
    /// Everything below is settled.
    pub(super) floor: u64,
    /// Everything below is known here.
    pub(super) scanned_to: u64,
    /// Before that nothing is handed out: messages in flight and holders of keys lie below.
    pub(super) scan_first: u64,
    pub(super) ready: Levels,
    /// Messages that have anything of their own to remember: key, priority, time to live. In a
    /// key's line only those with a time to live are kept.
    pub(super) known: Pages<Known>,
    pub(super) keys: Keys,
    /// When messages are ready: retries in steady time, delayed ones in wall time.
    pub(super) waiting: Waiting,
    /// When messages expire that are not in flight, in wall time.
    pub(super) expiring: BTreeSet<(i64, u64)>,
    /// Handed out: leased, or on the way to it.
    pub(super) flight: Offsets,
    pub(super) in_flight: u64,
    /// To come out of `unmatched` and `parked`.
    pub(super) unmatched: Offsets,
    pub(super) parked: Offsets,
    /// Came out of `expired`, `unmatched` or `parked`.
    pub(super) leaving: Offsets,
    /// Dropped while they were in a line, which cannot be searched by offset.
    pub(super) gone: Offsets,
    /// No lease ends before that.
    pub(super) lease_due_ms: i64,
    /// The latest wall time by which a message was taken to be due or expired.
    pub(super) wall_seen_ms: i64,
}

impl Schedule {
    /// A schedule of this state, to be fed with the log from `State::floor` on.
    pub(crate) fn new(rules: Rules, state: &State) -> Schedule {
        let limit = match (rules.order, rules.key_limit) {
            (Order::PerKey, _) => 1,
            (Order::None, 0) => u64::MAX,
            (Order::None, limit) => limit,
        };
        let failed_ones_hold =
            rules.order == Order::PerKey && rules.on_key_failure != OnKeyFailure::SkipAhead;
        let keys = Keys::new(limit, failed_ones_hold, state.parked().collect());
        let opened = state.last_open().map_or(0, |last| last + 1);
        Schedule {
            rules,
            floor: state.floor(),
            scanned_to: state.floor(),
            scan_first: if keys.matter() || rules.group_limit > 0 {
                opened
            } else {
                0
            },
            ready: Levels::new(rules.priorities),
            known: Pages::default(),
            keys,
            waiting: Waiting::default(),
            expiring: BTreeSet::new(),
            flight: Offsets::default(),
            in_flight: 0,
            unmatched: Offsets::default(),
            parked: Offsets::default(),
            leaving: Offsets::default(),
            gone: Offsets::default(),
            // A lease that the scan has not met yet may be over.
            lease_due_ms: if state.in_flight() > 0 { 0 } else { i64::MAX },
            wall_seen_ms: i64::MIN,
        }
    }

    /// The part of the log that it wants to be told of next; `end` is the high watermark.
    ///
    /// With priorities: all of it, since a message of a high priority may lie anywhere. Without,
    /// a window of ready messages: what lies behind would not be handed out before them, however
    /// long it is due.
    pub(crate) fn scan_wanted(&self, end: u64) -> Range<u64> {
        let window = WINDOW.saturating_sub(self.ready.len());
        let to = match self.rules.priorities {
            Priorities::Off => self.scanned_to.saturating_add(window).max(self.scan_first),
            Priorities::Strict | Priorities::Weighted => end,
        };
        self.scanned_to..to.min(end).max(self.scanned_to)
    }

    /// A message of the log: the next one in order that is not settled.
    pub(crate) fn scanned(&mut self, offset: u64, attributes: &Attributes, standing: Standing) {
        if offset < self.scanned_to {
            return;
        }
        self.scanned_to = offset + 1;
        let phase = match standing {
            Standing::Settled => return,
            Standing::Fresh => None,
            Standing::Open(record) => Some(record.phase),
        };
        let known = self.known_of(attributes);
        if let Some(Phase::Leased(lease)) = phase {
            self.lease_due_ms = self.lease_due_ms.min(lease.deadline_ms);
            self.remember(offset, known, Place::Flight);
            if let Some(key) = known.key() {
                self.keys.force(key, offset);
            }
            self.in_flight += u64::from(self.flight.insert(offset));
            return;
        }
        if !attributes.is_wanted {
            self.unmatched.insert(offset);
            return;
        }
        let (retry_ms, delay_ms) = match phase {
            Some(Phase::Retry { at_ms }) => (Some(at_ms), None),
            Some(Phase::Delayed { until_ms }) => (None, Some(until_ms)),
            Some(Phase::Ready | Phase::Leased(_)) => (None, None),
            None => (None, attributes.delay_until_ms),
        };
        let place = match (retry_ms, delay_ms) {
            (None, None) => Place::Ready,
            _ => Place::Due,
        };
        self.remember(offset, known, place);
        self.expiring
            .extend(known.expires_ms().map(|at_ms| (at_ms, offset)));
        if let (Some(key), Some(Phase::Retry { .. })) = (known.key(), phase) {
            self.keys.hold(key, offset);
        }
        match (retry_ms, delay_ms) {
            (Some(at_ms), _) => self.waiting.insert(offset, Until::Steady(at_ms)),
            (None, Some(until_ms)) => self.waiting.insert(offset, Until::Wall(until_ms)),
            (None, None) => self.ready.insert(offset, known.priority()),
        }
    }

    /// Fresh messages without attributes that are wanted: as [`Schedule::scanned`], quicker.
    #[cfg(test)]
    pub(crate) fn scanned_plain(&mut self, run: Range<u64>) {
        let run = run.start.max(self.scanned_to)..run.end;
        if !run.is_empty() {
            self.scanned_to = run.end;
            self.ready.insert_range(run);
        }
    }

    /// There is nothing unfinished below `offset` that was not told.
    pub(crate) fn scanned_up_to(&mut self, offset: u64) {
        self.scanned_to = self.scanned_to.max(offset);
    }

    /// Only what the rules look at is remembered.
    fn known_of(&self, attributes: &Attributes) -> Known {
        let key = attributes.key_hash.filter(|_| self.keys.matter());
        let priority = match self.rules.priorities {
            Priorities::Off => DEFAULT_PRIORITY,
            Priorities::Strict | Priorities::Weighted => attributes.priority.min(9),
        };
        Known::new(key, priority, attributes.expires_at_ms)
    }

    pub(super) fn remember(&mut self, offset: u64, known: Known, place: Place) {
        if !known.is_plain() {
            self.known.insert(offset, known.at(place));
        }
    }

    /// The next messages to lease, at most `max`, in runs. They count as in flight until an
    /// event or [`Schedule::give_back`] says otherwise.
    pub(crate) fn next(&mut self, now: Now, max: u64) -> Vec<Range<u64>> {
        self.wake(now);
        let mut out: Vec<Range<u64>> = Vec::new();
        if self.scanned_to < self.scan_first {
            return out;
        }
        let mut left = match self.rules.group_limit {
            0 => max,
            limit => max.min(limit.saturating_sub(self.in_flight)),
        };
        while left > 0 {
            let Some((run, priority)) = self.ready.take_run(left) else {
                break;
            };
            let before = left;
            if self.known.len() == 0 {
                left -= run.end - run.start;
                out.push(run);
            } else {
                for offset in run {
                    if self.may_go(offset, now.wall_ms) {
                        left -= 1;
                        extend(&mut out, offset);
                    }
                }
            }
            self.ready.charge(priority, before - left);
        }
        for run in &out {
            self.in_flight += self.flight.insert_range(run.clone());
        }
        out
    }

    /// Whether a message that was taken out of `ready` is handed out; else it has another place.
    fn may_go(&mut self, offset: u64, wall_ms: i64) -> bool {
        let Some(known) = self.known.get(offset) else {
            return true;
        };
        if let Some(at_ms) = known.expires_ms().filter(|at_ms| *at_ms <= wall_ms) {
            self.wall_seen_ms = self.wall_seen_ms.max(at_ms);
            // Its place is `expiring`, from where it leaves.
            if let Some(key) = known.key() {
                self.keys.remove(key, known.priority(), offset);
                self.call(key);
            }
            return false;
        }
        let gate = known.key();
        let gate = gate.map(|key| self.keys.take(key, known.priority(), offset));
        match (gate, known.key()) {
            (Some(Gate::Wait), Some(key)) => {
                self.keys.queue(key, known.priority(), offset);
                if known.expires_ms().is_some() {
                    self.known.insert(offset, known.at(Place::Line));
                } else {
                    self.known.remove(offset);
                }
                self.call(key);
                false
            }
            (Some(Gate::Parked), Some(key)) => {
                // A failed one goes on holding: the key may be unparked before it leaves.
                self.leave_as_parked(offset, known);
                self.call(key);
                false
            }
            _ => {
                if let Some(at_ms) = known.expires_ms() {
                    self.expiring.remove(&(at_ms, offset));
                }
                self.known.insert(offset, known.at(Place::Flight));
                true
            }
        }
    }

    pub(super) fn leave_as_parked(&mut self, offset: u64, known: Known) {
        if let Some(at_ms) = known.expires_ms() {
            self.expiring.remove(&(at_ms, offset));
        }
        self.known.insert(offset, known.at(Place::Parked));
        self.parked.insert(offset);
    }

    /// The wall clock stands more than this before a time that it has passed: what was ready by
    /// it may not be, so a new schedule is needed.
    pub(crate) fn is_ahead_of(&self, wall_ms: i64, tolerance_ms: i64) -> bool {
        wall_ms.saturating_add(tolerance_ms) < self.wall_seen_ms
    }

    /// Makes ready what is due, a bounded number; whether there is more, for the next look.
    pub(crate) fn wake(&mut self, now: Now) -> bool {
        for _ in 0..WOKEN_AT_A_TIME {
            let Some((offset, until)) = self.waiting.pop(now) else {
                return false;
            };
            if let Until::Wall(at_ms) = until {
                self.wall_seen_ms = self.wall_seen_ms.max(at_ms);
            }
            let known = self.known.get(offset).unwrap_or_default();
            self.remember(offset, known, Place::Ready);
            self.ready.insert(offset, known.priority());
        }
        self.waiting.is_any_due(now)
    }

    /// Calls messages out of a key's line for as long as the key has room.
    pub(super) fn call(&mut self, key: u64) {
        while let Some((offset, priority)) = self.keys.call(key) {
            if offset < self.floor || self.gone.remove(offset) {
                self.keys.remove(key, priority, offset);
                continue;
            }
            let known = self.known.get(offset);
            let known = known.unwrap_or_else(|| Known::new(Some(key), priority, None));
            self.known.insert(offset, known.at(Place::Ready));
            self.ready.insert(offset, priority);
        }
    }

    /// Messages whose time to live is over, in order of time, to be dropped.
    pub(crate) fn expired(&mut self, wall_ms: i64, max: usize) -> Vec<u64> {
        let mut out = Vec::new();
        while let Some((at_ms, offset)) = self.expiring.first().copied() {
            if at_ms > wall_ms || out.len() >= max {
                break;
            }
            self.expiring.pop_first();
            if offset < self.floor {
                continue;
            }
            // It is not ready any more, also if it stays.
            self.wall_seen_ms = self.wall_seen_ms.max(at_ms);
            self.take_out(offset);
            self.leaving.insert(offset);
            out.push(offset);
        }
        out
    }

    /// Messages that the group's filter leaves out, in runs, to be dropped.
    pub(crate) fn unmatched(&mut self, max: u64) -> Vec<Range<u64>> {
        take_leaving(&mut self.unmatched, &mut self.leaving, max)
    }

    /// Messages of parked keys, in runs, to be dropped.
    pub(crate) fn parked(&mut self, max: u64) -> Vec<Range<u64>> {
        take_leaving(&mut self.parked, &mut self.leaving, max)
    }

    /// When there is something to do for whoever takes messages: some become due.
    pub(crate) fn next_due(&self) -> Next {
        self.waiting.next()
    }

    /// When there is something to do though nobody takes messages: some expire, or a lease may
    /// end.
    pub(crate) fn next_end(&self) -> Next {
        Next {
            steady_ms: Some(self.lease_due_ms).filter(|at_ms| *at_ms < i64::MAX),
            wall_ms: self.expiring.first().map(|(at_ms, _)| *at_ms),
        }
    }

    /// Whether a lease may have ended; then `State::overdue` tells which, and when the next
    /// may, which [`Schedule::leases_end_from`] wants to know. Who fails to log the expiry says
    /// that the next may end at once.
    pub(crate) fn leases_may_end(&self, now_ms: i64) -> bool {
        self.lease_due_ms <= now_ms
    }

    /// No lease ends before that.
    pub(crate) fn leases_end_from(&mut self, at_ms: Option<i64>) {
        self.lease_due_ms = at_ms.unwrap_or(i64::MAX);
    }

    /// All messages with a history are known: what a verdict needs of its message's key is there.
    pub(crate) fn has_caught_up(&self) -> bool {
        self.scanned_to >= self.scan_first
    }

    /// The key of a message that is handed out, if keys matter.
    pub(crate) fn key_of(&self, offset: u64) -> Option<u64> {
        self.known.get(offset)?.key()
    }

    /// Messages that are handed out.
    #[cfg(test)]
    pub(crate) fn in_flight(&self) -> u64 {
        self.in_flight
    }

    /// Messages that could be handed out, as far as was scanned; some may have to wait for
    /// another one of their key.
    #[cfg(test)]
    pub(crate) fn ready(&self) -> u64 {
        self.ready.len()
    }

    /// Messages that wait for a time, as far as was scanned.
    pub(crate) fn delayed(&self, now: Now) -> u64 {
        self.waiting.count(now)
    }

    /// Messages that wait for the end of their delay, in order of it, from this time and offset on,
    /// as far as was scanned. Some may be due.
    pub(crate) fn delays(&self, from: (i64, u64)) -> impl Iterator<Item = (i64, u64)> + '_ {
        self.waiting.by_wall(from)
    }

    /// Bytes that the schedule takes, about.
    #[cfg(test)]
    pub(crate) fn bytes(&self) -> usize {
        let sets = [
            &self.flight,
            &self.unmatched,
            &self.parked,
            &self.leaving,
            &self.gone,
        ];
        sets.iter().map(|set| set.bytes()).sum::<usize>()
            + self.ready.bytes()
            + self.known.bytes()
            + self.keys.bytes()
            + self.waiting.bytes()
            + self.expiring.len() * 32
    }
}

/// Adds an offset to the last run, or as a run of its own.
fn extend(runs: &mut Vec<Range<u64>>, offset: u64) {
    match runs.last_mut() {
        Some(last) if last.end == offset => last.end += 1,
        _ => runs.push(offset..offset + 1),
    }
}

fn take_leaving(from: &mut Offsets, leaving: &mut Offsets, max: u64) -> Vec<Range<u64>> {
    let (mut out, mut left) = (Vec::new(), max);
    while left > 0 {
        let Some(run) = from.take_run(left) else {
            break;
        };
        left -= run.end - run.start;
        leaving.insert_range(run.clone());
        out.push(run);
    }
    out
}
