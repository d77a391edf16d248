//! The results of steps on their way to their topics, each exactly once and in order.
//!
//! The queue's outbox gives the results for each target numbers without gaps. Here a number
//! becomes a producer's sequence: one producer of the broker's own for each pair of partitions,
//! source and target, so that a slow one holds up no other. Whoever takes over after a crash
//! asks the target how far the results go, and continues there; then the queue is told, and
//! forgets their bytes.
//!
//! One batch for each target is on its way at a time, beside the group's rounds.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use aqueduct_proto::{
    batch::{Batch, BatchError},
    compression::Compression,
    record::{BatchBuilder, Header},
};
use tokio::sync::oneshot;

use super::{
    beside::Done,
    complete::Arrivals,
    driver::Driver,
    lane::Lane,
    rest::{Rest, changed_nothing},
};
use crate::{
    clock,
    error::Refusal,
    metadata::internals::InitInternal,
    partition::{Message, Partition, Stored},
    queue::{
        outbox::Outbox,
        parcel::{Parcel, ParcelHeader, Target, WrittenLine},
    },
    services::Services,
    topics::LiveTopic,
};

/// Results of one batch.
const RESULTS: usize = 1_000;
/// Bytes of one batch after which no further result is added.
const RESULT_BYTES: u64 = 1 << 20;
/// Batches of a group on their way at a time.
const MOST_AWAY: usize = 64;
/// Sequences count modulo this.
const WRAP: u64 = 1 << 31;

/// The producer of the results for one target.
struct Ready {
    producer_id: i64,
    epoch: i16,
    live: Arc<LiveTopic>,
    target: Partition,
}

/// What is known here of one target; begins anew after every error that may have changed it.
#[derive(Default)]
struct Courier {
    ready: Option<Ready>,
    is_away: bool,
    /// Results with numbers up to this are there.
    stored_to: u64,
    /// The topic is deleted.
    is_gone: bool,
    rest: Rest,
}

/// The targets of one lane.
#[derive(Default)]
pub(super) struct Couriers {
    known: BTreeMap<Target, Courier>,
    /// Who waits for the offset of which result.
    told: BTreeMap<(Target, u64), (usize, Arrivals)>,
}

/// A batch in the making.
struct Package {
    init: InitInternal,
    target: Target,
    ready: Option<Ready>,
    /// Number of the first result.
    first: u64,
    parcels: Vec<Parcel>,
}

/// What came of it.
pub(super) struct Delivered {
    lane: usize,
    target: Target,
    /// `None`: the next batch needs a producer of a later epoch.
    ready: Option<Ready>,
    /// Results up to this are there for certain.
    stored_to: u64,
    /// Number and offset of the first that was stored now.
    outcome: Result<Option<(u64, u64)>, Lost>,
}

enum Lost {
    /// There is no such topic any more.
    Gone,
    Not(Refusal),
}

impl From<Refusal> for Lost {
    fn from(refusal: Refusal) -> Lost {
        Lost::Not(refusal)
    }
}

impl Couriers {
    /// Tells this place of a step where the result of this number is.
    pub(super) fn tell(&mut self, target: Target, number: u64, place: (usize, Arrivals)) {
        self.told.insert((target, number), place);
    }

    /// What the queue has to be told.
    pub(super) fn news(&self, outbox: &Outbox) -> Vec<WrittenLine> {
        let line = |(target, courier): (&Target, &Courier)| {
            let (written, promised) = outbox.span(*target)?;
            // Nothing but a producer of another's would say more than there is.
            let up_to = courier.stored_to.min(promised).max(written);
            let is_news = up_to > written || courier.is_gone;
            is_news.then_some(WrittenLine {
                topic_id: target.topic_id,
                partition: target.partition,
                up_to,
                is_gone: courier.is_gone,
            })
        };
        self.known.iter().filter_map(line).collect()
    }

    /// How long nothing is tried, if something waits and all that waits rests.
    fn rest_ms(&self, outbox: &Outbox) -> Option<u64> {
        let now_ms = clock::monotonic_ms();
        let left = |target| self.known.get(&target)?.rest.left_ms(now_ms);
        outbox.busy().filter_map(left).min()
    }

    /// Targets that have something to be sent, and from which number on; another one first each
    /// turn, so that none is always the last.
    fn due(&mut self, outbox: &Outbox, turn: usize) -> Vec<(Target, u64)> {
        self.known
            .retain(|target, courier| courier.is_away || outbox.has_target(*target));
        let now_ms = clock::monotonic_ms();
        let mut due = Vec::new();
        for target in outbox.busy() {
            let courier = self.known.entry(target).or_default();
            let rests = courier.rest.left_ms(now_ms).is_some();
            let Some((written, promised)) = outbox.span(target) else {
                continue;
            };
            let from = courier.stored_to.max(written) + 1;
            if !courier.is_away && !courier.is_gone && !rests && from <= promised {
                due.push((target, from));
            }
        }
        let first = turn.checked_rem(due.len()).unwrap_or(0);
        due.rotate_left(first);
        due
    }

    fn arrived(&mut self, target: Target, stored_to: u64, base: Option<(u64, u64)>) {
        let courier = self.known.entry(target).or_default();
        courier.rest = Rest::default();
        let whose = (target, 0)..=(target, stored_to);
        let numbers: Vec<u64> = self.told.range(whose).map(|((_, n), _)| *n).collect();
        for number in numbers {
            let known = self.told.remove(&(target, number));
            // Nobody knows where those are that a process before this one has stored.
            if let (Some((place, teller)), Some((first, offset))) = (known, base)
                && number >= first
            {
                let _ = teller.send((place, offset + (number - first)));
            }
        }
    }
}

impl Lane {
    /// How long no results are tried, if so.
    pub(super) fn results_rest_ms(&self) -> Option<u64> {
        self.with_outbox(|outbox| self.couriers.rest_ms(outbox))?
    }

    pub(super) fn with_outbox<T>(&self, look: impl FnOnce(&Outbox) -> T) -> Option<T> {
        let shared = self.partition.shared();
        shared.with_queues(|queues| Some(look(queues.get(self.group_id)?.outbox())))
    }

    /// Results that wait.
    pub(super) fn results_waiting(&self) -> u64 {
        let waiting = self.with_outbox(|outbox| outbox.waiting().results);
        waiting.unwrap_or_default()
    }

    /// Batches that can leave now, at most so many.
    fn packages(&mut self, (most, turn): (usize, usize), from_topic: u64) -> Vec<Package> {
        let (id, number) = (self.group_id, self.number);
        let couriers = &mut self.couriers;
        self.partition.shared().with_queues(|queues| {
            let Some(state) = queues.get(id) else {
                return Vec::new();
            };
            let outbox = state.outbox();
            let due = couriers.due(outbox, turn).into_iter().take(most);
            let package = |(target, first): (Target, u64)| {
                let courier = couriers.known.entry(target).or_default();
                courier.is_away = true;
                let Target {
                    topic_id,
                    partition,
                } = target;
                Package {
                    init: InitInternal {
                        name: format!("results/{id}/{number}/{topic_id}/{partition}"),
                        group_id: id,
                        from_topic,
                        to_topic: topic_id,
                        base: 0,
                    },
                    target,
                    ready: courier.ready.take(),
                    first,
                    parcels: some(outbox.parcels(target, first)),
                }
            };
            due.map(package).collect()
        })
    }
}

/// As many as go into one batch.
fn some<'a>(parcels: impl Iterator<Item = &'a Parcel>) -> Vec<Parcel> {
    let mut bytes = 0;
    let fits = |parcel: &&Parcel| {
        let before = bytes;
        bytes += parcel.cost();
        before < RESULT_BYTES
    };
    parcels.take(RESULTS).take_while(fits).cloned().collect()
}

impl Driver {
    /// Sends what can be sent; nothing waits for it.
    pub(super) fn send_results(&mut self) {
        let from_topic = self.live.topic.id;
        let (lanes, turn, mut bytes) = (self.lanes.len(), self.turn, 0);
        for lane in (0..lanes).map(|lane| (lane + turn) % lanes) {
            let waiting = self.lanes[lane].with_outbox(Outbox::waiting);
            bytes += waiting.unwrap_or_default().bytes;
            let room = MOST_AWAY.saturating_sub(self.results_away);
            for package in self.lanes[lane].packages((room, turn), from_topic) {
                self.results_away += 1;
                let services = self.services.clone();
                let delivering = async move { deliver(&services, lane, package).await };
                self.beside
                    .start(async move { Done::Results(delivering.await) });
            }
        }
        self.services.work.note_results(self.group.id, bytes);
    }

    pub(super) fn results_came(&mut self, delivered: Delivered) {
        let Delivered {
            lane,
            target,
            ready,
            stored_to,
            outcome,
        } = delivered;
        self.results_away -= 1;
        let couriers = &mut self.lanes[lane].couriers;
        let courier = couriers.known.entry(target).or_default();
        courier.is_away = false;
        courier.ready = ready;
        courier.stored_to = courier.stored_to.max(stored_to);
        match outcome {
            Ok(base) => couriers.arrived(target, stored_to, base),
            Err(Lost::Gone) => self.target_is_gone(lane, target),
            Err(Lost::Not(refusal)) => {
                tracing::warn!(group = self.group.name, partition = lane, topic = target.topic_id,
                    to = target.partition, %refusal, "results wait for their topic");
                courier.rest.begin(clock::monotonic_ms());
            }
        }
    }

    fn target_is_gone(&mut self, lane: usize, target: Target) {
        let lane = &mut self.lanes[lane];
        let courier = lane.couriers.known.entry(target).or_default();
        courier.is_gone = true;
        let stored_to = courier.stored_to;
        let span = lane.with_outbox(|outbox| outbox.span(target)).flatten();
        let results = span.map_or(0, |(written, promised)| promised - written.max(stored_to));
        if results > 0 {
            tracing::warn!(
                group = self.group.name,
                partition = lane.number,
                results,
                topic = target.topic_id,
                "the topic of results was deleted: they are dropped"
            );
        }
        // They will not be told where they are.
        let ours = |place: &(Target, u64)| place.0 != target;
        lane.couriers.told.retain(|place, _| ours(place));
    }

    /// Topics were deleted, perhaps: their results go nowhere.
    pub(super) fn look_at_targets(&mut self) {
        let of_lane = |(n, lane): (usize, &Lane)| {
            let targets = |outbox: &Outbox| outbox.targets().map(|it| (n, it)).collect();
            lane.with_outbox(targets).unwrap_or_default()
        };
        let lanes = self.lanes.iter().enumerate();
        let targets: Vec<Vec<(usize, Target)>> = lanes.map(of_lane).collect();
        if targets.iter().all(Vec::is_empty) {
            return;
        }
        let known: HashSet<u64> = {
            let view = self.services.metadata.view().read();
            view.topics.values().map(|it| it.id).collect()
        };
        for (lane, target) in targets.into_iter().flatten() {
            if !known.contains(&target.topic_id) {
                self.target_is_gone(lane, target);
            }
        }
    }
}

/// Stores a batch in its target.
async fn deliver(services: &Arc<Services>, lane: usize, package: Package) -> Delivered {
    let Package {
        init,
        target,
        ready,
        first,
        mut parcels,
    } = package;
    let made = match ready {
        Some(ready) => Ok((ready, first - 1)),
        None => make_ready(services, init, target).await,
    };
    let (ready, stored_to) = match made {
        Ok(made) => made,
        Err(lost) => {
            return Delivered {
                lane,
                target,
                ready: None,
                stored_to: 0,
                outcome: Err(lost),
            };
        }
    };
    let last = first - 1 + parcels.len() as u64;
    // What somebody before has stored.
    let done = stored_to.saturating_sub(first - 1);
    let done = done.min(parcels.len() as u64);
    parcels.drain(..usize::try_from(done).unwrap_or(0));
    let outcome = match parcels.is_empty() {
        true => Ok(None),
        false => store(services, &ready, first + done, &parcels).await,
    };
    let stays = outcome.as_ref().err().is_none_or(changed_nothing);
    Delivered {
        lane,
        target,
        ready: stays.then_some(ready),
        stored_to: match outcome {
            Ok(_) => last.max(stored_to),
            Err(_) => stored_to,
        },
        outcome: outcome.map_err(Lost::Not),
    }
}

/// Number and offset of the first, unless they were there.
async fn store(
    services: &Services,
    ready: &Ready,
    first: u64,
    parcels: &[Parcel],
) -> Result<Option<(u64, u64)>, Refusal> {
    let bytes: u64 = parcels.iter().map(Parcel::cost).sum();
    let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
    let permit = services.admit(bytes).await?;
    let batch = batch(ready, first, parcels).map_err(|error| Refusal::BadBatch {
        why: error.to_string(),
    })?;
    let (count, bytes) = (u64::from(batch.count()), batch.bytes().len() as u64);
    let (answer, answered) = oneshot::channel();
    let expected_offset = None;
    let message = Message::Batch {
        batch,
        expected_offset,
        permit,
        answer,
    };
    ready.target.send(message).await?;
    let stored = answered.await.map_err(|_| Refusal::Unknown {
        why: "the topic of the results closed".into(),
    })?;
    let Stored { offset, duplicate } = stored?;
    services.stats.received(&ready.live.traffic, count, bytes);
    Ok((!duplicate).then_some((first, offset)))
}

/// The target, a producer that fences every earlier one, and how far they came.
async fn make_ready(
    services: &Arc<Services>,
    init: InitInternal,
    target: Target,
) -> Result<(Ready, u64), Lost> {
    let name = {
        let view = services.metadata.view().read();
        let mut topics = view.topics.values();
        let topic = topics.find(|topic| topic.id == target.topic_id);
        topic.ok_or(Lost::Gone)?.name.clone()
    };
    let live = services.topics.get(&name)?;
    if live.topic.id != target.topic_id {
        let why = "the topic of the results is being replaced".into();
        return Err(Refusal::Unavailable { why }.into());
    }
    let partition = live.partition(target.partition)?.clone();
    let producer = services.internal_producer(init).await?.producer;
    let stored = partition.producer(producer.id).await?;
    let ready = Ready {
        producer_id: producer.id,
        epoch: i16::try_from(producer.epoch).unwrap_or(i16::MAX),
        live,
        target: partition,
    };
    Ok((ready, stored.map_or(0, |(next, _)| next)))
}

fn batch(ready: &Ready, first: u64, parcels: &[Parcel]) -> Result<Batch, BatchError> {
    let sequence = i32::try_from((first - 1) % WRAP).unwrap_or(0);
    let mut builder = BatchBuilder::new(Compression::None);
    builder.set_producer(ready.producer_id, ready.epoch, sequence);
    let header = |header: &ParcelHeader| Header {
        name: header.name.clone(),
        value: header.value.clone(),
    };
    for parcel in parcels {
        let headers: Vec<Header> = parcel.headers.iter().map(header).collect();
        let (key, value) = (parcel.key.as_deref(), parcel.value.as_deref());
        builder.push(parcel.timestamp_ms, key, value, &headers);
    }
    Batch::check(builder.finish()?)
}
