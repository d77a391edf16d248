//! What the front doors see of the node: publish, read, topics, groups, producers, numbers.

use std::sync::Arc;

use aqueduct_proto::names;
use aqueduct_storage::Store;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::{
    clock::Clock,
    dead::Busy,
    error::Refusal,
    groups::Groups,
    metadata::{
        Metadata,
        state::{Change, Denied, Outcome, Producer},
    },
    schedules::Schedules,
    stats::Stats,
    topics::Topics,
    work::Work,
};

/// Bytes that one permit of the budget stands for.
const PERMIT_BYTES: usize = 1_024;

/// The node, as a door uses it.
pub(crate) struct Services {
    pub(crate) topics: Arc<Topics>,
    pub(crate) metadata: Metadata,
    pub(crate) store: Store,
    pub(crate) stats: Stats,
    pub(crate) groups: Groups,
    pub(crate) work: Work,
    pub(crate) schedules: Schedules,
    pub(crate) clock: Clock,
    pub(crate) busy: Busy,
    /// Becomes true when the node drains: finish what is in flight, take nothing new.
    pub(crate) draining: watch::Receiver<bool>,
    budget: Arc<Semaphore>,
    budget_permits: usize,
}

/// Where a connection comes from; the accept loop attaches it to each request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer(pub(crate) std::net::SocketAddr);

/// What is stored of a producer in one partition.
pub(crate) struct ProducerPosition {
    pub(crate) partition: u32,
    pub(crate) next_number: u64,
    pub(crate) last_offset: u64,
}

impl Services {
    pub(crate) fn new(
        topics: Topics,
        metadata: Metadata,
        store: Store,
        groups: Groups,
        draining: watch::Receiver<bool>,
        in_flight_bytes: usize,
    ) -> Services {
        let budget_permits = in_flight_bytes / PERMIT_BYTES;
        let budget = Arc::new(Semaphore::new(budget_permits));
        Services {
            topics: Arc::new(topics),
            clock: metadata.clock().clone(),
            metadata,
            store,
            stats: Stats::new(),
            groups,
            work: Work::default(),
            schedules: Schedules::default(),
            busy: Busy::default(),
            draining,
            budget,
            budget_permits,
        }
    }

    /// Waits until `bytes` of the node's budget for unsynced publishes are free, and takes them.
    /// This is where a slow disk becomes backpressure.
    ///
    /// # Errors
    /// `Draining` when the node goes down.
    pub(crate) async fn admit(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Refusal> {
        let permits = bytes.div_ceil(PERMIT_BYTES).clamp(1, self.budget_permits);
        let permits = u32::try_from(permits).unwrap_or(u32::MAX);
        self.budget
            .clone()
            .acquire_many_owned(permits)
            .await
            .map_err(|_| Refusal::Draining)
    }

    /// Fails once the node drains.
    ///
    /// # Errors
    /// `Draining`.
    pub(crate) fn check_draining(&self) -> Result<(), Refusal> {
        if *self.draining.borrow() {
            Err(Refusal::Draining)
        } else {
            Ok(())
        }
    }

    /// Ends when the node begins to drain.
    pub(crate) async fn drained(&self) {
        let mut draining = self.draining.clone();
        // An error means that the node is gone, which is as good.
        let _ = draining.wait_for(|draining| *draining).await;
    }

    /// Gives out a producer id. A name keeps its id; its epoch rises, which fences whoever held
    /// the name before.
    ///
    /// # Errors
    /// For a name that cannot be, or too many of them.
    pub(crate) async fn init_producer(&self, name: &str) -> Result<Producer, Refusal> {
        self.check_draining()?;
        if !name.is_empty() {
            check_producer_name(name)?;
        }
        match self
            .metadata
            .propose(Change::InitProducer(name.to_owned()))
            .await?
        {
            Outcome::Producer(producer) => Ok(producer),
            Outcome::Denied(why) if why == Denied::TooMany as i32 => Err(Refusal::LimitReached {
                what: "named producers".into(),
                limit: crate::limits::MAX_NAMED_PRODUCERS as u64,
            }),
            other => Err(Refusal::Unknown {
                why: format!("unexpected outcome {other:?}"),
            }),
        }
    }

    /// The producer of this name and what each partition of the topic has stored of it.
    ///
    /// # Errors
    /// If there is no such name or topic, or a partition does not answer.
    pub(crate) async fn producer_positions(
        &self,
        name: &str,
        topic: &str,
    ) -> Result<(Producer, Vec<ProducerPosition>), Refusal> {
        check_producer_name(name)?;
        let live = self.topics.get(topic)?;
        let producer = self.metadata.view().read().producers.get(name).copied();
        let producer = producer.ok_or_else(|| Refusal::ProducerNotFound { name: name.into() })?;
        let asked = live
            .partitions
            .iter()
            .map(|partition| partition.producer(producer.id));
        let answers = futures::future::try_join_all(asked).await?;
        let positions = answers
            .into_iter()
            .zip(0..)
            .filter_map(|(position, partition)| {
                let (next_number, last_offset) = position?;
                Some(ProducerPosition {
                    partition,
                    next_number,
                    last_offset,
                })
            });
        Ok((producer, positions.collect()))
    }
}

fn check_producer_name(name: &str) -> Result<(), Refusal> {
    names::check_topic(name).map_err(|error| Refusal::invalid("name", error.to_string()))
}
