//! What can be asked of a queue's state. Pure, and changes nothing.

use std::{collections::BTreeSet, ops::Range};

use super::{
    history::{Attempt, attempts},
    outbox::Outbox,
    record::{Dead, Lease, Phase, Record},
    state::{Counters, State},
};

/// Buckets of [`Tally::failed`]: 0 to 14 failed attempts, and 15 or more.
pub(crate) const ATTEMPT_BUCKETS: usize = 16;

/// Where an offset stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    Settled,
    /// Never handed out.
    Fresh,
    Open(Record),
}

/// How many messages of a range are in each of the five states.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Waiting for a retry. Messages published with a delay are fresh, and count as ready here:
    /// who knows the log takes them over.
    pub(crate) delayed: u64,
    pub(crate) ready: u64,
    pub(crate) leased: u64,
    /// Settled, dead letters with a written copy included.
    pub(crate) done: u64,
    /// Dead letters whose copy is not written yet.
    pub(crate) dead: u64,
}

impl Counts {
    pub(crate) fn add(&mut self, other: &Counts) {
        self.delayed += other.delayed;
        self.ready += other.ready;
        self.leased += other.leased;
        self.done += other.done;
        self.dead += other.dead;
    }
}

/// Open messages by what they wait for, and by how often they failed; see [`ATTEMPT_BUCKETS`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) now_ms: i64,
    pub(crate) leased: u64,
    /// Waiting for a retry after `now_ms`.
    pub(crate) delayed: u64,
    pub(crate) failed: [u64; ATTEMPT_BUCKETS],
}

/// A leased message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) offset: u64,
    pub(crate) failed: u32,
    pub(crate) hand_outs: u32,
    pub(crate) lease: Lease,
}

impl State {
    pub(crate) fn begun(&self) -> bool {
        self.begun
    }

    /// Greatest time seen.
    pub(crate) fn now_ms(&self) -> i64 {
        self.now_ms
    }

    /// What grants and drops must name.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The oldest unfinished offset; the high watermark or more if there is none.
    pub(crate) fn floor(&self) -> u64 {
        self.settled.floor()
    }

    /// The number of the next lease.
    #[cfg(test)]
    pub(crate) fn next_lease(&self) -> u64 {
        self.next_lease
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Results of steps on their way to their topics, and the steps that were made.
    pub(crate) fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    pub(crate) fn standing(&self, offset: u64) -> Standing {
        if self.settled.contains(offset) {
            return Standing::Settled;
        }
        match self.open.get(offset) {
            Some(packed) => Standing::Open(packed.into()),
            None => Standing::Fresh,
        }
    }

    /// The text of the last failure of an open message.
    pub(crate) fn last_error(&self, offset: u64) -> Option<&str> {
        self.errors.get(&offset).map(AsRef::as_ref)
    }

    /// The latest failed attempts of an open message, as many as are kept, the oldest first.
    pub(crate) fn history(&self, offset: u64) -> impl Iterator<Item = Attempt<'_>> {
        attempts(self.histories.of_open(offset))
    }

    /// The first run of unfinished offsets at or after `from` and below `end`: what a scan of
    /// the log has to look at.
    pub(crate) fn next_unfinished(&self, from: u64, end: u64) -> Option<Range<u64>> {
        self.settled.next_gap(from..end)
    }

    /// The last offset with a history, if any has one.
    pub(crate) fn last_open(&self) -> Option<u64> {
        self.open.last()
    }

    /// Open messages in order of offsets.
    pub(crate) fn open(&self, from: u64) -> impl Iterator<Item = (u64, Record)> + '_ {
        let open = self.open.iter_from(from);
        open.map(|(offset, packed)| (offset, packed.into()))
    }

    /// How many messages are leased.
    pub(crate) fn in_flight(&self) -> u64 {
        self.leased.len()
    }

    /// Leased messages in order of offsets.
    pub(crate) fn held(&self, from: u64) -> impl Iterator<Item = Held> + '_ {
        let leased = self.leased.iter_from(from);
        leased.filter_map(|offset| self.lease_of(offset))
    }

    fn lease_of(&self, offset: u64) -> Option<Held> {
        let record = Record::from(self.open.get(offset)?);
        Some(Held {
            offset,
            failed: record.failed,
            hand_outs: record.hand_outs,
            lease: record.lease()?,
        })
    }

    /// What a consumer holds, in order of offsets.
    pub(crate) fn held_by(&self, consumer: u64) -> impl Iterator<Item = Held> + '_ {
        self.leased.of(consumer).filter_map(|at| self.lease_of(at))
    }

    /// How many messages a consumer holds.
    pub(crate) fn held_count(&self, consumer: u64) -> u64 {
        self.leased.count_of(consumer)
    }

    /// Who holds anything.
    pub(crate) fn holders(&self) -> impl Iterator<Item = u64> + '_ {
        self.leased.consumers()
    }

    /// At most `max` leases that are past their deadline, the oldest first, and the earliest
    /// deadline of the others (the present time, if there are more). Who fails to log their
    /// expiry asks again: they are in no timer any more.
    pub(crate) fn overdue(&self, now_ms: i64, max: usize) -> (Vec<Held>, Option<i64>) {
        let mut due = self.leased.due(now_ms).filter_map(|at| self.lease_of(at));
        let overdue: Vec<Held> = due.by_ref().take(max).collect();
        let next = match due.next() {
            Some(_) => Some(now_ms),
            None => self.leased.next_after(now_ms),
        };
        (overdue, next)
    }

    /// Dead letters with numbers from `number` on whose copies are not written.
    pub(crate) fn dead_letters(&self, number: u64) -> impl Iterator<Item = (u64, Dead)> + '_ {
        let dead = self.dead.iter_from(number);
        dead.map(|(number, packed)| (number, packed.into()))
    }

    /// The text of the last failure of a dead letter.
    pub(crate) fn dead_error(&self, number: u64) -> Option<&str> {
        self.dead_errors.get(&number).map(AsRef::as_ref)
    }

    /// The latest failed attempts of a dead letter, as many as are kept, the oldest first.
    pub(crate) fn dead_history(&self, number: u64) -> impl Iterator<Item = Attempt<'_>> {
        attempts(self.histories.of_dead(number))
    }

    /// The number of the last dead letter whose copy is written.
    pub(crate) fn dead_written_to(&self) -> u64 {
        self.dead_written
    }

    /// The number of the last dead letter; 0 if there was none.
    pub(crate) fn dead_numbered_to(&self) -> u64 {
        self.next_dead.saturating_sub(1)
    }

    /// How many keys are parked.
    pub(crate) fn parked_count(&self) -> u64 {
        self.parked.len() as u64
    }

    /// Whether a key is parked, by its hash.
    pub(crate) fn is_parked(&self, key: u64) -> bool {
        self.parked.contains(&key)
    }

    /// Hashes of the parked keys.
    pub(crate) fn parked(&self) -> impl Iterator<Item = u64> + '_ {
        self.parked.iter().copied()
    }

    /// Unfinished messages of a range.
    pub(crate) fn unfinished(&self, log: Range<u64>) -> u64 {
        let all = log.end.saturating_sub(log.start);
        all.saturating_sub(self.settled.count(log))
    }

    /// Looks at open messages from an offset on, at most `max`; where to go on, if there are
    /// more. Many are better looked at in pieces, with the lock let go between.
    pub(crate) fn tally(&self, from: u64, max: usize, tally: &mut Tally) -> Option<u64> {
        for (nth, (offset, record)) in self.open(from).enumerate() {
            if nth == max {
                return Some(offset);
            }
            match record.phase {
                Phase::Leased(_) => tally.leased += 1,
                Phase::Retry { at_ms } | Phase::Delayed { until_ms: at_ms }
                    if at_ms > tally.now_ms =>
                {
                    tally.delayed += 1;
                }
                Phase::Ready | Phase::Retry { .. } | Phase::Delayed { .. } => {}
            }
            tally.failed[(record.failed as usize).min(ATTEMPT_BUCKETS - 1)] += 1;
        }
        None
    }

    /// Counts by state of the log from its start to the high watermark and of what is kept aside,
    /// with the tally of all open messages.
    pub(crate) fn counts(&self, log: Range<u64>, tally: &Tally) -> Counts {
        let aside = self.unfinished_aside();
        let settled = self.settled.count(log.clone()) + self.kept.len().saturating_sub(aside);
        // After a seek an offset may be unfinished again, or die twice.
        let dead = self.dead_letters(0).map(|(_, dead)| dead.offset);
        let is_there = |offset: &u64| log.contains(offset) || self.kept.contains(*offset);
        let dead = dead.filter(|offset| is_there(offset) && self.settled.contains(*offset));
        let dead = dead.collect::<BTreeSet<_>>().len() as u64;
        let unfinished = self.unfinished(log) + aside;
        Counts {
            delayed: tally.delayed,
            ready: unfinished.saturating_sub(tally.leased + tally.delayed),
            leased: tally.leased,
            done: settled - dead,
            dead,
        }
    }

    /// Bytes that the state takes, about.
    #[cfg(test)]
    pub(crate) fn bytes(&self) -> usize {
        let texts = self.errors.values().chain(self.dead_errors.values());
        let texts = texts.map(|text| text.len() + 48).sum::<usize>();
        self.settled.bytes()
            + self.leased.bytes()
            + self.open.bytes()
            + self.dead.bytes()
            + texts
            + self.histories.bytes()
            + self.parked.len() * 16
    }
}
