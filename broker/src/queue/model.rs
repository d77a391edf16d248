//! A queue as short and slow as can be: one plain record per message, one loop per command. Only
//! in tests, to hold against the real state.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    command::{Action, Delay, DropReason, Kind, Reason, Status, Verdicts},
    history::End,
    parcel::{Completion, Parcel, Target, Written},
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Is {
    Ready,
    Retry(i64),
    /// Number, deadline, consumer.
    Leased(u64, i64, u64),
    /// By the wall clock.
    Delayed(i64),
    Settled,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) is: Is,
    pub(super) failed: u32,
    pub(super) hand_outs: u32,
    pub(super) first_failure_ms: i64,
    pub(super) error: String,
    /// Every failed attempt: how it ended, hand-out, consumer, when, text.
    pub(super) attempts: Vec<(End, u32, u64, i64, String)>,
}

const FRESH: Message = Message {
    is: Is::Ready,
    failed: 0,
    hand_outs: 0,
    first_failure_ms: 0,
    error: String::new(),
    attempts: Vec::new(),
};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Letter {
    pub(super) offset: u64,
    pub(super) reason: Reason,
    pub(super) message: Message,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Model {
    pub(super) begun: bool,
    pub(super) epoch: u64,
    pub(super) now_ms: i64,
    pub(super) trimmed_to: u64,
    pub(super) kept: BTreeSet<u64>,
    pub(super) messages: Vec<Message>,
    pub(super) last_lease: u64,
    pub(super) letters: Vec<Letter>,
    pub(super) written: usize,
    pub(super) parked: BTreeSet<u64>,
    pub(super) acked: u64,
    pub(super) expired: u64,
    pub(super) died: u64,
    pub(super) trimmed: u64,
    /// All results of each target, and how many of them are written.
    pub(super) lines: BTreeMap<Target, (Vec<Parcel>, usize)>,
    /// First offset, first lease, number of messages.
    pub(super) steps: BTreeSet<(u64, u64, u64)>,
    pub(super) dropped: u64,
}

/// (offset, result, lease or 0)
pub(super) type Results = Vec<(u64, Status, u64)>;

impl Model {
    pub(super) fn publish(&mut self, count: usize) {
        let messages = self.messages.len() + count;
        self.messages.resize(messages, FRESH);
    }

    fn start(&mut self, offset: u64) {
        self.epoch += 1;
        for (at, message) in (0..).zip(&mut self.messages) {
            *message = FRESH;
            if at < offset || (at < self.trimmed_to && !self.kept.contains(&at)) {
                message.is = Is::Settled;
            }
        }
        self.parked.clear();
    }

    /// The log begins at `to`; below, these are left.
    pub(super) fn trim(&mut self, to: u64, kept: &BTreeSet<u64>) {
        self.trimmed_to = self.trimmed_to.max(to);
        self.kept.clone_from(kept);
        for (at, message) in (0..self.trimmed_to).zip(&mut self.messages) {
            if self.begun && message.is != Is::Settled && !kept.contains(&at) {
                self.trimmed += 1;
                message.is = Is::Settled;
            }
        }
    }

    pub(super) fn apply(&mut self, kind: &Kind, discard: bool) -> (Status, Results) {
        let end = self.messages.len() as u64;
        let mut results = Vec::new();
        match kind {
            Kind::Trim(to) => self.trim((*to).min(end), &BTreeSet::new()),
            Kind::Begin(start) if *start > end => return (Status::BeyondEnd, results),
            Kind::Begin(start) => {
                if !self.begun {
                    self.begun = true;
                    self.start(*start);
                }
            }
            Kind::Forget(_) => {
                *self = Model {
                    epoch: self.epoch + 1,
                    now_ms: self.now_ms,
                    messages: std::mem::take(&mut self.messages),
                    last_lease: self.last_lease,
                    trimmed_to: self.trimmed_to,
                    kept: std::mem::take(&mut self.kept),
                    ..Model::default()
                }
            }
            _ if !self.begun => return (Status::NotBegun, results),
            Kind::Seek(offset) if *offset > end => return (Status::BeyondEnd, results),
            Kind::Seek(offset) => self.start(*offset),
            Kind::Lease(grant) => {
                if grant.epoch != self.epoch {
                    return (Status::Fenced, results);
                }
                if grant.deadline_ms <= self.now_ms {
                    return (Status::LeaseLost, results);
                }
                for offset in grant.runs.iter().flat_map(|run| run.range()) {
                    let deadline = (grant.deadline_ms, grant.consumer);
                    let (status, lease) = self.lease(offset, deadline);
                    results.push((offset, status, lease));
                }
            }
            Kind::Settle(verdicts) | Kind::Expire(verdicts) | Kind::Gone(verdicts) => {
                results = self.judge_all(kind, verdicts, discard);
            }
            Kind::DeadWritten(up_to) if *up_to > self.letters.len() as u64 => {
                return (Status::BeyondEnd, results);
            }
            Kind::DeadWritten(up_to) => self.written = self.written.max(*up_to as usize),
            Kind::Drop(dropping) => {
                if dropping.epoch != self.epoch {
                    return (Status::Fenced, results);
                }
                for offset in dropping.runs.iter().flat_map(|run| run.range()) {
                    let discard = discard || dropping.discard;
                    let status = self.drop_one(offset, dropping.reason(), discard);
                    results.push((offset, status, 0));
                }
            }
            Kind::Delay(delay) => return (self.delay(delay), results),
            Kind::Complete(completion) => return self.complete(completion, discard),
            Kind::Written(written) => return (self.written(written), results),
            Kind::Unpark(key) => drop(self.parked.remove(key)),
        }
        (Status::Done, results)
    }

    /// On a copy, which replaces the model if everything was made.
    fn complete(&mut self, completion: &Completion, discard: bool) -> (Status, Results) {
        let mut verdicts = completion.verdicts.clone();
        let Some(first) = verdicts.verdicts.first() else {
            return (Status::Unreadable, Vec::new());
        };
        let count = verdicts.verdicts.iter().map(|it| it.count.max(1)).sum();
        let id = (first.first, first.lease, count);
        if self.steps.contains(&id) {
            return (Status::Repeated, Vec::new());
        }
        for verdict in &mut verdicts.verdicts {
            if matches!(verdict.action, Some(Action::Extend(_))) {
                verdict.action = None;
            }
        }
        let mut after = self.clone();
        let settle = Kind::Settle(verdicts.clone());
        let results = after.judge_all(&settle, &verdicts, discard);
        if results.iter().any(|(_, status, _)| *status != Status::Done) {
            return (Status::NotMade, results);
        }
        for parcel in &completion.results {
            let line = after.lines.entry(parcel.target()).or_default();
            line.0.push(parcel.clone());
        }
        after.steps.insert(id);
        *self = after;
        (Status::Done, results)
    }

    fn written(&mut self, written: &Written) -> Status {
        for line in &written.lines {
            let known = self.lines.get(&line.target());
            if known.is_some_and(|known| line.up_to > known.0.len() as u64) {
                return Status::BeyondEnd;
            }
        }
        for line in &written.lines {
            if let Some((all, done)) = self.lines.get_mut(&line.target()) {
                *done = (*done).max(line.up_to as usize);
                if line.is_gone {
                    self.dropped += (all.len() - *done) as u64;
                    self.lines.remove(&line.target());
                }
            }
        }
        Status::Done
    }

    fn lease(&mut self, offset: u64, (deadline_ms, consumer): (i64, u64)) -> (Status, u64) {
        let Some(message) = self.messages.get_mut(offset as usize) else {
            return (Status::BeyondEnd, 0);
        };
        match message.is {
            Is::Settled => return (Status::Settled, 0),
            Is::Leased(..) => return (Status::Leased, 0),
            Is::Retry(at_ms) if at_ms > self.now_ms => return (Status::NotDue, 0),
            _ => {}
        }
        self.last_lease += 1;
        message.hand_outs += 1;
        message.is = Is::Leased(self.last_lease, deadline_ms, consumer);
        (Status::Done, self.last_lease)
    }

    fn delay(&mut self, delay: &Delay) -> Status {
        if delay.epoch != self.epoch {
            return Status::Fenced;
        }
        let Some(message) = self.messages.get_mut(delay.offset as usize) else {
            return Status::BeyondEnd;
        };
        match message.is {
            Is::Settled => Status::Settled,
            Is::Leased(..) => Status::Leased,
            _ if message.hand_outs > 0 => Status::HandedOut,
            _ => {
                message.is = Is::Delayed(delay.until_ms);
                Status::Done
            }
        }
    }

    fn judge_all(&mut self, kind: &Kind, verdicts: &Verdicts, discard: bool) -> Results {
        let mut results = Vec::new();
        for verdict in &verdicts.verdicts {
            for (offset, lease) in verdict.range().zip(verdict.lease..) {
                let whose = (lease, verdicts.consumer);
                let status = match &verdict.action {
                    None => Status::Unreadable,
                    Some(action) => self.judge(kind, offset, whose, action, discard),
                };
                results.push((offset, status, 0));
            }
        }
        results
    }

    fn judge(
        &mut self,
        kind: &Kind,
        offset: u64,
        (lease, by): (u64, Option<u64>),
        action: &Action,
        discard: bool,
    ) -> Status {
        let settles = matches!(kind, Kind::Settle(_));
        if !settles && matches!(action, Action::Ack(_) | Action::Extend(_)) {
            return Status::Unreadable;
        }
        let Some(message) = self.messages.get_mut(offset as usize) else {
            return Status::LeaseLost;
        };
        let Is::Leased(number, deadline_ms, consumer) = message.is else {
            return Status::LeaseLost;
        };
        if number != lease || by.is_some_and(|by| by != consumer) {
            return Status::LeaseLost;
        }
        let over = self.now_ms >= deadline_ms;
        if settles && over {
            return Status::LeaseLost;
        }
        if matches!(kind, Kind::Expire(_)) {
            if !over {
                return Status::NotDue;
            }
            self.expired += 1;
        }
        let fail = |message: &mut Message, end: End, error: &str| {
            let end = match kind {
                Kind::Expire(_) => End::Expired,
                Kind::Gone(_) => End::Lost,
                _ => end,
            };
            let (hand_out, error) = (message.hand_outs, error.to_owned());
            let attempt = (end, hand_out, consumer, self.now_ms, error);
            message.attempts.push(attempt);
            message.failed += 1;
            if message.first_failure_ms == 0 {
                message.first_failure_ms = self.now_ms;
            }
        };
        match action {
            Action::Ack(_) => {
                self.acked += 1;
                message.is = Is::Settled;
            }
            Action::Retry(retry) => {
                fail(message, End::Retry, &retry.error);
                if !retry.error.is_empty() {
                    message.error.clone_from(&retry.error);
                }
                message.is = Is::Retry(retry.at_ms);
            }
            Action::Release(_) => message.is = Is::Ready,
            Action::Extend(until) => {
                message.is = Is::Leased(number, deadline_ms.max(*until), consumer);
            }
            Action::Dead(death) => {
                if !death.uncounted {
                    let end = match death.reason() {
                        Reason::Rejected => End::Rejected,
                        _ => End::Retry,
                    };
                    fail(message, end, &death.error);
                }
                if !death.error.is_empty() {
                    message.error.clone_from(&death.error);
                }
                self.parked.extend(death.park_key);
                self.die(offset, death.reason(), discard);
            }
        }
        Status::Done
    }

    fn die(&mut self, offset: u64, reason: Reason, discard: bool) {
        let message = &mut self.messages[offset as usize];
        message.is = Is::Settled;
        self.died += 1;
        if !discard {
            let message = message.clone();
            self.letters.push(Letter {
                offset,
                reason,
                message,
            });
        }
    }

    fn drop_one(&mut self, offset: u64, reason: DropReason, discard: bool) -> Status {
        let Some(message) = self.messages.get_mut(offset as usize) else {
            return Status::BeyondEnd;
        };
        match (message.is, reason) {
            (Is::Settled, _) => return Status::Settled,
            (Is::Leased(..), _) => return Status::Leased,
            (_, DropReason::Ttl) => self.die(offset, Reason::Ttl, discard),
            (_, DropReason::Parked) => self.die(offset, Reason::Parked, discard),
            _ => message.is = Is::Settled,
        }
        Status::Done
    }
}
