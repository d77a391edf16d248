//! Messages that leave a queue although nobody takes any: their time to live is over, the filter
//! leaves them out, their key is parked.
//!
//! As long as anything is unfinished the group's task stays, and looks at what is new at a
//! bounded pace; what it has seen leaves in time by the schedule. A sweep starts the tasks of
//! groups that have something unfinished. How many partitions are attended so is bounded; groups
//! beyond have such messages leave when somebody demands.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::driver::Driver;
use crate::{
    limits::MAX_ATTENDED_PARTITIONS, metadata::groups::Group, partition::Partition,
    services::Services,
};

/// Time between two looks at what is new, if the last one has seen all.
const PERIOD: Duration = Duration::from_secs(1);
/// The same, if there was more to see.
const PACE: Duration = Duration::from_millis(250);
/// Pieces of the log that one look reads.
const PIECES: usize = 16;

/// Whether anything of a partition is left to do.
fn is_unfinished(partition: &Partition, group_id: u64) -> bool {
    let shared = partition.shared();
    let floor = shared.with_queues(|queues| queues.get(group_id).map(|state| state.floor()));
    floor.unwrap_or_else(|| shared.log_start_offset()) < shared.high_watermark()
}

impl Driver {
    /// Whether it is time to look although nobody demands anything.
    pub(super) fn is_attending(&self) -> bool {
        let is_held = self.attendance.is_some() || !self.consumers.is_empty();
        is_held && !self.has_demand() && self.attend_at <= Instant::now()
    }

    /// Looks at some of what is new; afterwards the next look is later.
    pub(super) async fn attend(&mut self) {
        let (mut pieces, lanes) = (PIECES, self.lanes.len());
        for turn in 0..lanes {
            // Not always from the same one on: a busy lane must not hide the others.
            let lane = &mut self.lanes[(turn + self.turn) % lanes];
            while pieces > 0 && lane.pause_left_ms().is_none() {
                match lane.scan(&self.policy).await {
                    Ok(true) => pieces -= 1,
                    Ok(false) => break,
                    Err(refusal) => {
                        tracing::warn!(group = self.group.name, partition = lane.number, %refusal,
                            "a queue cannot read on");
                        lane.pause();
                    }
                }
            }
        }
        let pause = if pieces == 0 { PACE } else { PERIOD };
        self.attend_at = Instant::now() + pause;
    }

    /// Keeps the task of a group without consumers, if something is unfinished and there is a
    /// place.
    pub(super) fn stays(&mut self) -> bool {
        let id = self.group.id;
        let mut lanes = self.lanes.iter();
        if !lanes.any(|lane| is_unfinished(&lane.partition, id)) {
            self.attendance = None;
            return false;
        }
        if self.attendance.is_none() {
            let places = self.services.work.places.clone();
            let lanes = u32::try_from(self.lanes.len()).unwrap_or(u32::MAX);
            self.attendance = places.try_acquire_many_owned(lanes).ok();
        }
        self.attendance.is_some()
    }
}

/// Starts the tasks of groups that have something unfinished and no task, until the node drains.
pub(crate) async fn run(services: Arc<Services>) {
    let mut after = String::new();
    loop {
        tokio::select! {
            () = tokio::time::sleep(PERIOD) => {}
            () = services.drained() => return,
        }
        after = services.sweep(&after);
    }
}

impl Services {
    /// Looks at queue groups after this key, at a bounded number of partitions; answers after
    /// which to go on.
    fn sweep(self: &Arc<Self>, after: &str) -> String {
        let keys: Vec<String> = {
            let view = self.metadata.view().read();
            if after.is_empty() {
                let ids = view.groups.values().map(|group| group.id).collect();
                self.work.keep_times(&ids);
            }
            let queues = view.groups.iter().filter(|(_, it)| it.queue.is_some());
            let keys = queues
                .map(|(key, _)| key)
                .filter(|key| key.as_str() > after);
            keys.cloned().collect()
        };
        let mut left = MAX_ATTENDED_PARTITIONS;
        for key in keys {
            let group = self.metadata.view().read().groups.get(&key).cloned();
            let Some(group) = group else { continue };
            left = left.saturating_sub(self.look_after(&group));
            if left == 0 {
                return key;
            }
        }
        String::new()
    }

    /// Starts the group's task if something is unfinished; answers how much there was to look at.
    fn look_after(self: &Arc<Self>, group: &Group) -> usize {
        if self.work.running(group.id).is_some() {
            return 1;
        }
        let Ok(live) = self.topics.get(&group.topic) else {
            return 1;
        };
        let count = live.partitions.len();
        if self.work.places.available_permits() < count {
            return 1;
        }
        let mut partitions = live.partitions.iter();
        if partitions.any(|partition| is_unfinished(partition, group.id))
            && let Err(refusal) = self.driver(group)
        {
            tracing::debug!(topic = group.topic, group = group.name, %refusal,
                "a queue group is not attended");
        }
        count
    }
}
