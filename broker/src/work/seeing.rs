//! A queue group from outside: its messages by state, who holds which, where one message stands.
//!
//! Read from the replicated state, so it is true also while no task runs; only how many fresh
//! messages wait for their own delay is known to the task alone.

use crate::{
    error::Refusal,
    metadata::groups::Group,
    partition::{Partition, Shared},
    queue::{
        history::PastAttempt,
        outbox::Waiting,
        record::{Dead, Phase, Record},
        state::{Counters, State},
        time::Now,
        view::{Counts, Held, Standing, Tally},
    },
    services::Services,
};

use super::{attributes::attributes_of, face::Holder};

/// Open messages that are looked at in one go.
const PIECE: usize = 50_000;

/// One partition of a queue.
#[derive(Debug, Clone, Default)]
pub(crate) struct QueueView {
    pub(crate) partition: u32,
    pub(crate) counts: Counts,
    pub(crate) counters: Counters,
    pub(crate) tally: Tally,
    /// The oldest unfinished message, and its age.
    pub(crate) oldest: Option<u64>,
    pub(crate) oldest_seconds: f64,
    pub(crate) parked_keys: u64,
    pub(crate) dead_letters_written: u64,
    pub(crate) results: Waiting,
    /// Results that were published, and that were dropped with their topic.
    pub(crate) results_done: (u64, u64),
}

/// A leased message.
#[derive(Debug, Clone)]
pub(crate) struct HeldBy {
    pub(crate) partition: u32,
    pub(crate) held: Held,
    pub(crate) holder: Holder,
    pub(crate) last_error: String,
}

/// Some leased messages, and where to go on if there are more.
pub(crate) type Page = (Vec<HeldBy>, Option<(u32, u64)>);

/// Where a message stands with a group.
#[derive(Debug, Clone)]
pub(crate) struct StandingWith {
    pub(crate) group: Group,
    pub(crate) place: PlaceOf,
    pub(crate) failed: u32,
    pub(crate) hand_outs: u32,
    /// 0 if no attempt failed.
    pub(crate) first_failure_ms: i64,
    pub(crate) last_error: String,
    pub(crate) lease: Option<HeldBy>,
    /// The latest failed attempts, the oldest first.
    pub(crate) history: Vec<PastAttempt>,
}

/// One of the five states.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PlaceOf {
    Delayed { until_ms: i64 },
    Ready,
    Leased,
    Done,
    Dead,
}

/// The present moment of a group's queue, as good as it is known without its task.
fn now_of(group: &Group, shared: &Shared) -> Now {
    let seen = shared.with_queues(|queues| queues.get(group.id).map(State::now_ms));
    let steady = shared.clock.steady_from(seen.unwrap_or(0));
    Now {
        steady_ms: steady.now_ms(),
        wall_ms: shared.clock.wall_ms(),
    }
}

/// Where a group that has done nothing in a partition begins there.
pub(crate) fn beginning(group: &Group, shared: &Shared) -> u64 {
    let (start, end) = (shared.log_start_offset(), shared.high_watermark());
    let pinned = group.pinned.get(shared.number as usize).copied();
    pinned.unwrap_or(start).clamp(start, end)
}

impl Services {
    /// Each partition of a queue group.
    ///
    /// # Errors
    /// If the topic is gone, or the oldest unfinished message cannot be read.
    pub(crate) async fn queue_views(&self, group: &Group) -> Result<Vec<QueueView>, Refusal> {
        let live = self.topics.get(&group.topic)?;
        let delayed = self.count_delayed(group).await.unwrap_or_default();
        let mut views = Vec::with_capacity(live.partitions.len());
        for (number, partition) in live.partitions.iter().enumerate() {
            let delayed = delayed.get(number).copied().unwrap_or(0);
            views.push(view(group, partition, delayed).await?);
        }
        Ok(views)
    }

    /// Up to `max` leased messages from a place on, and where to go on if there are more.
    ///
    /// # Errors
    /// If the topic is gone.
    pub(crate) fn in_flight(
        &self,
        group: &Group,
        (first, mut offset): (u32, u64),
        max: usize,
    ) -> Result<Page, Refusal> {
        let live = self.topics.get(&group.topic)?;
        let face = self.work.face(group.id);
        let mut found = Vec::new();
        for partition in live.partitions.iter().skip(first as usize) {
            let shared = partition.shared();
            let left = max - found.len();
            let some = shared.with_queues(|queues| {
                let state = queues.get(group.id)?;
                let held = state.held(offset).take(left + 1);
                let error = |held: &Held| state.last_error(held.offset).unwrap_or_default();
                let held = held.map(|held| (held, error(&held).to_owned()));
                Some(held.collect::<Vec<_>>())
            });
            for (held, last_error) in some.unwrap_or_default() {
                if found.len() == max {
                    return Ok((found, Some((shared.number, held.offset))));
                }
                let holder = face.as_ref().and_then(|f| f.holder(held.lease.consumer));
                found.push(HeldBy {
                    partition: shared.number,
                    held,
                    holder: holder.unwrap_or_default(),
                    last_error,
                });
            }
            offset = 0;
        }
        Ok((found, None))
    }

    /// Where a message stands with each group of its topic, by name.
    ///
    /// # Errors
    /// If there is no such message, or it cannot be read.
    pub(crate) async fn standings(
        &self,
        topic: &str,
        number: u32,
        offset: u64,
    ) -> Result<Vec<StandingWith>, Refusal> {
        let live = self.topics.get(topic)?;
        let partition = live.partition(number)?;
        let shared = partition.shared();
        if offset >= shared.high_watermark() {
            return Err(shared.out_of_range(offset));
        }
        let groups: Vec<Group> = {
            let view = self.metadata.view().read();
            view.groups_of(&live.topic.name).cloned().collect()
        };
        // Only its own delay stands in the message.
        let record = self.message_at(topic, number, offset).await?;
        let nothing = crate::queue::filter::Filter::default();
        let delay_ms = attributes_of(&record, &nothing).delay_until_ms;
        let stand = |group| self.standing(group, shared, offset, delay_ms);
        Ok(groups.into_iter().map(stand).collect())
    }

    fn standing(
        &self,
        group: Group,
        shared: &Shared,
        offset: u64,
        delay_ms: Option<i64>,
    ) -> StandingWith {
        let mut standing = StandingWith {
            place: PlaceOf::Ready,
            failed: 0,
            hand_outs: 0,
            first_failure_ms: 0,
            last_error: String::new(),
            lease: None,
            history: Vec::new(),
            group,
        };
        let group = &standing.group;
        if group.queue.is_none() {
            let stored = shared
                .position(group.id)
                .and_then(|position| position.offset);
            let position = stored.unwrap_or_else(|| beginning(group, shared));
            if offset < position {
                standing.place = PlaceOf::Done;
            }
            return standing;
        }
        let now = now_of(group, shared);
        let found = shared.with_queues(|queues| {
            let state = queues.get(group.id)?;
            let error = state.last_error(offset).unwrap_or_default().to_owned();
            let history = state.history(offset).map(|it| it.told(now));
            let history: Vec<_> = history.collect();
            let dying = Dying::find(state, offset, now);
            Some((state.standing(offset), dying, error, history))
        });
        let fresh = match delay_ms.filter(|at_ms| *at_ms > now.wall_ms) {
            Some(until_ms) => PlaceOf::Delayed { until_ms },
            None => PlaceOf::Ready,
        };
        match found {
            None if offset < beginning(group, shared) => standing.place = PlaceOf::Done,
            None | Some((Standing::Fresh, ..)) => standing.place = fresh,
            Some((Standing::Settled, Some(dying), ..)) => standing.die(dying),
            Some((Standing::Settled, None, ..)) => standing.place = PlaceOf::Done,
            Some((Standing::Open(record), _, error, history)) => {
                standing.history = history;
                let holder = |consumer| {
                    let face = self.work.face(standing.group.id);
                    face.and_then(|face| face.holder(consumer))
                };
                let place = (shared.number, offset);
                let lease = held_by(place, record, holder, &error);
                standing.open(record, now, error, lease);
            }
        }
        standing
    }
}

impl StandingWith {
    fn open(&mut self, record: Record, now: Now, error: String, lease: Option<HeldBy>) {
        self.failed = record.failed;
        self.hand_outs = record.hand_outs;
        self.first_failure_ms = record.first_failure_ms;
        self.last_error = error;
        self.place = match record.phase {
            Phase::Leased(_) => PlaceOf::Leased,
            // Told by the wall clock, as all times are.
            Phase::Retry { at_ms } if at_ms > now.steady_ms => PlaceOf::Delayed {
                until_ms: now.by_wall(at_ms),
            },
            Phase::Delayed { until_ms } if until_ms > now.wall_ms => PlaceOf::Delayed { until_ms },
            Phase::Retry { .. } | Phase::Delayed { .. } | Phase::Ready => PlaceOf::Ready,
        };
        self.lease = lease;
    }

    fn die(&mut self, dying: Dying) {
        self.place = PlaceOf::Dead;
        self.failed = dying.dead.failed;
        self.hand_outs = dying.dead.hand_outs;
        self.first_failure_ms = dying.dead.first_failure_ms;
        self.last_error = dying.error;
        self.history = dying.history;
    }
}

/// A dead letter whose copy is not written.
struct Dying {
    dead: Dead,
    error: String,
    history: Vec<PastAttempt>,
}

impl Dying {
    fn find(state: &State, offset: u64, now: Now) -> Option<Dying> {
        // After a seek a message may die twice: then the last time counts.
        let all = state.dead_letters(0);
        let (number, dead) = all.filter(|(_, dead)| dead.offset == offset).last()?;
        let history = state.dead_history(number);
        Some(Dying {
            dead,
            error: state.dead_error(number).unwrap_or_default().to_owned(),
            history: history.map(|it| it.told(now)).collect(),
        })
    }
}

fn held_by(
    (partition, offset): (u32, u64),
    record: Record,
    holder: impl FnOnce(u64) -> Option<Holder>,
    error: &str,
) -> Option<HeldBy> {
    let lease = record.lease()?;
    Some(HeldBy {
        partition,
        held: Held {
            offset,
            failed: record.failed,
            hand_outs: record.hand_outs,
            lease,
        },
        holder: holder(lease.consumer).unwrap_or_default(),
        last_error: error.to_owned(),
    })
}

async fn view(group: &Group, partition: &Partition, delayed: u64) -> Result<QueueView, Refusal> {
    let mut view = look(group, partition, delayed).await;
    if let Some(oldest) = view.oldest {
        let stamp_ms = partition.timestamp_of(oldest).await?;
        let wall_ms = partition.shared().clock.wall_ms();
        let age_ms = wall_ms.saturating_sub(stamp_ms).max(0);
        view.oldest_seconds = age_ms as f64 / 1_000.0;
    }
    Ok(view)
}

/// All but the age of the oldest, which has to be read. `delayed`: see [`Services::count_delayed`].
pub(crate) async fn look(group: &Group, partition: &Partition, delayed: u64) -> QueueView {
    let shared = partition.shared();
    let mut tally = Tally {
        now_ms: now_of(group, shared).steady_ms,
        ..Tally::default()
    };
    let mut from = Some(0);
    while let Some(at) = from {
        from = shared.with_queues(|queues| queues.get(group.id)?.tally(at, PIECE, &mut tally));
        if from.is_some() {
            tokio::task::yield_now().await;
        }
    }
    let log = shared.log_start_offset()..shared.high_watermark();
    let mut view = QueueView {
        partition: shared.number,
        tally,
        ..QueueView::default()
    };
    let begun = shared.with_queues(|queues| {
        let Some(state) = queues.get(group.id) else {
            return false;
        };
        let from = state.floor().min(log.end);
        view.counts = state.counts(log.clone(), &tally);
        view.counters = *state.counters();
        view.oldest = (state.unfinished(from..log.end) > 0).then_some(from);
        view.parked_keys = state.parked_count();
        view.dead_letters_written = state.dead_written_to();
        view.results = state.outbox().waiting();
        view.results_done = state.outbox().totals();
        true
    });
    if !begun {
        let from = beginning(group, shared);
        view.counts.done = from - log.start;
        view.counts.ready = log.end - from;
        view.oldest = (from < log.end).then_some(from);
    }
    // The task knows of delays, the state of retries; the task of both, as far as it has looked.
    let more = delayed
        .saturating_sub(view.counts.delayed)
        .min(view.counts.ready);
    view.counts.delayed += more;
    view.counts.ready -= more;
    view
}
