//! How the schedule follows the replicated state: events of applied commands, and what the
//! driver gives back. Pure.
//!
//! Events of messages that the scan has not reached change nothing: it will find them as they
//! are. An event may find a message in a place where the driver does not expect it (a proposal
//! whose outcome was not known was given back, and applied after all); the event is right.

use std::ops::Range;

use super::{
    command::DropReason,
    events::Event,
    known::{Known, Place},
    levels::DEFAULT_PRIORITY,
    pages::Visit,
    record::Phase,
    schedule::Schedule,
    view::Standing,
    waiting::Until,
};

impl Schedule {
    /// Follows an applied command. After [`Event::Restarted`] the schedule is of no use any
    /// more: a new one must be built.
    pub(crate) fn follow(&mut self, event: &Event) {
        match event {
            Event::Restarted => {}
            Event::Leased { run, deadline_ms } => {
                self.lease_due_ms = self.lease_due_ms.min(*deadline_ms);
                self.lift(&self.within_scan(run));
            }
            Event::Acked { run } => self.finish(&self.within_scan(run)),
            Event::Died { run, park_key } => {
                self.finish(&self.within_scan(run));
                if let Some(key) = park_key {
                    self.park(*key);
                }
            }
            Event::Released { run } => self.release(&self.within_scan(run)),
            Event::Retry { run, at_ms } => self.retry(&self.within_scan(run), *at_ms),
            Event::Delayed { offset, until_ms } => self.delay(*offset, *until_ms),
            Event::Dropped { run } => self.forget(run.clone()),
            Event::Trimmed { to } => self.trim(*to),
            Event::Unparked { key } => self.unpark(*key),
        }
    }

    /// The part of a run that was scanned.
    fn within_scan(&self, run: &Range<u64>) -> Range<u64> {
        run.start.max(self.floor)..run.end.min(self.scanned_to)
    }

    /// Messages that came from `next` were not leased: the proposal failed.
    pub(crate) fn give_back(&mut self, run: Range<u64>) {
        self.land(&run, false);
    }

    /// A message that came from `next` was not leased, for a reason that the state knows.
    pub(crate) fn refused(&mut self, offset: u64, standing: Standing) {
        let one = offset..offset + 1;
        match standing {
            Standing::Settled => self.forget(one),
            Standing::Fresh => self.give_back(one),
            Standing::Open(record) => match record.phase {
                Phase::Ready => self.give_back(one),
                Phase::Retry { at_ms } => self.retry(&self.within_scan(&one), at_ms),
                Phase::Delayed { until_ms } => self.delay(offset, until_ms),
                Phase::Leased(_) => self.lift(&self.within_scan(&one)),
            },
        }
    }

    /// Messages that came from `expired`, `unmatched` or `parked` were not dropped: the proposal
    /// failed. They come out again.
    pub(crate) fn give_back_leaving(&mut self, run: Range<u64>, reason: DropReason) {
        for offset in run {
            if !self.leaving.remove(offset) {
                continue;
            }
            let known = self.known.get(offset).unwrap_or_default();
            match (reason, known.expires_ms(), known.key()) {
                (DropReason::Ttl, Some(at_ms), _) => {
                    self.remember(offset, known, Place::Ready);
                    self.expiring.insert((at_ms, offset));
                }
                (DropReason::Parked, _, Some(key)) if !self.keys.is_parked(key) => {
                    self.make_ready(offset, known);
                }
                (DropReason::Parked, ..) => drop(self.parked.insert(offset)),
                _ => drop(self.unmatched.insert(offset)),
            }
        }
    }

    /// Messages are settled, wherever they were.
    pub(crate) fn forget(&mut self, run: Range<u64>) {
        let run = run.start.max(self.floor)..run.end.min(self.scanned_to);
        if run.is_empty() {
            return;
        }
        if self.known.len() == 0 && self.leaving.count(run.clone()) == run.end - run.start {
            self.leaving.remove_range(run);
            return;
        }
        for offset in run {
            if self.leaving.remove(offset) {
                if let Some(known) = self.known.remove(offset)
                    && let Some(key) = known.key()
                {
                    self.keys.remove(key, known.priority(), offset);
                    self.call(key);
                }
            } else if self.flight.contains(offset) {
                self.finish(&(offset..offset + 1));
            } else {
                self.take_out(offset);
                self.known.remove(offset);
            }
        }
    }

    /// Takes a message that is not in flight out of its place.
    pub(super) fn take_out(&mut self, offset: u64) {
        let Some(known) = self.known.get(offset) else {
            let found = self.ready.remove(offset, DEFAULT_PRIORITY)
                || self.unmatched.remove(offset)
                || self.waiting.remove(offset)
                || self.leaving.remove(offset);
            if !found {
                self.gone.insert(offset);
            }
            return;
        };
        if let Some(at_ms) = known.expires_ms() {
            self.expiring.remove(&(at_ms, offset));
        }
        match known.place() {
            Place::Ready => drop(self.ready.remove(offset, known.priority())),
            Place::Due => drop(self.waiting.remove(offset)),
            Place::Parked => drop(self.parked.remove(offset)),
            // The key takes it out of its line.
            Place::Line | Place::Flight => {}
        }
        self.leaving.remove(offset);
        if let Some(key) = known.key() {
            self.keys.remove(key, known.priority(), offset);
            self.call(key);
        }
    }

    /// All messages of the run are in flight now, wherever they were.
    fn lift(&mut self, run: &Range<u64>) {
        if self.flight.count(run.clone()) == run.end.saturating_sub(run.start) {
            return;
        }
        for offset in run.clone() {
            if self.flight.contains(offset) {
                continue;
            }
            self.take_out(offset);
            if self.gone.remove(offset) {
                // It may come back, so nothing of it may stay behind.
                self.search_out(offset);
            }
            if let Some(known) = self.known.get(offset) {
                self.known.insert(offset, known.at(Place::Flight));
                if let Some(key) = known.key() {
                    self.keys.force(key, offset);
                }
            }
            self.flight.insert(offset);
            self.in_flight += 1;
        }
    }

    /// Takes a message out of a line, where it can only be searched for. Slow, and seldom: a lease
    /// that the schedule did not expect.
    fn search_out(&mut self, offset: u64) {
        if let Some((key, priority)) = self.keys.find(offset) {
            self.keys.remove(key, priority, offset);
            self.known
                .insert(offset, Known::new(Some(key), priority, None));
        }
    }

    /// Messages in flight are settled.
    fn finish(&mut self, run: &Range<u64>) {
        self.lift(run);
        self.in_flight -= self.flight.remove_range(run.clone());
        if self.known.len() == 0 {
            return;
        }
        let mut keyed = Vec::new();
        self.known.visit(run.clone(), |offset, known| {
            keyed.extend(known.key().map(|key| (key, offset)));
            Visit::Remove
        });
        for (key, offset) in keyed {
            self.keys.land(key);
            self.keys.let_go(key, offset);
            self.call(key);
        }
    }

    fn release(&mut self, run: &Range<u64>) {
        self.lift(run);
        self.land(run, true);
    }

    /// Messages in flight are ready again; `let_go` says that a failed one no longer holds its
    /// key.
    fn land(&mut self, run: &Range<u64>, let_go: bool) {
        let count = run.end.saturating_sub(run.start);
        if self.known.len() == 0 && self.flight.count(run.clone()) == count {
            self.in_flight -= self.flight.remove_range(run.clone());
            self.ready.insert_range(run.clone());
            return;
        }
        for offset in run.clone() {
            if !self.flight.remove(offset) {
                continue;
            }
            self.in_flight -= 1;
            let known = self.known.get(offset).unwrap_or_default();
            self.make_ready(offset, known);
            if let Some(key) = known.key() {
                self.keys.land(key);
                if let_go {
                    self.keys.let_go(key, offset);
                }
                self.call(key);
            }
        }
    }

    fn make_ready(&mut self, offset: u64, known: Known) {
        self.remember(offset, known, Place::Ready);
        self.expiring
            .extend(known.expires_ms().map(|at_ms| (at_ms, offset)));
        self.ready.insert(offset, known.priority());
    }

    /// Messages in flight wait for their retry.
    fn retry(&mut self, run: &Range<u64>, at_ms: i64) {
        self.lift(run);
        self.in_flight -= self.flight.remove_range(run.clone());
        for offset in run.clone() {
            self.waiting.insert(offset, Until::Steady(at_ms));
            let Some(known) = self.known.get(offset) else {
                continue;
            };
            self.known.insert(offset, known.at(Place::Due));
            self.expiring
                .extend(known.expires_ms().map(|at_ms| (at_ms, offset)));
            if let Some(key) = known.key() {
                self.keys.land(key);
                self.keys.hold(key, offset);
                self.call(key);
            }
        }
    }

    /// A message that was never handed out waits for this time, by the wall clock.
    fn delay(&mut self, offset: u64, until_ms: i64) {
        let one = self.within_scan(&(offset..offset + 1));
        if one.is_empty() || self.leaving.contains(offset) || self.unmatched.contains(offset) {
            return;
        }
        // As if it had been handed out and come back, wherever it was.
        self.lift(&one);
        self.in_flight -= self.flight.remove_range(one);
        let known = self.known.get(offset);
        self.waiting.insert(offset, Until::Wall(until_ms));
        let Some(known) = known else { return };
        self.known.insert(offset, known.at(Place::Due));
        self.expiring
            .extend(known.expires_ms().map(|at_ms| (at_ms, offset)));
        if let Some(key) = known.key() {
            self.keys.land(key);
            self.call(key);
        }
    }

    fn park(&mut self, key: u64) {
        for (run, priority) in self.keys.park(key) {
            for offset in run {
                if offset < self.floor || self.gone.remove(offset) {
                    continue;
                }
                let known = self.known.get(offset);
                let known = known.unwrap_or_else(|| Known::new(Some(key), priority, None));
                self.leave_as_parked(offset, known);
            }
        }
        self.call(key);
    }

    fn unpark(&mut self, key: u64) {
        self.keys.unpark(key);
        let mut from = 0;
        while let Some(run) = self.parked.run_from(from, u64::MAX) {
            from = run.end;
            for offset in run {
                let known = self.known.get(offset).unwrap_or_default();
                if known.key() == Some(key) {
                    self.parked.remove(offset);
                    self.make_ready(offset, known);
                }
            }
        }
    }

    /// Everything below is settled.
    fn trim(&mut self, to: u64) {
        self.floor = self.floor.max(to);
        self.scanned_to = self.scanned_to.max(to);
        let below = 0..to;
        self.in_flight -= self.flight.remove_range(below.clone());
        self.ready.remove_range(&below);
        self.waiting.trim(to);
        for set in [
            &mut self.unmatched,
            &mut self.parked,
            &mut self.leaving,
            &mut self.gone,
        ] {
            set.remove_range(below.clone());
        }
        let mut trimmed = Vec::new();
        self.known.visit(below, |offset, known| {
            trimmed.push((offset, *known));
            Visit::Remove
        });
        for (offset, known) in trimmed {
            if let Some(at_ms) = known.expires_ms() {
                self.expiring.remove(&(at_ms, offset));
            }
            if let Some(key) = known.key() {
                self.keys.remove(key, known.priority(), offset);
                if known.place() == Place::Flight {
                    self.keys.land(key);
                }
            }
        }
        for key in self.keys.trim(to) {
            self.call(key);
        }
    }
}
