//! What is on its way, and with which sequence numbers: a pure state machine.
//!
//! Messages and answers and times go in; parcels to send and outcomes come out. It knows no
//! socket, no task and no clock.
//!
//! Each partition has a *lane*. A lane's open batch is closed when it is full, or when it is its
//! turn to be sent. Parcels leave in order; answers come in the order of the parcels.
//!
//! ```text
//! add -> lane.open -> queue -> in_flight -> outcome
//!                       ^         |  refused for now, stream lost, sequence gap behind a refusal
//!                       '- lane.again + lane.waiting  (the lane is stalled until its last
//!                                                      parcel in flight is answered)
//! ```
//!
//! Sequences: a lane's parcels are numbered without a hole from `acked`, the count of messages
//! that are known to be stored. A parcel that was certainly not stored leaves no hole, because
//! those behind it are refused by the broker as a gap, come back, and are numbered anew. A
//! parcel whose fate is unknown goes again under the number it had: if something behind it is
//! stored, so is it, and it keeps its number; if nothing is, the count gives it the same number,
//! unless a parcel before it was dropped.
//!
//! In that last case a copy of it may still be on its way on the lost connection, under a number
//! that another parcel gets now: it would be stored twice, and the other one be taken for a
//! duplicate. So a nameless producer raises its epoch with each lost stream, which fences every such
//! copy as soon as anything of the new epoch is stored; before that, the copy is a gap. A named
//! producer cannot raise its epoch without fencing whoever has taken the name since, so it ends
//! with a conflict. Under another producer id nothing is sent again that may be stored.

mod ending;
mod filling;
mod parcel;

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use aqueduct_proto::{compression::Compression, partitioner::Sticky};

pub(super) use parcel::{Body, Identity, Parcel};

use super::{
    Ack,
    delivery::{Completion, Outcome},
};
use crate::Error;
use parcel::{Open, all_to_retry, sequence_of, stamp};

/// Half-filled batches of one partition in flight. When so many are, the next one fills until
/// an answer comes: small messages are sent at once when little is going on, and in large
/// batches when much is.
const LANE_PIPELINE: u32 = 4;
/// Longest wait that a broker may ask for.
const LONGEST_DELAY: Duration = Duration::from_secs(60);
/// How soon to try again after a refusal that named no time.
const RETRY_DELAY: Duration = Duration::from_millis(50);

#[derive(Clone, Copy, Debug)]
pub(super) struct Settings {
    pub batch_bytes: usize,
    pub batch_messages: u32,
    pub max_in_flight_bytes: usize,
    pub linger: Duration,
    pub compression: Compression,
    /// The broker builds the batches and chooses the partitions.
    pub plain: bool,
    /// Skip what an earlier run of this named producer has stored.
    pub resume: bool,
    /// The broker knows from where a named producer counts. A nameless one may begin anywhere.
    pub named: bool,
}

/// What a partition has of a named producer.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Stored {
    pub count: u64,
    pub last_offset: u64,
}

#[derive(Debug)]
pub(super) struct Window {
    settings: Settings,
    identity: Option<Identity>,
    lanes: Vec<Lane>,
    /// Closed and not sent.
    queue: VecDeque<Parcel>,
    /// Sent and not answered, in the order of the requests of the present stream.
    in_flight: VecDeque<Parcel>,
    /// Lanes with an open batch that may be sent.
    ready: VecDeque<u32>,
    /// Stalled lanes with nothing in flight: they go on when their time has come.
    parked: Vec<u32>,
    bytes: usize,
    sticky: Sticky,
    /// A named producer would have to give a number to another parcel while a copy of the first
    /// may be on its way.
    unsafe_numbers: bool,
    /// The broker does not know this nameless producer: nothing is sent until everything in flight
    /// is answered and there is a new identity.
    unknown_here: bool,
}

#[derive(Debug, Default)]
struct Lane {
    /// Messages known to be stored; the next sequence after them.
    acked: u64,
    /// Sequence of the next parcel to be sent.
    next: u64,
    /// Sequence that the next batch to be closed will probably have.
    predicted: u64,
    at_start: Stored,
    /// Messages of this run that were compared with `at_start`.
    replayed: u64,
    in_flight: u32,
    open: Option<Open>,
    listed: bool,
    stalled: bool,
    parked: bool,
    retry_at: Option<Instant>,
    again: VecDeque<Parcel>,
    waiting: VecDeque<Parcel>,
    /// Size of the last batch, as a hint for the next one's buffer.
    last_bytes: usize,
}

/// What time it is, for whom it matters.
pub(super) trait Clock {
    fn now(&self) -> Instant;
    /// Milliseconds since the Unix epoch.
    fn now_ms(&self) -> i64;
}

/// What [`Window::add`] did.
pub(super) struct Added {
    pub completion: Arc<Completion>,
    pub index: u32,
    /// There is something new to send.
    pub wake: bool,
}

/// What is to be done next.
pub(super) enum Next<'a> {
    Send(&'a Parcel),
    /// Nothing, before this time (if any) or the next event.
    Wait(Option<Instant>),
}

/// What the broker said to the oldest request in flight.
#[derive(Debug)]
pub(super) enum Answer {
    Stored {
        partition: u32,
        base_offset: u64,
        duplicate: bool,
    },
    Each(Vec<Result<Ack, Error>>),
    Refused(Error),
}

/// What an answer means for the producer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    GoOn,
    /// No request is open, or the answer does not fit it: the stream is of no use.
    Confused(&'static str),
    /// The broker's sequence is not ours: the producer needs a new identity.
    LostCount,
    /// The broker never gave out this producer's id, and everything in flight is answered: the
    /// producer needs a new identity.
    UnknownHere,
    /// Somebody else has the name.
    Fenced,
}

/// Whether a message is stored already.
pub(super) enum Resume {
    Stored(Ack),
    New,
}

impl Window {
    pub(super) fn new(settings: Settings, partitions: u32, seed: u64) -> Self {
        let mut window = Self {
            settings,
            identity: None,
            lanes: Vec::new(),
            queue: VecDeque::new(),
            in_flight: VecDeque::new(),
            ready: VecDeque::new(),
            parked: Vec::new(),
            bytes: 0,
            sticky: Sticky::new(partitions.max(1), seed),
            unsafe_numbers: false,
            unknown_here: false,
        };
        window.set_partitions(partitions.max(1));
        window
    }

    /// Takes note of partitions that were added; there are never fewer.
    pub(super) fn set_partitions(&mut self, partitions: u32) {
        while self.lanes.len() < partitions as usize {
            self.lanes.push(Lane::default());
        }
        self.sticky.set_partitions(self.partitions());
    }

    /// Says who sends from now on, and what is stored of that producer. Nothing may be in
    /// flight.
    pub(super) fn set_identity(&mut self, identity: Option<Identity>, stored: &[(u32, Stored)]) {
        assert!(
            self.in_flight.is_empty(),
            "the stream of the old identity is gone"
        );
        self.identity = identity;
        self.unknown_here = false;
        self.give_up_unknown();
        for lane in &mut self.lanes {
            (lane.acked, lane.next, lane.predicted) = (0, 0, 0);
        }
        for (partition, stored) in stored {
            self.set_partitions(partition.saturating_add(1).min(1 << 20));
            let Some(lane) = self.lanes.get_mut(*partition as usize) else {
                continue;
            };
            (lane.acked, lane.next, lane.predicted) = (stored.count, stored.count, stored.count);
            lane.at_start = *stored;
        }
    }

    /// Whether the numbers cannot go on safely: the producer must end.
    pub(super) fn has_unsafe_numbers(&self) -> bool {
        self.unsafe_numbers
    }

    pub(super) fn has_identity(&self) -> bool {
        self.settings.plain || self.identity.is_some()
    }

    pub(super) fn partitions(&self) -> u32 {
        u32::try_from(self.lanes.len()).expect("lanes are counted by u32")
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Whether [`Window::next`] may have something, now or at some time.
    pub(super) fn has_something_to_send(&self) -> bool {
        !(self.queue.is_empty() && self.ready.is_empty() && self.parked.is_empty())
    }

    pub(super) fn has_room(&self, size: usize) -> bool {
        self.bytes == 0 || self.bytes + size <= self.settings.max_in_flight_bytes
    }

    pub(super) fn stored_at_start(&self, partition: u32) -> u64 {
        self.lanes
            .get(partition as usize)
            .map_or(0, |lane| lane.at_start.count)
    }

    /// Puts a lane whose open batch may be sent on the list; true if it was put there now.
    fn list(&mut self, place: u32) -> bool {
        let lane = &mut self.lanes[place as usize];
        let may = lane.open.is_some() && !lane.stalled && lane.in_flight < LANE_PIPELINE;
        if !may || lane.listed {
            return false;
        }
        lane.listed = true;
        self.ready.push_back(place);
        true
    }

    /// What to send next. The parcel counts as in flight from here on.
    pub(super) fn next(&mut self, now: Instant) -> Next<'_> {
        let due = self.release_due(now);
        loop {
            if self.unsafe_numbers || self.unknown_here {
                return Next::Wait(None);
            }
            if let Some(parcel) = self.queue.pop_front() {
                let lane = &mut self.lanes[parcel.lane as usize];
                if lane.stalled {
                    lane.waiting.push_back(parcel);
                    continue;
                }
                if self.settings.named && lane.moves(&parcel) {
                    self.unsafe_numbers = true;
                    self.queue.push_front(parcel);
                    continue;
                }
                self.stamp_and_fly(parcel);
                return Next::Send(self.in_flight.back().expect("pushed just now"));
            }
            let Some(&place) = self.ready.front() else {
                return Next::Wait(due);
            };
            let lane = &mut self.lanes[place as usize];
            if let Some(open) = lane.open.as_ref().filter(|_| !lane.stalled) {
                let at = open.load.since + self.settings.linger;
                if at > now {
                    return Next::Wait(Some(due.map_or(at, |due| due.min(at))));
                }
            }
            lane.listed = false;
            self.ready.pop_front();
            if !lane.stalled {
                self.close(place);
            }
        }
    }

    /// Lets lanes go on whose time has come; returns when the next one's will.
    fn release_due(&mut self, now: Instant) -> Option<Instant> {
        if self.parked.is_empty() {
            return None;
        }
        let mut next = None;
        for place in std::mem::take(&mut self.parked) {
            let at = self.lanes[place as usize].retry_at.filter(|at| *at > now);
            match at {
                None => self.release(place),
                Some(at) => {
                    next = Some(next.map_or(at, |next: Instant| next.min(at)));
                    self.parked.push(place);
                }
            }
        }
        next
    }

    fn release(&mut self, place: u32) {
        let lane = &mut self.lanes[place as usize];
        assert_eq!(
            lane.in_flight, 0,
            "a lane goes on when all of it is answered"
        );
        (lane.stalled, lane.parked, lane.retry_at) = (false, false, None);
        lane.next = lane.acked;
        for parcel in lane.waiting.drain(..).rev() {
            self.queue.push_front(parcel);
        }
        for parcel in lane.again.drain(..).rev() {
            self.queue.push_front(parcel);
        }
        self.list(place);
    }

    fn stamp_and_fly(&mut self, mut parcel: Parcel) {
        let lane = &mut self.lanes[parcel.lane as usize];
        let stored = lane.has(&parcel);
        if let (Body::Batch { records, .. }, Some(identity)) = (&mut parcel.body, self.identity) {
            if !stored {
                parcel.ordinal = lane.next;
                lane.next += u64::from(parcel.count);
            }
            if stamp(records, identity, sequence_of(parcel.ordinal)) {
                let later = self
                    .queue
                    .iter()
                    .filter(|queued| queued.lane == parcel.lane);
                let later: u64 = later.map(|queued| u64::from(queued.count)).sum();
                lane.predicted = lane.next + later;
            }
        }
        // The broker takes the first sequence it sees of a nameless producer as its beginning.
        // So nothing may follow the first batch before that is stored: if it were refused, the
        // second would become the beginning, and the first one's number would lie in the past.
        let proven = self.settings.named || self.settings.plain || lane.acked > 0;
        lane.stalled |= !proven;
        parcel.attempts += 1;
        lane.in_flight += 1;
        self.in_flight.push_back(parcel);
    }

    /// Takes the broker's word on the oldest request in flight.
    pub(super) fn answer(&mut self, answer: Answer, clock: &impl Clock) -> Verdict {
        let Some(mut parcel) = self.in_flight.pop_front() else {
            return Verdict::Confused("an answer without a request");
        };
        let place = parcel.lane;
        let lane = &mut self.lanes[place as usize];
        lane.in_flight -= 1;
        let mut verdict = Verdict::GoOn;
        match answer {
            Answer::Stored {
                partition,
                base_offset,
                duplicate,
            } => {
                lane.acked = lane.acked.max(parcel.ordinal + u64::from(parcel.count));
                // Our own second attempt is not what a caller means by a duplicate.
                let duplicate = duplicate && parcel.attempts == 1;
                self.finish(
                    &parcel,
                    Outcome::Stored {
                        partition,
                        base_offset,
                        duplicate,
                    },
                );
            }
            Answer::Each(results) => match all_to_retry(&results) {
                Some(error) => self.refuse(parcel, error, clock.now()),
                None => self.finish(&parcel, Outcome::Each(results)),
            },
            Answer::Refused(error) if error.reason() == "SEQUENCE_TOO_OLD" => {
                // Stored by an earlier attempt, so long ago that its place is forgotten.
                lane.acked = lane.acked.max(parcel.ordinal + u64::from(parcel.count));
                let (partition, base_offset) = (place, Ack::UNKNOWN_OFFSET);
                let duplicate = parcel.attempts == 1;
                self.finish(
                    &parcel,
                    Outcome::Stored {
                        partition,
                        base_offset,
                        duplicate,
                    },
                );
            }
            Answer::Refused(error) if matches!(error, Error::Fenced(_)) => {
                verdict = Verdict::Fenced;
                self.finish(&parcel, Outcome::Failed(error));
            }
            // A named producer may not have another id: what it had stored would have no number.
            Answer::Refused(error)
                if error.reason() == "PRODUCER_UNKNOWN" && !self.settings.named =>
            {
                // Certainly not stored by this attempt. What an earlier one did is decided when
                // there is a new identity.
                lane.again.push_back(parcel);
                lane.stalled = true;
                self.unknown_here = true;
            }
            Answer::Refused(error) if error.is_sequence_gap() && !lane.stalled => {
                verdict = Verdict::LostCount;
                parcel.maybe_stored = false;
                lane.again.push_back(parcel);
                lane.stalled = true;
            }
            Answer::Refused(error) => self.refuse(parcel, error, clock.now()),
        }
        self.settle(place);
        if self.unknown_here && self.in_flight.is_empty() {
            return Verdict::UnknownHere;
        }
        verdict
    }

    fn refuse(&mut self, mut parcel: Parcel, error: Error, now: Instant) {
        let lane = &mut self.lanes[parcel.lane as usize];
        let delay = match &error {
            // Only lanes that a refusal has stalled get here with a gap.
            error if error.is_sequence_gap() => Some(Duration::ZERO),
            Error::Exhausted { retry_after, .. } => retry_after.map(|it| it.min(LONGEST_DELAY)),
            error if error.is_unknown() && parcel.resendable() => Some(RETRY_DELAY),
            _ => None,
        };
        lane.stalled = true;
        let Some(delay) = delay else {
            // What is wrong with the message itself was so at the first attempt.
            let certain = matches!(error, Error::Invalid(_) | Error::TooLarge(_));
            let error = if parcel.maybe_stored && !certain {
                Error::unknown(error.message())
            } else {
                error
            };
            self.finish(&parcel, Outcome::Failed(error));
            return;
        };
        lane.retry_at = lane.retry_at.max(Some(now + delay));
        if error.is_sequence_gap() {
            // The broker counts less than our number, so it cannot have it.
            parcel.maybe_stored = false;
        } else {
            parcel.maybe_stored |= error.is_unknown();
            parcel.refused = Some(error);
        }
        lane.again.push_back(parcel);
    }

    /// After an answer: parks the lane if it is stalled and drained, else lists it.
    fn settle(&mut self, place: u32) {
        let lane = &mut self.lanes[place as usize];
        if lane.stalled && lane.in_flight == 0 && !lane.parked {
            lane.parked = true;
            self.parked.push(place);
        }
        self.list(place);
    }

    fn finish(&mut self, parcel: &Parcel, outcome: Outcome) {
        self.bytes -= parcel.bytes;
        parcel.completion.set(outcome);
    }
}

impl Lane {
    /// A batch behind this one is stored, so this one is too: only its answer is missing. That
    /// holds even if it was refused as a gap since: a copy from a lost stream may have come later.
    fn has(&self, parcel: &Parcel) -> bool {
        (parcel.maybe_stored || parcel.was_lost) && parcel.ordinal < self.acked
    }

    /// Whether a parcel of which a copy may still be on its way would get another number.
    fn moves(&self, parcel: &Parcel) -> bool {
        let is_batch = matches!(parcel.body, Body::Batch { .. });
        is_batch && parcel.was_lost && !self.has(parcel) && parcel.ordinal != self.next
    }
}

#[cfg(test)]
mod tests;
