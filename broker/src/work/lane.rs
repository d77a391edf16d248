//! One partition of a queue group: its schedule, kept true by the events of the log, and reading.
//!
//! Whatever looks at the schedule follows all events before, under the lock of the state.

use std::{collections::HashSet, sync::Arc};

use tokio::sync::Notify;

use super::{attributes::attributes_of, deaths::Copies, reading::Reader, results::Couriers};
use crate::{
    clock,
    error::Refusal,
    partition::Partition,
    queue::{
        events::Event,
        known::Attributes,
        policy::{OnKeyFailure, Order, Policy},
        rate::Bucket,
        schedule::{Rules, Schedule},
        state::State,
    },
};

/// How long a partition that refused is left alone.
const PAUSE_MS: u64 = 200;
/// By how much the wall clock may go back, as it does when it is adjusted, without another look
/// at what it had made due.
const STEP_MS: i64 = 1_000;
/// How long nothing is leased after the disk was full.
const LEASES_REST_MS: u64 = 2_000;

/// One partition.
pub(super) struct Lane {
    pub(super) number: u32,
    pub(super) partition: Partition,
    pub(super) group_id: u64,
    schedule: Option<Schedule>,
    pub(super) reader: Reader,
    pub(super) bucket: Bucket,
    /// Consumers that are gone, whose leases are not ended yet, and whether in order.
    pub(super) gone: Vec<(u64, bool)>,
    pub(super) copies: Copies,
    /// The ways of results to their topics.
    pub(super) couriers: Couriers,
    paused_until: u64,
    /// The disk was full: verdicts still have room, leases rest until then.
    leases_rest_until: u64,
}

impl Lane {
    pub(super) fn new(
        number: u32,
        partition: Partition,
        group_id: u64,
        wake: &Arc<Notify>,
    ) -> Lane {
        partition
            .shared()
            .with_queues(|queues| queues.watch(group_id));
        let reader = Reader::new(&partition);
        reader.register(wake);
        Lane {
            number,
            partition,
            group_id,
            schedule: None,
            reader,
            bucket: Bucket::default(),
            gone: Vec::new(),
            copies: Copies::default(),
            couriers: Couriers::default(),
            paused_until: 0,
            leases_rest_until: 0,
        }
    }

    /// Nobody keeps events for this lane any more.
    pub(super) fn leave(&self, wake: &Arc<Notify>) {
        let id = self.group_id;
        self.partition
            .shared()
            .with_queues(|queues| queues.unwatch(id));
        self.reader.unregister(wake);
    }

    /// A changed policy needs another schedule.
    pub(super) fn reschedule(&mut self) {
        self.schedule = None;
    }

    /// After a step of the wall clock back, what was due by it has to wait again.
    pub(super) fn follow_wall(&mut self, policy: &Policy, wall_ms: i64) {
        let stepped = self.with(policy, |_, s| s.is_ahead_of(wall_ms, STEP_MS));
        if stepped == Some(true) {
            self.reschedule();
        }
    }

    pub(super) fn pause(&mut self) {
        self.paused_until = clock::monotonic_ms() + PAUSE_MS;
    }

    /// Nothing is leased for a while, so that verdicts go alone and have room.
    pub(super) fn rest_leases(&mut self) {
        self.leases_rest_until = clock::monotonic_ms() + LEASES_REST_MS;
    }

    pub(super) fn leases_rest(&self) -> bool {
        clock::monotonic_ms() < self.leases_rest_until
    }

    /// How long it is to be left alone, if at all.
    pub(super) fn pause_left_ms(&self) -> Option<u64> {
        let left = self.paused_until.saturating_sub(clock::monotonic_ms());
        (left > 0).then_some(left)
    }

    /// Looks at state and schedule, which agree; `None` if the queue has not begun here.
    pub(super) fn with<T>(
        &mut self,
        policy: &Policy,
        look: impl FnOnce(&State, &mut Schedule) -> T,
    ) -> Option<T> {
        let (id, schedule) = (self.group_id, &mut self.schedule);
        self.partition.shared().with_queues(|queues| {
            let events = queues.take_events(id);
            let state = queues.get(id)?;
            let is_new = schedule.is_none() || events.contains(&Event::Restarted);
            let schedule =
                schedule.get_or_insert_with(|| Schedule::new(Rules::from(policy), state));
            if is_new {
                *schedule = Schedule::new(Rules::from(policy), state);
            } else {
                events.iter().for_each(|event| schedule.follow(event));
            }
            Some(look(state, schedule))
        })
    }

    /// Whether there are any.
    pub(super) fn has_messages(&self) -> bool {
        let shared = self.partition.shared();
        shared.log_start_offset() < shared.high_watermark()
            || shared.with_kept(|kept| !kept.is_empty())
    }

    /// Who holds messages here.
    pub(super) fn holders(&self) -> HashSet<u64> {
        self.partition.shared().with_queues(|queues| {
            let state = queues.get(self.group_id).into_iter();
            state.flat_map(State::holders).collect()
        })
    }

    /// Verdicts have to wait until the scan has passed all that has a history: a death parks its
    /// key, and only the scan tells the key.
    pub(super) fn judges_blindly(&mut self, policy: &Policy) -> bool {
        let parks = policy.order == Order::PerKey && policy.on_key_failure == OnKeyFailure::ParkKey;
        parks && self.with(policy, |_, schedule| !schedule.has_caught_up()) == Some(true)
    }

    /// Tells the schedule of a further piece of the log; whether there was one.
    ///
    /// # Errors
    /// If the partition cannot be read just now.
    pub(super) async fn scan(&mut self, policy: &Policy) -> Result<bool, Refusal> {
        let shared = self.partition.shared().clone();
        let end = shared.high_watermark();
        let found = self.with(policy, |state, schedule| {
            let wanted = schedule.scan_wanted(end);
            // What is unfinished below the log's start is kept aside.
            let gap = state.next_unfinished(wanted.start, wanted.end);
            if gap.is_none() && !wanted.is_empty() {
                schedule.scanned_up_to(wanted.end);
            }
            (wanted, gap)
        });
        let (wanted, gap) = match found {
            Some((wanted, Some(gap))) => (wanted, gap),
            // Behind a stretch that is finished there may be more.
            Some((wanted, None)) => return Ok(!wanted.is_empty()),
            None => return Ok(false),
        };
        let (records, to) = match self.reader.read_chunk(gap.start..wanted.end).await {
            Ok(Some(read)) => read,
            // Retention was quicker: it will be told as an event.
            Ok(None) | Err(Refusal::OffsetOutOfRange { .. }) => return Ok(false),
            Err(Refusal::Damaged { offset, .. }) => {
                tracing::warn!(
                    partition = self.number,
                    offset,
                    "a queue meets a damaged message"
                );
                (Vec::new(), gap.start + 1)
            }
            Err(refusal) => return Err(refusal),
        };
        self.with(policy, |state, schedule| {
            if schedule.scan_wanted(end).start != wanted.start {
                // Another schedule, or retention: this piece is not what comes next.
                return;
            }
            if records.is_empty() {
                // It is handed to nobody who could read it, see `round`; but it is not lost.
                let standing = state.standing(gap.start);
                schedule.scanned(gap.start, &Attributes::default(), standing);
            }
            for record in &records {
                let attributes = attributes_of(record, &policy.filter);
                schedule.scanned(record.offset, &attributes, state.standing(record.offset));
            }
            schedule.scanned_up_to(to);
        });
        Ok(true)
    }
}
