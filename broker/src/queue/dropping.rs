//! Messages that end without a verdict, and dead letters on the way to their topic. Pure.

use std::ops::Range;

use super::{
    command::{Delay, DropReason, Dropping, Reason, Reply, Status},
    events::Event,
    pages::Visit,
    record::{Dead, MAX_TIME_MS, Phase, Record},
    spans::Spans,
    state::{State, cut},
    view::Standing,
};

impl State {
    /// Gives a dead letter its number; the caller settles the offset.
    pub(super) fn die(&mut self, offset: u64, record: &Record, reason: Reason, discard: bool) {
        self.counters.dead[reason as usize] += 1;
        let error = self.errors.remove(&offset);
        let history = self.histories.take(offset);
        if discard {
            self.counters.discarded += 1;
            return;
        }
        let number = self.next_dead;
        self.next_dead += 1;
        let dead = Dead {
            offset,
            reason,
            failed: record.failed,
            hand_outs: record.hand_outs,
            first_failure_ms: record.first_failure_ms,
            died_ms: self.now_ms,
        };
        self.dead.insert(number, dead.into());
        if let Some(error) = error {
            self.dead_errors.insert(number, error);
        }
        if let Some(history) = history {
            self.histories.bury(number, history);
        }
    }

    /// Ends messages that nobody holds; held and settled ones are refused.
    pub(super) fn drop_messages(
        &mut self,
        dropping: &Dropping,
        discard: bool,
        end: u64,
        events: &mut Vec<Event>,
    ) -> Reply {
        let reason = dropping.reason();
        if reason == DropReason::Unknown {
            return Reply::of(Status::Unreadable);
        }
        if dropping.epoch != self.epoch {
            return Reply::of(Status::Fenced);
        }
        let mut spans = Spans::default();
        for run in &dropping.runs {
            let [below, within, beyond] = cut(&run.range(), self.settled.floor(), end);
            spans.push(below, Status::Settled);
            let mut at = within.start;
            while let Some(gap) = self.settled.next_gap(at..within.end) {
                spans.push(at..gap.start, Status::Settled);
                at = gap.end;
                self.drop_gap(gap, reason, discard || dropping.discard, &mut spans);
            }
            spans.push(at..within.end, Status::Settled);
            spans.push(beyond, Status::BeyondEnd);
        }
        let reply = Reply::with(spans);
        let dropped = |span: &&super::command::Span| span.status() == Status::Done;
        for span in reply.spans.iter().filter(dropped) {
            events.push(Event::Dropped { run: span.range() });
        }
        reply
    }

    /// Drops what is not leased in a range of which nothing is settled.
    fn drop_gap(&mut self, gap: Range<u64>, reason: DropReason, discard: bool, spans: &mut Spans) {
        let (mut held, mut known) = (Vec::new(), Vec::new());
        self.open.visit(gap.clone(), |offset, packed| {
            let record = Record::from(*packed);
            if record.lease().is_some() {
                held.push(offset);
                return Visit::Keep;
            }
            known.push((offset, record));
            Visit::Remove
        });
        let mut known = known.into_iter().peekable();
        let mut start = gap.start;
        for stop in held.into_iter().chain([gap.end]) {
            let free = start..stop;
            spans.push(free.clone(), Status::Done);
            self.count_dropped(reason, free.end - free.start);
            if let Some(reason) = letter(reason) {
                for offset in free.clone() {
                    let record = known.next_if(|(known, _)| *known == offset);
                    let record = record.map_or(Record::FRESH, |(_, record)| record);
                    self.die(offset, &record, reason, discard);
                }
            }
            if !free.is_empty() {
                self.settle(free);
            }
            spans.push(stop..stop.saturating_add(1).min(gap.end), Status::Leased);
            start = stop.saturating_add(1);
        }
    }

    /// Gives a message that was never handed out another time to wait for.
    pub(super) fn delay(&mut self, delay: &Delay, end: u64, events: &mut Vec<Event>) -> Reply {
        let (offset, until_ms) = (delay.offset, delay.until_ms.clamp(0, MAX_TIME_MS));
        if delay.epoch != self.epoch {
            return Reply::of(Status::Fenced);
        }
        if offset >= end {
            return Reply::of(Status::BeyondEnd);
        }
        let mut record = match self.standing(offset) {
            Standing::Settled => return Reply::of(Status::Settled),
            Standing::Fresh => Record::FRESH,
            Standing::Open(record) if record.lease().is_some() => {
                return Reply::of(Status::Leased);
            }
            Standing::Open(record) if record.hand_outs > 0 => {
                return Reply::of(Status::HandedOut);
            }
            Standing::Open(record) => record,
        };
        record.phase = Phase::Delayed { until_ms };
        self.open.insert(offset, record.into());
        events.push(Event::Delayed { offset, until_ms });
        Reply::of(Status::Done)
    }

    fn count_dropped(&mut self, reason: DropReason, count: u64) {
        match reason {
            DropReason::Cancelled => self.counters.cancelled += count,
            DropReason::Unmatched => self.counters.unmatched += count,
            // Counted as dead.
            DropReason::Ttl | DropReason::Parked | DropReason::Unknown => {}
        }
    }
}

/// The reason of the dead letter, if one is kept of messages dropped so.
fn letter(reason: DropReason) -> Option<Reason> {
    match reason {
        DropReason::Ttl => Some(Reason::Ttl),
        DropReason::Parked => Some(Reason::Parked),
        DropReason::Cancelled | DropReason::Unmatched | DropReason::Unknown => None,
    }
}
