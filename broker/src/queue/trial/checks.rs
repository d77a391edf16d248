//! What must hold after every step and at every hand-out, by the model alone.

use std::collections::BTreeSet;

use super::{
    super::{
        command::{Action, Kind, Verdict, Verdicts},
        history::Attempt,
        levels::DEFAULT_PRIORITY,
        model::{Is, Message},
        outbox::Waiting,
        policy::{OnKeyFailure, Order, Priorities},
        record::Phase,
        view::{Held, Standing},
    },
    World,
};

/// The last eight attempts, with the first 64 bytes of their texts.
fn check_history<'a>(known: impl Iterator<Item = Attempt<'a>>, message: &Message) {
    let known = known.map(|it| {
        let Attempt { number, end, .. } = it;
        (
            number,
            (
                end,
                it.hand_out,
                it.consumer,
                it.ended_ms,
                it.error.to_owned(),
            ),
        )
    });
    let all = (1..).zip(message.attempts.iter().cloned());
    let last = all.skip(message.attempts.len().saturating_sub(8));
    let cut = last.map(|(number, (end, hand_out, consumer, ended_ms, error))| {
        let error = error.chars().take(32).collect::<String>();
        (number, (end, hand_out, consumer, ended_ms, error))
    });
    assert_eq!(known.collect::<Vec<_>>(), cut.collect::<Vec<_>>());
}

impl World {
    fn priority(&self, offset: u64) -> u8 {
        match self.policy.priorities {
            Priorities::Off => DEFAULT_PRIORITY,
            Priorities::Strict | Priorities::Weighted => self.log[offset as usize].priority.min(9),
        }
    }

    fn key(&self, offset: u64) -> Option<u64> {
        let key = self.log[offset as usize].key_hash;
        key.filter(|_| self.keys_matter())
    }

    pub(super) fn is_leaving(&self, offset: u64) -> bool {
        self.leaving.iter().any(|(run, _)| run.contains(&offset))
    }

    pub(super) fn is_taken(&self, offset: u64) -> bool {
        self.taken.iter().any(|run| run.contains(&offset))
    }

    fn is_over(&self, offset: u64) -> bool {
        let expires = self.log[offset as usize].expires_at_ms;
        expires.is_some_and(|at_ms| at_ms <= self.now().wall_ms)
    }

    /// Could be handed out now, if nothing but the message itself mattered.
    fn is_ready(&self, offset: u64) -> bool {
        let message = &self.model.messages[offset as usize];
        let attributes = &self.log[offset as usize];
        let now = self.now();
        let is_due = match message.is {
            Is::Settled | Is::Leased(..) => return false,
            Is::Retry(at_ms) => at_ms <= now.steady_ms,
            Is::Delayed(until_ms) => until_ms <= now.wall_ms,
            Is::Ready if message.hand_outs > 0 => true,
            Is::Ready => attributes
                .delay_until_ms
                .is_none_or(|until_ms| until_ms <= now.wall_ms),
        };
        is_due
            && attributes.is_wanted
            && !self.is_over(offset)
            && offset < self.schedule.scanned_to
            && !self.is_taken(offset)
            && !self.is_leaving(offset)
    }

    fn in_flight(&self, offset: u64) -> bool {
        match self.model.messages[offset as usize].is {
            Is::Leased(..) => true,
            // Cancelled while its lease was on the way.
            Is::Settled => false,
            Is::Ready | Is::Retry(_) | Is::Delayed(_) => self.is_taken(offset),
        }
    }

    fn others_of_key(&self, offset: u64) -> Vec<u64> {
        let others = (0..self.end()).filter(|other| *other != offset);
        others
            .filter(|other| self.key(*other) == self.key(offset))
            .collect()
    }

    /// Waits for a retry and so holds its key, with the policies that hold.
    fn holds(&self, offset: u64) -> bool {
        self.policy.order == Order::PerKey
            && self.policy.on_key_failure != OnKeyFailure::SkipAhead
            && matches!(self.model.messages[offset as usize].is, Is::Retry(_))
            && self.log[offset as usize].is_wanted
            && !self.is_over(offset)
    }

    /// Why other messages of its key, or its key, keep a message back.
    fn kept_back(&self, offset: u64) -> Option<&'static str> {
        let key = self.key(offset)?;
        if self.model.parked.contains(&key) {
            return Some("its key is parked");
        }
        let others = self.others_of_key(offset);
        let limit = match (self.policy.order, self.policy.max_in_flight.key) {
            (Order::PerKey, _) => 1,
            (Order::None, limit) => limit as usize,
        };
        if others
            .iter()
            .filter(|other| self.in_flight(**other))
            .count()
            >= limit
        {
            return Some("its key has enough in flight");
        }
        let lower = |other: &&u64| **other < offset || !self.holds(offset);
        if others.iter().filter(lower).any(|other| self.holds(*other)) {
            return Some("a failed message holds its key");
        }
        None
    }

    /// Exactly what is next, where keys and weights do not blur it.
    pub(super) fn expected(&self) -> Option<Vec<u64>> {
        let is_exact = !self.keys_matter()
            && self.policy.priorities != Priorities::Weighted
            && self.policy.max_in_flight.group == 0;
        let mut ready: Vec<_> = (0..self.end())
            .filter(|o| is_exact && self.is_ready(*o))
            .collect();
        ready.sort_by_key(|offset| (u8::MAX - self.priority(*offset), *offset));
        is_exact.then_some(ready)
    }

    pub(super) fn check_hand_out(&self, offset: u64) {
        assert!(self.is_ready(offset), "{offset} is not ready");
        assert_eq!(self.kept_back(offset), None, "{offset}");
        if self.policy.order == Order::PerKey && self.key(offset).is_some() && !self.holds(offset) {
            let before = |other: &u64| {
                *other < offset
                    && self.priority(*other) == self.priority(offset)
                    && self.is_ready(*other)
            };
            let passed = self.others_of_key(offset).into_iter().find(before);
            assert_eq!(passed, None, "{offset} overtakes");
        }
    }

    /// Nothing is left behind that could go.
    pub(super) fn check_complete(&self) {
        let schedule = &self.schedule;
        let limit = self.policy.max_in_flight.group;
        if schedule.scanned_to < schedule.scan_first || (limit > 0 && schedule.in_flight >= limit) {
            return;
        }
        // One whose time to live is over holds its key until it leaves.
        let held = |offset: u64| {
            let retries = |other: &u64| {
                matches!(self.model.messages[*other as usize].is, Is::Retry(_))
                    && self.is_over(*other)
            };
            self.key(offset).is_some() && self.others_of_key(offset).iter().any(retries)
        };
        let left = |offset: &u64| {
            self.is_ready(*offset) && self.kept_back(*offset).is_none() && !held(*offset)
        };
        if let Some(offset) = (0..self.end()).find(left) {
            let (message, schedule) = (&self.model.messages[offset as usize], &self.schedule);
            let others = self.others_of_key(offset).into_iter();
            let others = others.map(|o| (o, self.model.messages[o as usize].clone()));
            let others: Vec<_> = others.filter(|(_, m)| m.is != Is::Settled).collect();
            panic!("{offset} is left behind: {message:?} {others:?} {schedule:?}");
        }
    }

    pub(super) fn check(&self) {
        let (state, model) = (&self.state, &self.model);
        if !model.begun {
            return;
        }
        let (mut leased, mut in_flight) = (0, BTreeSet::new());
        for (offset, message) in (0..).zip(&model.messages) {
            let known = match state.standing(offset) {
                Standing::Settled => {
                    assert_eq!(message.is, Is::Settled, "{offset}");
                    continue;
                }
                Standing::Fresh => (Is::Ready, 0, 0, 0),
                Standing::Open(record) => {
                    let is = match record.phase {
                        Phase::Ready => Is::Ready,
                        Phase::Retry { at_ms } => Is::Retry(at_ms),
                        Phase::Delayed { until_ms } => Is::Delayed(until_ms),
                        Phase::Leased(lease) => {
                            Is::Leased(lease.number, lease.deadline_ms, lease.consumer)
                        }
                    };
                    (is, record.failed, record.hand_outs, record.first_failure_ms)
                }
            };
            let Message { is, .. } = message;
            let expected = (
                *is,
                message.failed,
                message.hand_outs,
                message.first_failure_ms,
            );
            assert_eq!(known, expected, "{offset}");
            assert_eq!(state.last_error(offset).unwrap_or_default(), message.error);
            check_history(state.history(offset), message);
            if matches!(is, Is::Leased(..)) {
                leased += 1;
                if offset < self.schedule.scanned_to {
                    in_flight.insert(offset);
                }
            }
        }
        assert_eq!(state.in_flight(), leased);
        self.check_holders();
        in_flight.extend(
            self.taken
                .iter()
                .cloned()
                .flatten()
                .filter(|o| *o >= state.floor()),
        );
        let settled = |offset: &u64| model.messages[*offset as usize].is != Is::Settled;
        in_flight.retain(settled);
        assert_eq!(self.schedule.in_flight(), in_flight.len() as u64);
        assert_eq!(state.next_lease(), model.last_lease + 1);
        let counters = state.counters();
        let dead: u64 = counters.dead.iter().sum();
        let known = (counters.acked, counters.expired, dead, counters.trimmed);
        assert_eq!(
            known,
            (model.acked, model.expired, model.died, model.trimmed)
        );
        self.check_letters();
        self.check_results();
    }

    fn check_results(&self) {
        let outbox = self.state.outbox();
        assert!(outbox.targets().eq(self.model.lines.keys().copied()));
        let mut waiting = Waiting::default();
        for (target, (all, written)) in &self.model.lines {
            let span = Some((*written as u64, all.len() as u64));
            assert_eq!(outbox.span(*target), span);
            let left = &all[*written..];
            assert!(outbox.parcels(*target, 0).eq(left));
            waiting.add(Waiting::of(left));
        }
        assert_eq!(outbox.waiting(), waiting);
        assert_eq!(outbox.totals().1, self.model.dropped);
    }

    /// What is kept of leases by consumer and deadline is what a look at all of them finds.
    fn check_holders(&self) {
        let held: Vec<_> = self.state.held(0).collect();
        let consumers: BTreeSet<u64> = held.iter().map(|held| held.lease.consumer).collect();
        assert!(self.state.holders().eq(consumers.iter().copied()));
        for consumer in consumers {
            let of_it = held.iter().filter(|held| held.lease.consumer == consumer);
            assert!(self.state.held_by(consumer).eq(of_it.clone().copied()));
            assert_eq!(self.state.held_count(consumer), of_it.count() as u64);
        }
        for now_ms in [self.now_ms, self.now_ms + 500, i64::MAX] {
            let is_due = |held: &&Held| held.lease.deadline_ms <= now_ms;
            let mut due: Vec<_> = held.iter().filter(is_due).map(|held| held.offset).collect();
            let (overdue, next) = self.state.overdue(now_ms, usize::MAX);
            let mut found: Vec<_> = overdue.iter().map(|held| held.offset).collect();
            due.sort_unstable();
            found.sort_unstable();
            assert_eq!(found, due);
            let later = held.iter().map(|held| held.lease.deadline_ms);
            assert_eq!(next, later.filter(|at_ms| *at_ms > now_ms).min());
        }
    }

    fn check_letters(&self) {
        let written = self.model.written as u64;
        let letters: Vec<_> = self.state.dead_letters(0).collect();
        assert_eq!(letters.len(), self.model.letters.len() - self.model.written);
        let expected = self.model.letters[self.model.written..].iter();
        for ((index, (number, dead)), letter) in (1..).zip(letters).zip(expected) {
            assert_eq!(number, written + index, "numbers without gaps");
            let message = &letter.message;
            assert_eq!((dead.offset, dead.reason), (letter.offset, letter.reason));
            assert_eq!(
                (dead.failed, dead.hand_outs),
                (message.failed, message.hand_outs)
            );
            assert_eq!(dead.first_failure_ms, message.first_failure_ms);
            check_history(self.state.dead_history(number), message);
            assert_eq!(
                self.state.dead_error(number).unwrap_or_default(),
                message.error
            );
        }
    }

    /// With all faults off, everything ends, in a bounded number of steps.
    pub(super) fn drain(&mut self) {
        for _ in 0..1_000 {
            if self
                .model
                .messages
                .iter()
                .all(|message| message.is == Is::Settled)
            {
                return;
            }
            self.scan(u64::MAX);
            self.take(u64::MAX);
            let taken = std::mem::take(&mut self.taken);
            if !taken.is_empty() {
                self.grant(taken);
            }
            let held: Vec<_> = self.state.held(0).collect();
            let verdict = |held: &super::super::view::Held| Verdict {
                first: held.offset,
                count: 1,
                lease: held.lease.number,
                action: Some(Action::Ack(true)),
            };
            let verdicts = held.iter().map(verdict).collect();
            let consumer = None;
            self.apply(vec![Kind::Settle(Verdicts { consumer, verdicts })]);
            self.take_leaving(u64::from(u32::MAX));
            for (run, reason) in std::mem::take(&mut self.leaving) {
                self.drop_run(run.clone(), reason);
                self.schedule.forget(run);
            }
            let next = self.schedule.next_due().or(self.schedule.next_end());
            let left_ms = next.left_ms(self.now()).unwrap_or(0);
            self.now_ms += i64::try_from(left_ms).unwrap();
            while self.schedule.leases_may_end(self.now_ms) {
                self.expire();
            }
        }
        let stuck: Vec<_> = (0..)
            .zip(&self.model.messages)
            .filter(|(_, m)| m.is != Is::Settled)
            .collect();
        panic!(
            "does not end: {stuck:?}\n{:?}\n{:?}",
            self.policy, self.schedule
        );
    }
}
