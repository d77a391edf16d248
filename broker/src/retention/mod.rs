//! The retention task: now and then, for each partition, what its topic no longer keeps.
//!
//! What to drop is decided by a pure rule from facts about segments: by age and size (storage's),
//! or by what groups still need ([`rule`], with what earlier looks found in [`watch`]). It becomes a
//! command in the partition's log, so that replicas agree on where the log begins.

mod done;
mod rule;
mod watch;

use std::{collections::HashMap, sync::Arc, time::Duration};

use aqueduct_storage::{
    SegmentFacts,
    retention::{Policy, boundary},
};

use self::watch::Watch;
use crate::{
    clock, groups::admin::forget_unknown_groups, metadata::groups::Group, partition::Partition,
    services::Services,
};

/// Looks at every partition each `interval`, until the node drains.
pub(crate) async fn run(services: Arc<Services>, interval: Duration) {
    let steady = services.clock.steady_from(0);
    let mut watches: HashMap<u64, Watch> = HashMap::new();
    loop {
        tokio::select! {
            () = tokio::time::sleep(interval) => {}
            () = services.drained() => return,
        }
        let mut before = std::mem::take(&mut watches);
        for live in services.topics.all() {
            for partition in &live.partitions {
                // Ids of logs are not used again.
                let id = partition.shared().log.id();
                let mut watch = before.remove(&id).unwrap_or_default();
                look_at(&services, partition, &mut watch, steady.now_ms()).await;
                watches.insert(id, watch);
            }
            // Other tasks of this thread have their turn between topics.
            tokio::task::yield_now().await;
        }
        services.topics.catch_up_all().await;
        services.metadata.compact().await;
    }
}

async fn look_at(services: &Services, partition: &Partition, watch: &mut Watch, now_ms: i64) {
    if partition.unavailable().is_some() {
        return;
    }
    let groups = || -> Vec<Group> {
        let view = services.metadata.view().read();
        view.groups_of(&partition.shared().topic).cloned().collect()
    };
    if partition.shared().config.load().until_done {
        // What a new group needs the partition does not know before its first use, so none is
        // made between the look and the cut.
        let still = services.groups.hold_still().await;
        let groups = groups();
        let known: Vec<u64> = groups.iter().map(|group| group.id).collect();
        forget_unknown_groups(partition, &known).await;
        done::look_at(partition, &groups, watch, now_ms).await;
        drop(still);
        return partition.drop_trimmed_segments().await;
    }
    // It may have been of the other kind before.
    done::drop_kept(partition, &groups(), watch, now_ms).await;
    look_by_time(partition).await;
}

async fn look_by_time(partition: &Partition) {
    let shared = partition.shared();
    let config = **shared.config.load();
    let policy = Policy {
        max_age_ms: (config.retention_ms > 0)
            .then(|| i64::try_from(config.retention_ms).unwrap_or(i64::MAX)),
        max_bytes: (config.retention_bytes > 0).then_some(config.retention_bytes),
    };
    if policy.max_age_ms.is_none() && policy.max_bytes.is_none() {
        return;
    }
    // The high watermark first: what is published in between is in no segment looked at, or it is
    // and then lies above the mark.
    let (high_watermark, now_ms) = (shared.high_watermark(), clock::now_ms());
    let segments = shared.log.segments();
    let mut before = boundary(&segments, policy, now_ms);
    if let Some(last) = segments
        .last()
        .filter(|last| all_expired(last, policy, now_ms))
    {
        // An idle topic: its last segment would stay for want of a next one. The trim below is
        // the first entry of that next one, and the segment goes when retention looks again.
        if last.base_offset < high_watermark {
            shared.log.roll();
            before = Some(high_watermark);
        }
    }
    let Some(before) = before else { return };
    // It may have become a topic that retains until done meanwhile.
    if before > shared.log_start_offset() && !shared.config.load().until_done {
        let trimmed = partition.trim(before).await;
        if let Err(refusal) = trimmed {
            return tracing::warn!(topic = %shared.topic, partition = shared.number, %refusal,
                "retention was not applied");
        }
    }
    partition.drop_trimmed_segments().await;
}

/// Whether even the newest message of the segment is older than allowed.
fn all_expired(segment: &SegmentFacts, policy: Policy, now_ms: i64) -> bool {
    let Some((newest, max_age_ms)) = segment.max_timestamp_ms.zip(policy.max_age_ms) else {
        return false;
    };
    now_ms.saturating_sub(newest) > max_age_ms
}
