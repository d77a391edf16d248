//! How far a group is behind: in messages, and in seconds since the oldest one it has not done.
//!
//! Both are exact: the messages are counted from the position in the partition's own log, and
//! the time is the stamp of the message that lies there. A queue group's are those that are
//! not finished, wherever they lie. Stamps are kept at hand by offset, so
//! that asking again reads nothing.

use std::{collections::BTreeMap, sync::Arc};

use super::start::{Kept, lag_from, position};
use crate::{
    clock, error::Refusal, metadata::groups::Group, partition::Partition, services::Services,
};

/// One partition of a group.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PartitionLag {
    pub(crate) partition: u32,
    pub(crate) position: Option<u64>,
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) messages: u64,
    pub(crate) seconds: f64,
    /// Empty if nobody has it.
    pub(crate) member: String,
    /// 0 = never.
    pub(crate) commit_time_ms: i64,
}

impl Services {
    /// Position and lag of each partition.
    ///
    /// # Errors
    /// If the topic is gone, or the oldest message that is not done cannot be read.
    pub(crate) async fn group_lag(
        self: &Arc<Self>,
        group: &Group,
    ) -> Result<Vec<PartitionLag>, Refusal> {
        let live = self.topics.get(&group.topic)?;
        let mut owners = BTreeMap::new();
        for member in self.members(group).await? {
            for partition in member.partitions {
                owners.insert(partition, member.member.member_id.clone());
            }
        }
        let mut lags = Vec::with_capacity(live.partitions.len());
        for (number, partition) in (0..).zip(&live.partitions) {
            let mut lag = partition_lag(group, partition).await?;
            lag.member = owners.remove(&number).unwrap_or_default();
            lags.push(lag);
        }
        Ok(lags)
    }
}

/// A queue group: messages that are not finished, and the oldest of them.
async fn queue_lag(
    group: &Group,
    partition: &Partition,
    kept: Kept,
) -> Result<PartitionLag, Refusal> {
    let shared = partition.shared();
    let begun = shared.with_queues(|queues| {
        let state = queues.get(group.id)?;
        // It may lie below the log's start, and be kept aside.
        let from = state.floor().min(kept.end);
        Some((from, state.unfinished(from..kept.end)))
    });
    let (from, messages) = begun.unwrap_or_else(|| {
        let from = lag_from(group, shared.number, None, kept);
        (from, kept.end - from)
    });
    Ok(PartitionLag {
        partition: shared.number,
        position: begun.map(|(from, _)| from),
        start: kept.start,
        end: kept.end,
        messages,
        seconds: age_of(partition, from, messages).await?,
        member: String::new(),
        commit_time_ms: 0,
    })
}

/// Seconds since the message at `oldest` was stamped, if any are left to do.
async fn age_of(partition: &Partition, oldest: u64, messages: u64) -> Result<f64, Refusal> {
    if messages == 0 {
        return Ok(0.0);
    }
    let stamp_ms = partition.timestamp_of(oldest).await?;
    let age_ms = clock::now_ms().saturating_sub(stamp_ms).max(0);
    // Exact for hundreds of thousands of years.
    Ok(age_ms as f64 / 1_000.0)
}

pub(super) async fn partition_lag(
    group: &Group,
    partition: &Partition,
) -> Result<PartitionLag, Refusal> {
    let shared = partition.shared();
    let kept = Kept {
        start: shared.log_start_offset(),
        end: shared.high_watermark(),
    };
    if group.queue.is_some() {
        return queue_lag(group, partition, kept).await;
    }
    let stored = shared.position(group.id).unwrap_or_default();
    let from = lag_from(group, shared.number, stored.offset, kept);
    let messages = kept.end.saturating_sub(from);
    Ok(PartitionLag {
        partition: shared.number,
        position: position(group, shared.number, stored.offset),
        start: kept.start,
        end: kept.end,
        messages,
        seconds: age_of(partition, from, messages).await?,
        member: String::new(),
        commit_time_ms: stored.commit_time_ms,
    })
}
