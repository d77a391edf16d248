//! What a member knows and decides: assignments, what is buffered, commits: pure.
//!
//! Time is what has passed since the consumer was built. Promises:
//! - per assignment, messages are handed out in the order of their offsets, each once, from the
//!   assigned position on;
//! - nothing of a partition is handed out after it was asked back, lost, or cut off;
//! - a commit never names more than is done, and always the epoch of the present assignment;
//! - one request with commits is on its way at most, and a partition is released only when its
//!   commits are answered (or the broker is about to take it);
//! - whoever waits for a commit is answered exactly once.

use std::{
    collections::{BTreeMap, VecDeque},
    mem,
    time::Duration,
};

use aqueduct_proto::v1::{self, consume_request, consume_response::Kind};
use bytes::Bytes;

mod receiving;
mod sending;

use super::{
    event::{CommitMode, GroupEvent},
    flow::{Amount, Flow},
    progress::Progress,
};
use crate::{Error, batches};

/// After a refused commit nothing is committed for so long.
const AFTER_REFUSAL: Duration = Duration::from_millis(200);

/// Settings.
#[derive(Clone, Copy, Debug)]
pub(super) struct Policy {
    pub(super) mode: CommitMode,
    pub(super) commit_interval: Duration,
    pub(super) prefetch: Amount,
    /// Messages of a partition that may be handed out beyond the first one that is not done.
    pub(super) max_unfinished: u64,
}

/// One assignment.
#[derive(Debug)]
struct Slot {
    epoch: u64,
    /// The next offset that is wanted out of what is buffered.
    next: u64,
    /// One past the last offset that arrived.
    received: u64,
    progress: Progress,
    /// Asked back: to be released by then.
    release_by: Option<Duration>,
    /// The last commit was refused.
    refused: bool,
}

/// Batches of one partition that arrived together.
#[derive(Debug)]
pub(super) struct Buffered {
    pub(super) partition: u32,
    pub(super) epoch: u64,
    pub(super) batches: Vec<Bytes>,
    /// First wanted offset; filled in when it is taken out.
    pub(super) next: u64,
    amount: Amount,
}

/// A commit that was sent.
#[derive(Debug)]
struct Asked {
    partition: u32,
    epoch: u64,
    offset: u64,
}

/// Somebody waits for a commit of all below `offset`.
#[derive(Debug)]
struct Ticket {
    partition: u32,
    epoch: u64,
    offset: u64,
}

/// Where a request for a commit stands.
#[derive(Debug)]
pub(super) enum Committing {
    /// The broker has it.
    Committed(u64),
    /// Its number; the answer comes with [`Output::answers`].
    Waiting(u64),
}

/// What happened, for those outside.
#[derive(Debug, Default)]
pub(super) struct Output {
    pub(super) events: Vec<GroupEvent>,
    pub(super) answers: Vec<(u64, Result<u64, Error>)>,
}

/// Everything; see the module.
#[derive(Debug)]
pub(super) struct Core {
    policy: Policy,
    slots: BTreeMap<u32, Slot>,
    buffer: VecDeque<Buffered>,
    flow: Flow,
    in_flight: Vec<Asked>,
    tickets: BTreeMap<u64, Ticket>,
    next_ticket: u64,
    /// Partition, epoch and end of what was handed out last (automatic commits).
    in_hand: Option<(u32, u64, u64)>,
    commit_at: Duration,
    /// No commits before this.
    hold_until: Duration,
    closing: bool,
    /// A commit was refused while closing: there is no second try.
    refused: bool,
    errors: VecDeque<Error>,
    output: Output,
}

impl Core {
    pub(super) fn new(policy: Policy) -> Self {
        Self {
            policy,
            slots: BTreeMap::new(),
            buffer: VecDeque::new(),
            flow: Flow::new(policy.prefetch),
            in_flight: Vec::new(),
            tickets: BTreeMap::new(),
            next_ticket: 0,
            in_hand: None,
            commit_at: policy.commit_interval,
            hold_until: Duration::ZERO,
            closing: false,
            refused: false,
            errors: VecDeque::new(),
            output: Output::default(),
        }
    }

    /// Events and answers since the last call.
    pub(super) fn output(&mut self) -> Output {
        mem::take(&mut self.output)
    }

    pub(super) fn event(&mut self, event: GroupEvent) {
        self.output.events.push(event);
    }

    /// Failures of single partitions that the stream must show.
    pub(super) fn error(&mut self) -> Option<Error> {
        self.errors.pop_front()
    }

    /// True if asking for more may bring something.
    pub(super) fn has_something(&self) -> bool {
        !self.buffer.is_empty() || !self.errors.is_empty()
    }

    /// Partitions that are read now.
    pub(super) fn partitions(&self) -> Vec<u32> {
        let held = self.slots.iter();
        held.filter(|(_, slot)| slot.release_by.is_none())
            .map(|(partition, _)| *partition)
            .collect()
    }

    // What the application does.

    /// The consumer is asked for more: what it handed out last is done, if commits are
    /// automatic. True if that lets a partition go.
    pub(super) fn polled(&mut self) -> bool {
        let Some((partition, epoch, next)) = self.in_hand.take() else {
            return false;
        };
        let slot = self.slots.get_mut(&partition);
        slot.filter(|slot| slot.epoch == epoch).is_some_and(|slot| {
            slot.progress.finish_through(next);
            slot.release_by.is_some()
        })
    }

    /// The next batches to open. They no longer count as buffered.
    pub(super) fn next(&mut self) -> Option<Buffered> {
        let (slots, limit) = (&self.slots, self.policy.max_unfinished);
        let open = |it: &Buffered| {
            let slot = slots.get(&it.partition);
            slot.is_some_and(|slot| slot.progress.open() < limit)
        };
        let at = self.buffer.iter().position(open)?;
        let mut found = self.buffer.remove(at)?;
        self.flow.taken(found.amount);
        found.next = self.slots.get(&found.partition)?.next;
        Some(found)
    }

    /// Batches were opened up to `next`; false if the partition is gone meanwhile.
    pub(super) fn opened(&mut self, partition: u32, epoch: u64, next: u64) -> bool {
        let Some(slot) = self.handing(partition, epoch) else {
            return false;
        };
        slot.next = slot.next.max(next);
        true
    }

    /// Messages `first..next` are handed out now; false if the partition is gone meanwhile.
    pub(super) fn take(&mut self, partition: u32, epoch: u64, first: u64, next: u64) -> bool {
        let Some(slot) = self.handing(partition, epoch) else {
            return false;
        };
        slot.progress.take(first, next);
        if self.policy.mode == CommitMode::Automatic {
            self.in_hand = Some((partition, epoch, next));
        }
        true
    }

    fn handing(&mut self, partition: u32, epoch: u64) -> Option<&mut Slot> {
        let slot = self.slots.get_mut(&partition)?;
        (slot.epoch == epoch && slot.release_by.is_none()).then_some(slot)
    }

    /// True if the broker should be told that there is room again.
    pub(super) fn credit_due(&self) -> bool {
        self.flow.is_due()
    }

    /// These messages are done. True if that lets a partition go or frees one that was full.
    pub(super) fn finish(
        &mut self,
        partition: u32,
        epoch: u64,
        from: u64,
        until: u64,
    ) -> Result<bool, Error> {
        let limit = self.policy.max_unfinished;
        let slot = self.held(partition, epoch)?;
        let was_full = slot.progress.open() >= limit;
        slot.progress.finish(from, until);
        let freed = was_full && slot.progress.open() < limit;
        Ok(freed || (slot.release_by.is_some() && slot.progress.is_idle()))
    }

    /// Everything below `next` is done and shall be committed now. Without an epoch the present
    /// one is meant.
    pub(super) fn commit(
        &mut self,
        partition: u32,
        epoch: Option<u64>,
        next: u64,
    ) -> Result<Committing, Error> {
        let present = self.slots.get(&partition).map(|slot| slot.epoch);
        let epoch = epoch.or(present).unwrap_or_default();
        let slot = self.held(partition, epoch)?;
        if !slot.progress.finish_through(next) {
            let taken = slot.progress.taken();
            return Err(Error::invalid(format!(
                "commit of {partition}:{next}: messages below {taken} were handed out so far"
            )));
        }
        if slot.progress.committed() >= next {
            return Ok(Committing::Committed(slot.progress.committed()));
        }
        let number = self.next_ticket;
        self.next_ticket += 1;
        let ticket = Ticket {
            partition,
            epoch,
            offset: next,
        };
        self.tickets.insert(number, ticket);
        Ok(Committing::Waiting(number))
    }

    /// Partition and end of everything that was handed out.
    pub(super) fn taken(&self) -> Vec<(u32, u64)> {
        let slots = self.slots.iter();
        slots
            .map(|(partition, slot)| (*partition, slot.progress.taken()))
            .collect()
    }

    fn held(&mut self, partition: u32, epoch: u64) -> Result<&mut Slot, Error> {
        let slot = self.slots.get_mut(&partition);
        let slot = slot.filter(|slot| slot.epoch == epoch);
        slot.ok_or_else(|| Error::commit_fenced(partition))
    }

    /// No more is handed out; commit what is done, then leave.
    pub(super) fn close(&mut self) {
        self.closing = true;
        self.buffer.clear();
    }

    pub(super) fn is_closing(&self) -> bool {
        self.closing
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests;
