//! A read without a group: several partitions, from a place to a place, followed or not.
//!
//! One session has a lane per partition and gives each its turn. It waits for publishes by
//! being woken, never by looking again, and sends no more than its credit allows.

use std::sync::Arc;

use aqueduct_proto::record::Record;
use tokio::sync::Notify;

use crate::{
    error::Refusal,
    lanes::{Credit, Event, Lane, Step, decode},
    partition::Place,
    services::Services,
    stats::Traffic,
};

/// What is to be read.
#[derive(Debug, Clone)]
pub(crate) struct ReadSpec {
    pub(crate) topic: String,
    /// Empty: all.
    pub(crate) partitions: Vec<u32>,
    pub(crate) from: Option<Place>,
    /// Exclusive.
    pub(crate) until: Option<Place>,
    pub(crate) follow: bool,
    pub(crate) raw: bool,
    pub(crate) max_messages: Option<u64>,
}

/// What a partition will deliver.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Range {
    pub(crate) partition: u32,
    pub(crate) from: u64,
    pub(crate) until: Option<u64>,
}

/// A read in progress.
pub(crate) struct ReadSession {
    services: Arc<Services>,
    traffic: Arc<Traffic>,
    lanes: Vec<Lane>,
    turn: usize,
    wake: Arc<Notify>,
    credit: Arc<Credit>,
    left: Option<u64>,
    raw: bool,
}

impl ReadSession {
    /// Finds the places in every partition.
    ///
    /// # Errors
    /// If the topic, a partition or an offset does not exist.
    pub(crate) async fn open(
        services: Arc<Services>,
        spec: ReadSpec,
        credit: Arc<Credit>,
    ) -> Result<(ReadSession, Vec<Range>), Refusal> {
        let live = services.topics.get(&spec.topic)?;
        let mut numbers = spec.partitions.clone();
        if numbers.is_empty() {
            numbers = (0..live.partitions.len() as u32).collect();
        }
        numbers.sort_unstable();
        numbers.dedup();
        if spec.follow && matches!(spec.until, Some(Place::Time(_))) {
            let why = "a time can be the end of a read that does not follow";
            return Err(Refusal::invalid("until", why));
        }
        let wake = Arc::new(Notify::new());
        let (mut lanes, mut ranges) = (Vec::new(), Vec::new());
        for number in numbers {
            let partition = live.partition(number)?;
            // The end first: what is published in between is not part of a bounded read.
            let until = until_of(partition, &spec).await?;
            let start = if spec.follow {
                Place::End
            } else {
                Place::Start
            };
            let from = partition.offset_of(spec.from.unwrap_or(start)).await?;
            let cursor = partition.cursor(from);
            cursor.register(&wake);
            ranges.push(Range {
                partition: number,
                from,
                until,
            });
            lanes.push(Lane::new(cursor, until));
        }
        let left = spec.max_messages;
        let raw = spec.raw;
        Ok((
            ReadSession {
                services,
                traffic: live.traffic.clone(),
                lanes,
                turn: 0,
                wake,
                credit,
                left,
                raw,
            },
            ranges,
        ))
    }

    /// The next thing to tell; `None` at the end.
    ///
    /// # Errors
    /// Where a partition cannot be read on; the session is over then.
    pub(crate) async fn next(&mut self) -> Result<Option<Event>, Refusal> {
        loop {
            if self.left == Some(0) || self.lanes.iter().all(Lane::is_done) {
                return Ok(None);
            }
            let credit = self.credit.some().await;
            for _ in 0..self.lanes.len() {
                self.turn = (self.turn + 1) % self.lanes.len();
                if let Some(event) = self.step(credit).await? {
                    return Ok(Some(event));
                }
            }
            self.wake.notified().await;
        }
    }

    /// One turn of one lane.
    async fn step(&mut self, credit: (u64, u64)) -> Result<Option<Event>, Refusal> {
        let messages = credit.0.min(self.left.unwrap_or(u64::MAX));
        let lane = &mut self.lanes[self.turn];
        let Some(step) = lane.step(self.raw, (messages, credit.1)).await? else {
            return Ok(None);
        };
        self.credit.take(step.messages, step.bytes);
        self.left = self.left.map(|left| left.saturating_sub(step.messages));
        let Step {
            messages, bytes, ..
        } = step;
        self.services.stats.sent(&self.traffic, messages, bytes);
        Ok(Some(step.event))
    }
}

/// Where the lane ends: a place, or without following the end as of now.
async fn until_of(
    partition: &crate::partition::Partition,
    spec: &ReadSpec,
) -> Result<Option<u64>, Refusal> {
    let end = partition.shared().high_watermark();
    match spec.until {
        None if spec.follow => Ok(None),
        None => Ok(Some(end)),
        Some(Place::Offset(offset)) if spec.follow => Ok(Some(offset)),
        Some(Place::Offset(offset)) => Ok(Some(offset.min(end))),
        Some(place) => partition.offset_of(place).await.map(Some),
    }
}

impl Services {
    /// The one message at an offset.
    ///
    /// # Errors
    /// If there is none, or it cannot be read.
    pub(crate) async fn message_at(
        &self,
        topic: &str,
        number: u32,
        offset: u64,
    ) -> Result<Record, Refusal> {
        let live = self.topics.get(topic)?;
        let partition = live.partition(number)?;
        // What is kept aside for queue groups is still there for whoever names it.
        if !partition.shared().with_kept(|kept| kept.contains(offset)) {
            partition.offset_of(Place::Offset(offset)).await?;
        }
        let mut cursor = partition.queue_cursor(offset);
        let missing = Refusal::MessageNotFound {
            partition: number,
            offset,
        };
        let Some(chunk) = cursor.read(Some(offset + 1), 1).await? else {
            return Err(missing);
        };
        let decoding =
            tokio::task::spawn_blocking(move || decode(chunk.batches, offset..offset + 1));
        let decoded = decoding
            .await
            .unwrap_or_else(|error| Err(error.to_string()));
        let records = decoded.map_err(|why| Refusal::Damaged {
            partition: number,
            offset,
            file: "the stored batch".into(),
            position: 0,
            why,
        })?;
        records.into_iter().next().ok_or(missing)
    }
}
