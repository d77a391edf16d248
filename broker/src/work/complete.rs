//! Steps: verdicts on messages of one partition and what is published with them, all or nothing.
//!
//! One entry of the partition's log holds both, so together they are durable or were never
//! there; [`results`](super::results) carries the results to their topics.

use std::time::Duration;

use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, timeout_at},
};

use super::{Request, Settled, Wanted, Wish, driver::Driver, lane::Lane, stopped, verdicts::Court};
use crate::{
    error::Refusal,
    limits::{
        MAX_NODE_RESULT_BYTES_WAITING, MAX_RESULT_BYTES_WAITING, MAX_RESULT_PRODUCERS,
        MAX_RESULT_TARGETS, MAX_RESULTS_WAITING, MAX_SETTLEMENTS, MAX_STEP_BYTES,
    },
    partition::{Partition, Permit},
    publish::{Addressed, NewResult},
    queue::{
        command::{Reply, Status, Verdicts},
        outbox::{Outbox, StepId, Waiting},
        parcel::{Completion, Parcel, Target},
    },
    services::Services,
};

/// How long an answer waits for the results to be in their topics.
const PATIENCE: Duration = Duration::from_secs(2);
/// Messages and bytes of a partition's steps in a round, after which the next ones wait: an entry
/// has a limit.
const MOST_AT_A_TIME: (usize, u64) = (20_000, MAX_STEP_BYTES);

/// Where results are, as far as that is known in time: place in the step, offset.
pub(super) type Arrivals = mpsc::UnboundedSender<(usize, u64)>;

/// A step that waits for the next round.
pub(crate) struct Completing {
    wishes: Vec<Wish>,
    results: Vec<Parcel>,
    /// Of the node's budget, until the entry is durable.
    _permit: Permit,
    answer: oneshot::Sender<Judged>,
}

/// What came of a step's entry.
pub(crate) struct Judged {
    settled: Settled,
    is_repeated: bool,
    arrivals: mpsc::UnboundedReceiver<(usize, u64)>,
}

/// A step that is on its way into the log.
pub(super) struct Proposed {
    step: Completing,
}

/// What came of a step.
pub(crate) struct Completed {
    /// In the order of the wishes. All are `Ok`, or none is.
    pub(crate) settled: Settled,
    /// In the order of the results, if the step was made now.
    pub(crate) published: Vec<Published>,
    /// It was made before, under the same leases; nothing was published by this call.
    pub(crate) is_repeated: bool,
}

/// Where a result is, or will be.
pub(crate) struct Published {
    pub(crate) topic: String,
    pub(crate) partition: u32,
    /// `None`: it is on its way.
    pub(crate) offset: Option<u64>,
}

impl Completing {
    fn refuse(self, why: &Refusal) {
        let settled = self.wishes.iter().map(|_| Err(why.clone())).collect();
        self.answer(settled, false);
    }

    /// Whoever hung up does not want to know.
    fn answer(self, settled: Settled, is_repeated: bool) {
        let (_, arrivals) = mpsc::unbounded_channel();
        let _ = self.answer.send(Judged {
            settled,
            is_repeated,
            arrivals,
        });
    }

    fn is_of(&self, lane: usize) -> bool {
        let first = self.wishes.first();
        first.is_none_or(|wish| wish.partition as usize == lane)
    }

    fn targets(&self) -> impl Iterator<Item = Target> + '_ {
        self.results.iter().map(Parcel::target)
    }

    /// None is made, and these are why.
    pub(super) fn not_made(self, lost: impl Fn(usize) -> bool) {
        let why = |(n, wish): (usize, &Wish)| match lost(n) {
            true => Err(wish.lease_lost()),
            false => Err(Refusal::StepRefused {
                partition: wish.partition,
                offset: wish.offset,
            }),
        };
        let settled = self.wishes.iter().enumerate().map(why).collect();
        self.answer(settled, false);
    }
}

impl Driver {
    pub(super) fn complete(&mut self, step: Completing) {
        match self.refuses_verdicts() {
            Some(why) => step.refuse(&why),
            None => self.completing.push(step),
        }
    }

    /// The steps of this round for a partition; those that have to wait stay.
    pub(super) fn take_steps(&mut self, lane: usize) -> Vec<Completing> {
        if self.completing.is_empty() {
            return Vec::new();
        }
        if self.lanes[lane].judges_blindly(&self.policy) {
            self.refuse_steps_of_blind(lane);
            return Vec::new();
        }
        let end = self.lanes[lane].partition.shared().high_watermark();
        let (mut taken, mut messages, mut bytes) = (Vec::new(), 0, 0);
        for step in std::mem::take(&mut self.completing) {
            if !step.is_of(lane) || messages >= MOST_AT_A_TIME.0 || bytes >= MOST_AT_A_TIME.1 {
                self.completing.push(step);
                continue;
            }
            if step.wishes.iter().any(|wish| wish.offset >= end) {
                let beyond: Vec<bool> = step.wishes.iter().map(|w| w.offset >= end).collect();
                step.not_made(|n| beyond[n]);
                continue;
            }
            messages += step.wishes.len();
            bytes += Waiting::of(&step.results).bytes;
            taken.push(step);
        }
        taken
    }

    /// Steps with results hold room of the node's publishes: they do not wait for long. Those
    /// without stay.
    fn refuse_steps_of_blind(&mut self, lane: usize) {
        let why = Refusal::Unavailable {
            why: format!("the queue still reads partition {lane} to know the keys of its messages"),
        };
        for step in std::mem::take(&mut self.completing) {
            if step.is_of(lane) && !step.results.is_empty() {
                step.refuse(&why);
            } else {
                self.completing.push(step);
            }
        }
    }

    pub(super) fn refuse_steps(&mut self, why: &Refusal) {
        self.completing.drain(..).for_each(|step| step.refuse(why));
    }

    pub(super) fn verdicts_of_steps(&self) -> usize {
        self.completing.iter().map(|step| step.wishes.len()).sum()
    }
}

/// What the results of a round have room for.
pub(super) struct Room<'a> {
    pub(super) outbox: &'a Outbox,
    planned: Waiting,
    /// Targets that the outbox does not remember yet.
    new: std::collections::BTreeSet<Target>,
    /// Nothing that needs room is taken for now.
    pub(super) is_disk_full: bool,
}

impl<'a> Room<'a> {
    pub(super) fn of(outbox: &'a Outbox, is_disk_full: bool) -> Room<'a> {
        Room {
            outbox,
            planned: Waiting::default(),
            new: std::collections::BTreeSet::new(),
            is_disk_full,
        }
    }

    /// Sets room aside.
    fn take(&mut self, step: &Completing) -> Result<(), Refusal> {
        let mut waiting = self.outbox.waiting();
        waiting.add(self.planned);
        let more = Waiting::of(&step.results);
        waiting.add(more);
        if step.results.is_empty() {
            return Ok(());
        }
        if self.is_disk_full {
            return Err(Refusal::DiskFull {
                why: "the results of steps need room".into(),
            });
        }
        let full = |what: &str, value, limit| Refusal::ResultsFull {
            what: what.into(),
            value,
            limit,
        };
        if waiting.results > MAX_RESULTS_WAITING {
            return Err(full("results", waiting.results, MAX_RESULTS_WAITING));
        }
        if waiting.bytes > MAX_RESULT_BYTES_WAITING {
            return Err(full("bytes", waiting.bytes, MAX_RESULT_BYTES_WAITING));
        }
        let is_new = |target: &Target| !self.outbox.has_target(*target);
        let mut new = self.new.clone();
        new.extend(step.targets().filter(is_new));
        let targets = self.outbox.target_count() + new.len();
        if targets > MAX_RESULT_TARGETS {
            let limit = MAX_RESULT_TARGETS as u64;
            return Err(Refusal::LimitReached {
                what: "partitions that the steps of a queue publish to".into(),
                limit,
            });
        }
        self.new = new;
        self.planned.add(more);
        Ok(())
    }
}

/// The command for a step; `None` if it is refused, which is answered.
pub(super) fn propose(
    court: &Court<'_>,
    room: &mut Room<'_>,
    step: Completing,
) -> Option<(Completion, Proposed)> {
    let verdicts = Verdicts {
        consumer: None,
        verdicts: court.settle(&step.wishes),
    };
    if let Err(why) = room.take(&step) {
        // One that was made before needs no room.
        let id = StepId::of(&verdicts);
        if !id.is_some_and(|id| room.outbox.knows(&id)) {
            step.refuse(&why);
            return None;
        }
    }
    let results = step.results.clone();
    Some((Completion { verdicts, results }, Proposed { step }))
}

impl Lane {
    /// Carries on with what came of a step's entry.
    pub(super) fn completed(&mut self, proposed: Proposed, outcome: Result<&Reply, &Refusal>) {
        let Proposed { step } = proposed;
        let reply = match outcome {
            Ok(reply) => reply,
            Err(why) => return step.refuse(why),
        };
        let made = || step.wishes.iter().map(|_| Ok(())).collect::<Settled>();
        match reply.status() {
            Status::Done => {
                let settled = made();
                let (teller, arrivals) = mpsc::unbounded_channel();
                let numbers = reply.numbers.iter().copied();
                for (place, (target, number)) in step.targets().zip(numbers).enumerate() {
                    // What its deleted topic has taken along is told of to nobody.
                    let waits = |outbox: &Outbox| outbox.has_target(target);
                    if self.with_outbox(waits) == Some(true) {
                        let place = (place, teller.clone());
                        self.couriers.tell(target, number, place);
                    }
                }
                let judged = Judged {
                    settled,
                    is_repeated: false,
                    arrivals,
                };
                let _ = step.answer.send(judged);
            }
            Status::Repeated => {
                let settled = made();
                step.answer(settled, true);
            }
            _ => {
                let statuses = reply.spans.iter().flat_map(|span| {
                    let count = usize::try_from(span.count).unwrap_or(usize::MAX);
                    std::iter::repeat_n(span.status(), count)
                });
                let made: Vec<bool> = statuses.map(|it| it == Status::Done).collect();
                step.not_made(|n| made.get(n) != Some(&true));
            }
        }
    }
}

/// The partition that all of them are in.
fn one_partition(wishes: &[Wish]) -> Result<u32, Refusal> {
    let (count, limit) = (wishes.len(), MAX_SETTLEMENTS);
    if count > limit {
        let why = format!("{count} is above the limit of {limit}");
        return Err(Refusal::invalid("settlements", why));
    }
    let Some(first) = wishes.first() else {
        let why = "a step settles at least one message; to publish alone there is Publish";
        return Err(Refusal::invalid("settlements", why));
    };
    for (n, wish) in wishes.iter().enumerate() {
        if wish.partition != first.partition {
            let (one, other) = (first.partition, wish.partition);
            let why = format!(
                "partition {other} beside partition {one}: a step settles messages of one partition"
            );
            return Err(Refusal::invalid(format!("settlements[{n}].partition"), why));
        }
        if matches!(wish.wanted, Wanted::Extend { .. }) {
            let why = "a verdict of a step ends its lease; extend it by Settle";
            return Err(Refusal::invalid(format!("settlements[{n}].extend"), why));
        }
    }
    Ok(first.partition)
}

/// Whether a step like this was made. What was applied is durable.
fn was_made(partition: &Partition, group_id: u64, wishes: &[Wish]) -> bool {
    let Some(first) = wishes.first() else {
        return false;
    };
    let id = StepId::new((first.offset, first.lease), wishes.len() as u64);
    let shared = partition.shared();
    shared.with_queues(|queues| {
        let state = queues.get(group_id);
        state.is_some_and(|state| state.outbox().knows(&id))
    })
}

/// Whether a step's new targets, if it has any, may get producers, where the node has so many.
fn check_producers(count: usize, has_new: impl FnOnce() -> bool) -> Result<(), Refusal> {
    if count < MAX_RESULT_PRODUCERS || !has_new() {
        return Ok(());
    }
    Err(Refusal::LimitReached {
        what: "producers of the broker's own, with which steps may publish to further partitions"
            .into(),
        limit: MAX_RESULT_PRODUCERS as u64,
    })
}

impl Services {
    /// Whether the node takes these results, with all that it has.
    fn check_results(
        &self,
        (partition, group_id): (&Partition, u64),
        results: &[Parcel],
    ) -> Result<(), Refusal> {
        let (value, limit) = (Waiting::of(results).bytes, MAX_RESULT_BYTES_WAITING);
        if value > limit {
            return Err(Refusal::TooLarge {
                what: "results".into(),
                bytes: value,
                limit,
            });
        }
        let value = self.work.result_bytes();
        if value > MAX_NODE_RESULT_BYTES_WAITING && !results.is_empty() {
            return Err(Refusal::ResultsFull {
                what: "bytes of the node".into(),
                value,
                limit: MAX_NODE_RESULT_BYTES_WAITING,
            });
        }
        let count = self.metadata.view().read().internals.len();
        check_producers(count, || {
            partition.shared().with_queues(|queues| {
                let outbox = queues.get(group_id).map(|state| state.outbox());
                let knows = |parcel: &Parcel| outbox.is_some_and(|o| o.has_target(parcel.target()));
                !results.iter().all(knows)
            })
        })
    }

    /// Makes all verdicts of a step and publishes its results, or does nothing. Answers when both
    /// are durable and the results in their topics, or, if that takes long, on their way.
    ///
    /// # Errors
    /// If the step cannot be, or nobody knows what came of it.
    pub(crate) async fn complete(
        self: &std::sync::Arc<Self>,
        (topic, group): (&str, &str),
        wishes: Vec<Wish>,
        results: Vec<NewResult>,
    ) -> Result<Completed, Refusal> {
        let group = self.group(topic, group)?;
        let (driver, _) = self.driver(&group)?;
        let number = one_partition(&wishes)?;
        let live = self.topics.get(&group.topic)?;
        let partition = live.partition(number)?;
        // First of all: whatever its results would meet now, it was made.
        if was_made(partition, group.id, &wishes) {
            return Ok(Completed {
                settled: wishes.iter().map(|_| Ok(())).collect(),
                published: Vec::new(),
                is_repeated: true,
            });
        }
        let addressed = self.address(results).await?;
        let (mut published, mut results) = (Vec::new(), Vec::new());
        for Addressed { topic, parcel } in addressed {
            published.push(Published {
                topic,
                partition: parcel.partition,
                offset: None,
            });
            results.push(parcel);
        }
        self.check_results((partition, group.id), &results)?;
        let bytes = usize::try_from(Waiting::of(&results).bytes).unwrap_or(usize::MAX);
        let (answer, answered) = oneshot::channel();
        let step = Completing {
            wishes,
            results,
            _permit: self.admit(bytes).await?,
            answer,
        };
        let sent = driver.send(Request::Complete(step)).await;
        sent.map_err(|_| stopped())?;
        let mut judged = answered.await.map_err(|_| Refusal::Unknown {
            why: "the group's task stopped".into(),
        })?;
        let until = Instant::now() + PATIENCE;
        // The end of the channel says that no more will be told.
        while let Ok(Some((place, offset))) = timeout_at(until, judged.arrivals.recv()).await {
            if let Some(published) = published.get_mut(place) {
                published.offset = Some(offset);
            }
        }
        if judged.is_repeated || judged.settled.iter().any(Result::is_err) {
            published.clear();
        }
        Ok(Completed {
            settled: judged.settled,
            published,
            is_repeated: judged.is_repeated,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(partition: u32, wanted: Wanted) -> Wish {
        Wish {
            partition,
            offset: 1,
            lease: 1,
            wanted,
        }
    }

    #[test]
    fn a_step_is_of_one_partition_and_ends_its_leases() {
        let refused = |wishes: &[Wish]| one_partition(wishes).unwrap_err().to_string();
        assert_eq!(one_partition(&[wish(3, Wanted::Ack)]), Ok(3));
        assert!(refused(&[]).starts_with("settlements: "));
        let two = [wish(3, Wanted::Ack), wish(4, Wanted::Release)];
        let why = refused(&two);
        assert!(why.contains("settlements[1].partition: partition 4 beside partition 3"));
        let extension = [wish(3, Wanted::Extend { by_ms: 1 })];
        assert!(refused(&extension).starts_with("settlements[0].extend: "));
        let many = vec![wish(3, Wanted::Ack); MAX_SETTLEMENTS + 1];
        assert!(refused(&many).contains("10001 is above the limit of 10000"));
    }

    #[test]
    fn half_of_the_producers_are_not_for_new_targets_of_steps() {
        let limit = MAX_RESULT_PRODUCERS;
        assert_eq!(check_producers(limit - 1, || true), Ok(()));
        assert_eq!(check_producers(limit, || false), Ok(()));
        let refused = check_producers(limit, || true).unwrap_err();
        assert_eq!(refused.kind().1, "LIMIT_REACHED");
    }
}
