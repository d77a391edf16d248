//! The bookkeeping of one queue group in one partition: the replicated half of a queue. Pure.
//!
//! Same entries, same state, on every node: it knows neither policy nor clock nor chance (see
//! [`super::command`]) and nothing of payloads, keys or priorities.
//!
//! ```text
//!  floor ≤ every open offset < high watermark
//!  an unfinished offset below trimmed_to is kept aside
//!
//!  a message:   fresh ──lease──▶ Leased ──ack──▶ settled
//!                 ▲               │ │ └─ dead ─▶ settled, and a dead letter with a number
//!     seek only ──┘      release ─┘ └─ retry, expiry
//!                         Ready          Retry{at}          both: leased again
//! ```
//! - An offset that is neither settled nor open is *fresh*: it has no history and costs nothing.
//! - Lease numbers only grow, also over seeks and after the group was forgotten. A lease is valid while the message is `Leased`
//!   under its number *and* the entry's time is before its deadline. So a late verdict is
//!   refused whether or not the expiry was logged already, and a message past its deadline is
//!   not leased again before the expiry entry, which counts the attempt exactly once.
//! - Failed attempts and hand-outs never decrease, except by `Seek` and `Forget`.
//! - A settled message never comes back, except by `Seek`.
//! - A dead letter takes the next number, without gaps, and is settled at once; what its copy
//!   needs is kept under its number until the copy is written. So neither a seek nor a trim
//!   takes a dead letter back or leaves a hole in the numbers.
//! - The results of a step are taken in with its verdicts, or neither is.
//! - Time is the entries' and never goes back: an earlier one counts as the greatest seen.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use super::{
    command::{Batch, Grant, Kind, REASONS, Replies, Reply, Status},
    events::Event,
    history::Histories,
    leased::Leased,
    offsets::Offsets,
    outbox::Outbox,
    pages::Pages,
    record::{Lease, PackedDead, PackedRecord, Phase, Record},
    settled::Settled,
    spans::Spans,
    verdicts::Rule,
};
use crate::limits::MAX_LEASES_PER_GRANT;

/// What happened so far, in messages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    pub(crate) acked: u64,
    pub(crate) retried: u64,
    pub(crate) released: u64,
    /// Leases that ended at their deadline.
    pub(crate) expired: u64,
    /// Leases whose consumer vanished.
    pub(crate) lost: u64,
    /// By [`super::command::Reason`].
    pub(crate) dead: [u64; REASONS],
    /// Of the dead: those of which no dead letter is kept.
    pub(crate) discarded: u64,
    pub(crate) cancelled: u64,
    pub(crate) unmatched: u64,
    /// Not finished when retention took them.
    pub(crate) trimmed: u64,
    /// Keys that were not parked because too many are.
    pub(crate) unparkable: u64,
}

impl Counters {
    pub(crate) fn add(&mut self, other: &Counters) {
        self.acked += other.acked;
        self.retried += other.retried;
        self.released += other.released;
        self.expired += other.expired;
        self.lost += other.lost;
        for (sum, more) in self.dead.iter_mut().zip(other.dead) {
            *sum += more;
        }
        self.discarded += other.discarded;
        self.cancelled += other.cancelled;
        self.unmatched += other.unmatched;
        self.trimmed += other.trimmed;
        self.unparkable += other.unparkable;
    }
}

/// A queue.
#[derive(Debug, Clone)]
pub(crate) struct State {
    pub(super) begun: bool,
    /// Raised by everything that makes messages fresh again.
    pub(super) epoch: u64,
    /// Greatest time seen.
    pub(super) now_ms: i64,
    /// Where it began, or was sought to last.
    pub(super) start: u64,
    pub(super) trimmed_to: u64,
    /// What can be read of the messages below `trimmed_to`; not saved here, see
    /// [`super::trimming`].
    pub(super) kept: Offsets,
    pub(super) settled: Settled,
    pub(super) next_lease: u64,
    /// Messages with a history, none of them settled.
    pub(super) open: Pages<PackedRecord>,
    /// Last error texts of open messages.
    pub(super) errors: BTreeMap<u64, Box<str>>,
    /// Failed attempts of open messages and of `dead`.
    pub(super) histories: Histories,
    /// Dead letters whose copies are not written, by number: all from `dead_written + 1` to
    /// `next_dead - 1`.
    pub(super) dead: Pages<PackedDead>,
    pub(super) dead_errors: BTreeMap<u64, Box<str>>,
    pub(super) next_dead: u64,
    pub(super) dead_written: u64,
    /// Hashes of keys whose messages go to the dead letters until they are unparked.
    pub(super) parked: BTreeSet<u64>,
    pub(super) counters: Counters,
    pub(super) outbox: Outbox,
    /// The leased among `open`; derived.
    pub(super) leased: Leased,
}

impl Default for State {
    fn default() -> State {
        State {
            begun: false,
            epoch: 0,
            now_ms: 0,
            start: 0,
            trimmed_to: 0,
            kept: Offsets::default(),
            settled: Settled::default(),
            next_lease: 1,
            open: Pages::default(),
            errors: BTreeMap::new(),
            histories: Histories::default(),
            dead: Pages::default(),
            dead_errors: BTreeMap::new(),
            next_dead: 1,
            dead_written: 0,
            parked: BTreeSet::new(),
            counters: Counters::default(),
            outbox: Outbox::default(),
            leased: Leased::default(),
        }
    }
}

/// What came of a batch: replies for the proposer, events for the leader's schedule.
#[derive(Debug)]
pub(crate) struct Applied {
    pub(crate) replies: Replies,
    pub(crate) events: Vec<Event>,
}

impl Reply {
    pub(super) fn of(status: Status) -> Reply {
        Reply {
            status: status as i32,
            ..Reply::default()
        }
    }

    pub(super) fn with(spans: Spans) -> Reply {
        Reply {
            status: Status::Done as i32,
            spans: spans.into_vec(),
            ..Reply::default()
        }
    }
}

/// A range in three: below the floor, within, at and beyond the end.
pub(super) fn cut(range: &Range<u64>, floor: u64, end: u64) -> [Range<u64>; 3] {
    let low = floor.clamp(range.start, range.end);
    let high = end.clamp(low, range.end);
    [range.start..low, low..high, high..range.end]
}

impl State {
    /// Applies the commands of one entry; `end` is the offset of the next record.
    pub(crate) fn apply(&mut self, batch: &Batch, end: u64) -> Applied {
        self.now_ms = self.now_ms.max(batch.now_ms);
        let mut events = Vec::new();
        let mut replies = Vec::with_capacity(batch.commands.len());
        for command in &batch.commands {
            let reply = match &command.kind {
                Some(kind) => self.apply_one(kind, batch.discard_dead, end, &mut events),
                None => Reply::of(Status::Unreadable),
            };
            replies.push(reply);
        }
        let replies = Replies { replies };
        Applied { replies, events }
    }

    fn apply_one(
        &mut self,
        kind: &Kind,
        discard: bool,
        end: u64,
        events: &mut Vec<Event>,
    ) -> Reply {
        match kind {
            Kind::Begin(start) => self.begin(*start, end, events),
            Kind::Forget(_) => {
                *self = State {
                    epoch: self.epoch + 1,
                    now_ms: self.now_ms,
                    next_lease: self.next_lease,
                    trimmed_to: self.trimmed_to,
                    kept: std::mem::take(&mut self.kept),
                    ..State::default()
                };
                events.push(Event::Restarted);
                Reply::of(Status::Done)
            }
            Kind::Trim(log_start) => {
                events.extend(self.trim((*log_start).min(end), &Offsets::default()));
                Reply::of(Status::Done)
            }
            _ if !self.begun => Reply::of(Status::NotBegun),
            Kind::Seek(offset) => self.seek(*offset, end, events),
            Kind::Lease(grant) => self.lease(grant, end, events),
            Kind::Settle(verdicts) => self.judge(Rule::Settle, verdicts, discard, events),
            Kind::Expire(verdicts) => self.judge(Rule::Expire, verdicts, discard, events),
            Kind::Gone(verdicts) => self.judge(Rule::Gone, verdicts, discard, events),
            Kind::DeadWritten(up_to) => self.dead_written(*up_to),
            Kind::Drop(dropping) => self.drop_messages(dropping, discard, end, events),
            Kind::Delay(delay) => self.delay(delay, end, events),
            Kind::Complete(completion) => self.complete(completion, discard, events),
            Kind::Written(written) => Reply::of(self.outbox.note_written(written)),
            Kind::Unpark(key) => {
                self.parked.remove(key);
                events.push(Event::Unparked { key: *key });
                Reply::of(Status::Done)
            }
        }
    }

    fn begin(&mut self, start: u64, end: u64, events: &mut Vec<Event>) -> Reply {
        if start > end {
            return Reply::of(Status::BeyondEnd);
        }
        if !self.begun {
            self.begun = true;
            self.start_over(start);
            events.push(Event::Restarted);
        }
        Reply::of(Status::Done)
    }

    fn seek(&mut self, offset: u64, end: u64, events: &mut Vec<Event>) -> Reply {
        if offset > end {
            return Reply::of(Status::BeyondEnd);
        }
        self.start_over(offset);
        events.push(Event::Restarted);
        Reply::of(Status::Done)
    }

    /// Everything below `offset` is settled, everything else fresh that can be read. Lease numbers,
    /// dead letters and counters go on.
    fn start_over(&mut self, offset: u64) {
        self.epoch += 1;
        self.settled = self.settled_from(offset);
        self.start = self.settled.floor();
        self.open = Pages::default();
        self.errors.clear();
        self.histories.start_over();
        self.parked.clear();
        self.leased = Leased::default();
    }

    fn dead_written(&mut self, up_to: u64) -> Reply {
        if up_to >= self.next_dead {
            return Reply::of(Status::BeyondEnd);
        }
        if up_to > self.dead_written {
            self.dead.remove_range(self.dead_written + 1..up_to + 1);
            self.dead_errors = self.dead_errors.split_off(&(up_to + 1));
            self.histories.forget_dead(up_to);
            self.dead_written = up_to;
        }
        Reply::of(Status::Done)
    }

    /// Leases what can be leased. Numbers are given in the order in which the grant names the
    /// messages, one each, so a run of leased messages has a run of numbers.
    fn lease(&mut self, grant: &Grant, end: u64, events: &mut Vec<Event>) -> Reply {
        let named = grant.runs.iter().map(|run| run.count.max(1));
        if named.fold(0, u64::saturating_add) > MAX_LEASES_PER_GRANT {
            return Reply::of(Status::TooMany);
        }
        if grant.epoch != self.epoch {
            return Reply::of(Status::Fenced);
        }
        if grant.deadline_ms <= self.now_ms {
            return Reply::of(Status::LeaseLost);
        }
        let mut spans = Spans::default();
        for run in &grant.runs {
            let [below, within, beyond] = cut(&run.range(), self.settled.floor(), end);
            spans.push(below, Status::Settled);
            self.lease_run(within, grant, &mut spans);
            spans.push(beyond, Status::BeyondEnd);
        }
        let reply = Reply::with(spans);
        for span in reply.spans.iter().filter(|span| span.lease > 0) {
            let (consumer, deadline_ms) = (grant.consumer, grant.deadline_ms);
            self.leased.add(span.range(), consumer, deadline_ms);
            events.push(Event::Leased {
                run: span.range(),
                deadline_ms: grant.deadline_ms,
            });
        }
        reply
    }

    fn lease_run(&mut self, range: Range<u64>, grant: &Grant, spans: &mut Spans) {
        let State {
            open,
            settled,
            next_lease,
            now_ms,
            ..
        } = self;
        let some_settled = settled.count(range.clone()) > 0;
        open.fill(range, |offset, known| {
            let one = offset..offset + 1;
            let mut record = match known {
                Some(packed) => Record::from(packed),
                None if some_settled && settled.contains(offset) => {
                    spans.push(one, Status::Settled);
                    return None;
                }
                None => Record::FRESH,
            };
            match record.phase {
                Phase::Leased(_) => spans.push(one, Status::Leased),
                Phase::Retry { at_ms } if at_ms > *now_ms => spans.push(one, Status::NotDue),
                // Whoever grants has looked at the wall clock.
                Phase::Ready | Phase::Retry { .. } | Phase::Delayed { .. } => {
                    let number = *next_lease;
                    *next_lease += 1;
                    record.hand_outs = record.hand_outs.saturating_add(1);
                    record.phase = Phase::Leased(Lease {
                        number,
                        deadline_ms: grant.deadline_ms,
                        consumer: grant.consumer,
                    });
                    spans.push_leased(one, Status::Done, number);
                    return Some(record.into());
                }
            }
            None
        });
    }
}
