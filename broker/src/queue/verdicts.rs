//! Verdicts on leased messages: by their consumers, by time, by the loss of a consumer. Pure.
//!
//! All three name (offset, lease, outcome) and are made or refused message by message.

use std::{collections::BTreeSet, ops::Range};

use super::{
    command::{Action, Death, Reason, Reply, Retry, Status, Verdict, Verdicts},
    events::Event,
    history::{Attempt, End},
    leased::Leases,
    outbox::StepId,
    pages::Visit,
    parcel::Completion,
    record::{Phase, Record},
    spans::Spans,
    state::State,
};
use crate::limits::{MAX_FAILURE_BYTES, MAX_PARKED_KEYS, MAX_SETTLEMENTS};

/// Who judges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rule {
    /// The holder: valid before the deadline.
    Settle,
    /// Time: valid from the deadline on.
    Expire,
    /// The leader, for a holder that vanished: valid at any time.
    Gone,
}

impl Rule {
    /// Time and loss neither finish nor prolong.
    fn allows(self, action: &Action) -> bool {
        self == Rule::Settle || !matches!(action, Action::Ack(_) | Action::Extend(_))
    }
}

/// Which lease a verdict is about, and when it is made.
struct Claim {
    rule: Rule,
    lease: u64,
    consumer: Option<u64>,
    now_ms: i64,
}

impl Claim {
    fn check(&self, record: &Record) -> Status {
        let Some(lease) = record.lease() else {
            return Status::LeaseLost;
        };
        let foreign = self
            .consumer
            .is_some_and(|consumer| consumer != lease.consumer);
        if lease.number != self.lease || foreign {
            return Status::LeaseLost;
        }
        match (self.rule, self.now_ms < lease.deadline_ms) {
            (Rule::Settle, false) => Status::LeaseLost,
            (Rule::Expire, true) => Status::NotDue,
            _ => Status::Done,
        }
    }
}

/// Changes a record as the verdict says.
fn change(record: &mut Record, action: &Action, now_ms: i64) -> Visit {
    match action {
        Action::Ack(_) => return Visit::Remove,
        Action::Retry(retry) => {
            record.fail(now_ms);
            record.phase = Phase::Retry { at_ms: retry.at_ms };
        }
        Action::Release(_) => record.phase = Phase::Ready,
        Action::Extend(deadline_ms) => {
            if let Phase::Leased(lease) = &mut record.phase {
                lease.deadline_ms = lease.deadline_ms.max(*deadline_ms);
            }
        }
        Action::Dead(death) => {
            if !death.uncounted {
                record.fail(now_ms);
            }
            return Visit::Remove;
        }
    }
    Visit::Keep
}

/// How the attempts end of which this verdict says that they failed, and with which text.
fn failure(rule: Rule, action: &Action) -> Option<(End, &str)> {
    let (is_rejected, error) = match action {
        Action::Retry(retry) => (false, &retry.error),
        Action::Dead(death) if !death.uncounted => {
            (death.reason() == Reason::Rejected, &death.error)
        }
        Action::Ack(_) | Action::Release(_) | Action::Extend(_) | Action::Dead(_) => return None,
    };
    let end = match rule {
        Rule::Settle if is_rejected => End::Rejected,
        Rule::Settle => End::Retry,
        Rule::Expire => End::Expired,
        Rule::Gone => End::Lost,
    };
    Some((end, error))
}

/// The messages of a verdict that were judged, in runs, and the last records of those that died.
#[derive(Default)]
struct Made {
    runs: Vec<Range<u64>>,
    dead: Vec<(u64, Record)>,
    /// The leases, as they were.
    leases: Leases,
}

impl Made {
    fn add(&mut self, offset: u64) {
        match self.runs.last_mut() {
            Some(run) if run.end == offset => run.end += 1,
            _ => self.runs.push(offset..offset + 1),
        }
    }
}

/// As much of a text as is kept.
pub(crate) fn bounded(text: &str) -> Option<Box<str>> {
    let mut end = text.len().min(MAX_FAILURE_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    (end > 0).then(|| text[..end].into())
}

impl State {
    pub(super) fn judge(
        &mut self,
        rule: Rule,
        verdicts: &Verdicts,
        discard: bool,
        events: &mut Vec<Event>,
    ) -> Reply {
        let mut spans = Spans::default();
        for verdict in &verdicts.verdicts {
            let readable = verdict.action.as_ref().filter(|action| is_readable(action));
            let Some(action) = readable.filter(|action| rule.allows(action)) else {
                spans.push(verdict.range(), Status::Unreadable);
                continue;
            };
            let claim = Claim {
                rule,
                lease: verdict.lease,
                consumer: verdicts.consumer,
                now_ms: self.now_ms,
            };
            let made = self.change_run(claim, verdict, action, &mut spans);
            let count: u64 = made.runs.iter().map(|run| run.end - run.start).sum();
            match rule {
                Rule::Settle => {}
                Rule::Expire => self.counters.expired += count,
                Rule::Gone => self.counters.lost += count,
            }
            self.follow(rule, action, made, discard, events);
        }
        Reply::with(spans)
    }

    /// Changes the records of a run and says which were changed.
    fn change_run(
        &mut self,
        mut claim: Claim,
        verdict: &Verdict,
        action: &Action,
        spans: &mut Spans,
    ) -> Made {
        let range = verdict.range();
        let mut made = Made::default();
        let mut next = range.start;
        let failure = failure(claim.rule, action);
        let State {
            open, histories, ..
        } = self;
        open.visit(range.clone(), |offset, packed| {
            spans.push(next..offset, Status::LeaseLost);
            next = offset + 1;
            let mut record = Record::from(*packed);
            claim.lease = verdict.lease.wrapping_add(offset - range.start);
            let status = claim.check(&record);
            spans.push(offset..next, status);
            if status != Status::Done {
                return Visit::Keep;
            }
            made.add(offset);
            let holder = record.lease().map_or(0, |lease| lease.consumer);
            made.leases.note(offset, &record);
            let visit = change(&mut record, action, claim.now_ms);
            if let Some((end, error)) = failure {
                let attempt = Attempt {
                    number: record.failed,
                    hand_out: record.hand_outs,
                    consumer: holder,
                    ended_ms: claim.now_ms,
                    end,
                    error,
                };
                histories.add(offset, &attempt);
            }
            if matches!(action, Action::Dead(_)) {
                made.dead.push((offset, record));
            }
            if visit == Visit::Keep {
                *packed = record.into();
            }
            visit
        });
        spans.push(next..range.end, Status::LeaseLost);
        made
    }

    /// What follows from the changed records.
    fn follow(
        &mut self,
        rule: Rule,
        action: &Action,
        made: Made,
        discard: bool,
        events: &mut Vec<Event>,
    ) {
        if let Action::Extend(deadline_ms) = action {
            self.leased.prolong(made.leases, *deadline_ms);
            return;
        }
        self.leased.end(made.leases);
        let mut dead = made.dead.into_iter();
        for run in made.runs {
            let count = run.end - run.start;
            events.push(match action {
                Action::Ack(_) => {
                    self.counters.acked += count;
                    self.settle(run.clone());
                    Event::Acked { run }
                }
                Action::Retry(Retry { at_ms, error }) => {
                    if rule == Rule::Settle {
                        self.counters.retried += count;
                    }
                    self.note_error(run.clone(), error);
                    let at_ms = *at_ms;
                    Event::Retry { run, at_ms }
                }
                Action::Release(_) => {
                    self.counters.released += count;
                    Event::Released { run }
                }
                Action::Extend(_) => continue,
                Action::Dead(death) => {
                    self.note_error(run.clone(), &death.error);
                    for (offset, record) in dead.by_ref().take(count as usize) {
                        self.die(offset, &record, death.reason(), discard);
                    }
                    self.settle(run.clone());
                    let park_key = self.park(death);
                    Event::Died { run, park_key }
                }
            });
        }
    }

    /// Makes all verdicts of a step and takes its results in, or changes nothing.
    pub(super) fn complete(
        &mut self,
        completion: &Completion,
        discard: bool,
        events: &mut Vec<Event>,
    ) -> Reply {
        let verdicts = &completion.verdicts;
        let Some(step) = StepId::of(verdicts) else {
            return Reply::of(Status::Unreadable);
        };
        let named = verdicts.verdicts.iter().map(|verdict| verdict.count.max(1));
        let named = named.fold(0, u64::saturating_add);
        if named > MAX_SETTLEMENTS as u64 {
            return Reply::of(Status::TooMany);
        }
        let spans = Reply::with(self.examine(verdicts)).spans;
        if spans.iter().map(|span| span.count).sum::<u64>() != named {
            // Of an offset that cannot be nothing is said.
            return Reply::of(Status::Unreadable);
        }
        if spans.iter().any(|span| span.status() != Status::Done) {
            if self.outbox.knows(&step) {
                return Reply::of(Status::Repeated);
            }
            return Reply {
                spans,
                ..Reply::of(Status::NotMade)
            };
        }
        let mut reply = self.judge(Rule::Settle, verdicts, discard, events);
        reply.numbers = self.outbox.add(&completion.results);
        self.outbox.remember(step);
        reply
    }

    /// What would become of the verdicts of a step. Each has to end a lease, so a message that is
    /// named again has lost it by then.
    fn examine(&self, verdicts: &Verdicts) -> Spans {
        let mut spans = Spans::default();
        let mut named = BTreeSet::new();
        for verdict in &verdicts.verdicts {
            let action = verdict.action.as_ref();
            let ends =
                |action: &&Action| is_readable(action) && !matches!(action, Action::Extend(_));
            if action.filter(ends).is_none() {
                spans.push(verdict.range(), Status::Unreadable);
                continue;
            }
            let range = verdict.range();
            for offset in range.clone() {
                let claim = Claim {
                    rule: Rule::Settle,
                    lease: verdict.lease.wrapping_add(offset - range.start),
                    consumer: verdicts.consumer,
                    now_ms: self.now_ms,
                };
                let status = match self.open.get(offset) {
                    Some(packed) if !named.contains(&offset) => claim.check(&packed.into()),
                    _ => Status::LeaseLost,
                };
                if status == Status::Done {
                    named.insert(offset);
                }
                spans.push(offset..offset + 1, status);
            }
        }
        spans
    }

    fn note_error(&mut self, run: Range<u64>, error: &str) {
        if let Some(error) = bounded(error) {
            for offset in run {
                self.errors.insert(offset, error.clone());
            }
        }
    }

    /// Settles a run whose records are gone from `open`.
    pub(super) fn settle(&mut self, run: Range<u64>) {
        while let Some((&offset, _)) = self.errors.range(run.clone()).next() {
            self.errors.remove(&offset);
        }
        self.histories.settle(run.clone());
        self.settled.insert(run);
    }

    fn park(&mut self, death: &Death) -> Option<u64> {
        let key = death.park_key?;
        if self.parked.len() >= MAX_PARKED_KEYS && !self.parked.contains(&key) {
            self.counters.unparkable += 1;
            return None;
        }
        self.parked.insert(key);
        Some(key)
    }
}

/// Not from a version that knows more reasons than this one.
fn is_readable(action: &Action) -> bool {
    !matches!(action, Action::Dead(death) if death.reason() == Reason::Unknown)
}
