//! Dead letters published again, each exactly once: planned, published, concluded (see
//! `partition::taken`). A batch goes to each target partition, numbered by a producer of the
//! broker's own for each pair of partitions, so the target itself knows whether it is stored.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use aqueduct_proto::{
    batch::{Batch, BatchError},
    compression::Compression,
    partitioner,
    record::{BatchBuilder, Header},
};
use tokio::sync::oneshot;

use super::letter::{Edits, Letter};
use crate::{
    clock,
    error::Refusal,
    metadata::{internals::InitInternal, state::Producer},
    partition::{
        Message, Partition,
        taken::{Conclusion, Conclusions, Kind, Plan, Plans},
    },
    services::Services,
    topics::LiveTopic,
};

/// Sequences count modulo this.
const WRAP: u64 = 1 << 31;

/// From one partition to another.
struct Lane {
    producer: Producer,
    /// Number of the next message.
    next: u64,
}

/// One batch on its way.
struct Parcel {
    number: u32,
    plan: Plan,
    batch: Batch,
}

/// Moves dead letters to a topic.
pub(super) struct Mover {
    services: Arc<Services>,
    from: Arc<LiveTopic>,
    to: Arc<LiveTopic>,
    edits: Edits,
    /// By partition of either side.
    lanes: HashMap<(u32, u32), Lane>,
}

impl Mover {
    pub(super) fn new(
        services: Arc<Services>,
        from: Arc<LiveTopic>,
        to: Arc<LiveTopic>,
        edits: Edits,
    ) -> Mover {
        Mover {
            services,
            from,
            to,
            edits,
            lanes: HashMap::new(),
        }
    }

    /// The letter as it will be published, if the target takes it.
    pub(super) fn fits(&self, letter: &Letter) -> bool {
        let headers = self.headers(letter);
        let of_headers = |header: &Header| {
            header.name.len() + header.value.as_ref().map_or(0, bytes::Bytes::len)
        };
        let record = &letter.record;
        let bytes = record.key.as_ref().map_or(0, bytes::Bytes::len)
            + record.value.as_ref().map_or(0, bytes::Bytes::len)
            + headers.iter().map(of_headers).sum::<usize>();
        bytes as u64 <= self.to.topic.config.max_message_bytes
    }

    fn headers(&self, letter: &Letter) -> Vec<Header> {
        let from = &self.from.topic.name;
        letter.redriven_headers(from, &self.edits, clock::now_ms())
    }

    /// Back to the same partition, elsewhere by key.
    fn partition_for(&self, letter: &Letter) -> u32 {
        let count = self.to.partitions.len() as u32;
        if letter.topic == self.to.topic.name && letter.source.0 < count {
            return letter.source.0;
        }
        match &letter.record.key {
            Some(key) => partitioner::for_key(key, count),
            None => self.to.next_partition(),
        }
    }

    /// Publishes these letters of one partition; answers how many. With an error some may be
    /// published; those are gone, the others are not.
    ///
    /// # Errors
    /// What stood in the way.
    pub(super) async fn redrive(
        &mut self,
        number: u32,
        letters: Vec<Letter>,
    ) -> Result<u64, Refusal> {
        let source = self.from.partition(number)?.clone();
        let mut sorted: BTreeMap<u32, Vec<Letter>> = BTreeMap::new();
        for letter in letters {
            let target = self.partition_for(&letter);
            sorted.entry(target).or_default().push(letter);
        }
        let mut parcels = Vec::with_capacity(sorted.len());
        for (target, letters) in sorted {
            parcels.push(self.parcel(number, target, &letters).await?);
        }
        let plans: Vec<Plan> = parcels.iter().map(|parcel| parcel.plan.clone()).collect();
        let wanted: usize = plans.iter().map(|plan| plan.offsets.len()).sum();
        let planned = source.take(Kind::Plan(Plans { plans })).await?;
        if planned != wanted as u64 {
            // Somebody else is at it, which a turn rules out; what is planned is concluded later.
            return Err(Refusal::Unavailable {
                why: "other dead letters are gone than those that were chosen".into(),
            });
        }
        let stored = futures::future::join_all(parcels.iter().map(|p| self.publish(p))).await;
        let (mut conclusions, mut failed) = (Vec::new(), None);
        for (parcel, stored) in parcels.iter().zip(stored) {
            let target = parcel.plan.target;
            match stored {
                Ok(()) => {
                    if let Some(lane) = self.lanes.get_mut(&(number, parcel.number)) {
                        lane.next += parcel.plan.offsets.len() as u64;
                    }
                    let is_stored = true;
                    conclusions.push(Conclusion { target, is_stored });
                }
                Err(refusal) => {
                    self.lanes.remove(&(number, parcel.number));
                    failed = Some(refusal);
                }
            }
        }
        let moved = source.take(Kind::Conclude(Conclusions { conclusions }));
        let moved = moved.await?;
        match failed {
            None => Ok(moved),
            Some(refusal) => {
                // Whether these were stored, their targets know; if not now, then later.
                conclude(&self.services, &self.from, number).await?;
                Err(refusal)
            }
        }
    }

    async fn parcel(
        &mut self,
        number: u32,
        target: u32,
        letters: &[Letter],
    ) -> Result<Parcel, Refusal> {
        let group = raft_group(&self.to, target)?;
        if !self.lanes.contains_key(&(number, target)) {
            let from = (self.from.topic.id, raft_group(&self.from, number)?);
            let to = (self.to.topic.id, group);
            let lane = lane(&self.services, from, to, self.to.partition(target)?).await?;
            self.lanes.insert((number, target), lane);
        }
        let lane = &self.lanes[&(number, target)];
        let sequence = i32::try_from(lane.next % WRAP).unwrap_or(0);
        let epoch = i16::try_from(lane.producer.epoch).unwrap_or(i16::MAX);
        let mut builder = BatchBuilder::new(Compression::None);
        builder.set_producer(lane.producer.id, epoch, sequence);
        let now_ms = clock::now_ms();
        for letter in letters {
            let record = &letter.record;
            let (key, value) = (record.key.as_deref(), record.value.as_deref());
            builder.push(now_ms, key, value, &self.headers(letter));
        }
        let bad = |error: BatchError| Refusal::BadBatch {
            why: error.to_string(),
        };
        let bytes = builder.finish().map_err(bad)?;
        Ok(Parcel {
            number: target,
            plan: Plan {
                target: group,
                next: lane.next,
                offsets: letters.iter().map(|letter| letter.record.offset).collect(),
            },
            batch: Batch::check(bytes).map_err(bad)?,
        })
    }

    async fn publish(&self, parcel: &Parcel) -> Result<(), Refusal> {
        let batch = parcel.batch.clone();
        let bytes = batch.bytes().len();
        let permit = self.services.admit(bytes).await?;
        let count = u64::from(batch.count());
        let (answer, answered) = oneshot::channel();
        let expected_offset = None;
        let message = Message::Batch {
            batch,
            expected_offset,
            permit,
            answer,
        };
        self.to.partition(parcel.number)?.send(message).await?;
        answered.await.map_err(|_| Refusal::Unknown {
            why: "the target closed".into(),
        })??;
        let stats = &self.services.stats;
        stats.received(&self.to.traffic, count, bytes as u64);
        Ok(())
    }
}

/// The way from one partition to another: fences whoever went it before, and asks the target how
/// far they came. Each side is the topic's id and the partition's Raft group.
async fn lane(
    services: &Services,
    (from_topic, from): (u64, u64),
    (to_topic, to): (u64, u64),
    target: &Partition,
) -> Result<Lane, Refusal> {
    let init = InitInternal {
        name: format!("redrive/{from}/{to}"),
        group_id: 0,
        from_topic,
        to_topic,
        base: 0,
    };
    let producer = services.internal_producer(init).await?.producer;
    let stored = target.producer(producer.id).await?;
    let next = stored.map_or(0, |(next, _)| next);
    Ok(Lane { producer, next })
}

fn raft_group(live: &LiveTopic, number: u32) -> Result<u64, Refusal> {
    live.partition(number)?;
    let group = live.topic.groups.get(number as usize).copied();
    group.ok_or_else(|| Refusal::Unavailable {
        why: "the topic is being changed".into(),
    })
}

/// Finishes what a crash or an error left planned, in all partitions.
///
/// # Errors
/// If that cannot be said just now.
pub(super) async fn conclude_all(services: &Services, from: &LiveTopic) -> Result<(), Refusal> {
    for number in 0..from.partitions.len() as u32 {
        conclude(services, from, number).await?;
    }
    Ok(())
}

async fn conclude(services: &Services, from: &LiveTopic, number: u32) -> Result<(), Refusal> {
    let source = from.partition(number)?;
    let plans: Vec<Plan> = source
        .shared()
        .with_taken(|taken| taken.plans().cloned().collect());
    let mut conclusions = Vec::with_capacity(plans.len());
    for plan in plans {
        let is_stored = is_stored(services, from, number, &plan).await?;
        let target = plan.target;
        conclusions.push(Conclusion { target, is_stored });
    }
    if !conclusions.is_empty() {
        let concluded = source.take(Kind::Conclude(Conclusions { conclusions }));
        concluded.await?;
    }
    Ok(())
}

async fn is_stored(
    services: &Services,
    from: &LiveTopic,
    number: u32,
    plan: &Plan,
) -> Result<bool, Refusal> {
    let holds = |live: &Arc<LiveTopic>| live.topic.groups.contains(&plan.target);
    let Some(to) = services.topics.all().into_iter().find(holds) else {
        // The target was deleted. What was stored there is gone with it, and here it still is.
        return Ok(false);
    };
    let place = to.topic.groups.iter().position(|g| *g == plan.target);
    let target = to.partition(u32::try_from(place.unwrap_or(0)).unwrap_or(0))?;
    let source = (from.topic.id, raft_group(from, number)?);
    let lane = lane(services, source, (to.topic.id, plan.target), target).await?;
    Ok(lane.next > plan.next)
}
