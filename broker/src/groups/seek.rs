//! Moving a group's positions, with a preview.
//!
//! The new offsets are found first, all of them or none; then each partition's log takes its
//! own. Members that consume lose the partitions concerned and get them again at the new place;
//! in a queue group all leases end, and what lies below the new place counts as done.

use std::sync::Arc;

use super::{
    requests::Request,
    start::{Kept, position},
};
use crate::{
    error::Refusal,
    metadata::groups::Group,
    partition::{Partition, Place},
    queue::state::State,
    services::Services,
    work::Steering,
};

/// Where positions are moved to.
#[derive(Debug, Clone)]
pub(crate) enum SeekTo {
    Place(Place),
    /// So many messages on, or back.
    Shift(i64),
    /// Where this other group of the topic stands.
    Group(String),
}

/// A partition's position before and after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sought {
    pub(crate) partition: u32,
    pub(crate) old: Option<u64>,
    pub(crate) new: u64,
    pub(crate) start: u64,
    pub(crate) end: u64,
}

impl Services {
    /// Moves the positions of a group in some partitions (none named: in all); with
    /// `validate_only` just says where to.
    ///
    /// # Errors
    /// If group, partition or offset do not exist; nothing is moved then. If a partition does
    /// not take the change, others may have.
    pub(crate) async fn seek_group(
        self: &Arc<Self>,
        group: &Group,
        mut partitions: Vec<u32>,
        to: SeekTo,
        validate_only: bool,
    ) -> Result<Vec<Sought>, Refusal> {
        let live = self.topics.get(&group.topic)?;
        if partitions.is_empty() {
            partitions = (0..live.partitions.len() as u32).collect();
        }
        partitions.sort_unstable();
        partitions.dedup();
        if matches!(to, SeekTo::Place(Place::Offset(_))) && partitions.len() != 1 {
            let why = "an offset belongs to one partition; name it";
            return Err(Refusal::invalid("partitions", why));
        }
        let other = match &to {
            SeekTo::Group(name) => Some(self.group(&group.topic, name)?),
            _ => None,
        };
        let mut sought = Vec::with_capacity(partitions.len());
        for number in partitions {
            let partition = live.partition(number)?;
            let (old, kept) = standing(group, partition);
            let new = match (&to, &other) {
                (SeekTo::Place(place), _) if group.queue.is_some() => {
                    partition.queue_offset_of(*place).await?
                }
                (SeekTo::Place(place), _) => partition.offset_of(*place).await?,
                (SeekTo::Shift(by), _) => shifted(old, *by, kept),
                (SeekTo::Group(_), Some(other)) => match standing(other, partition).0 {
                    Some(position) => position.clamp(kept.start, kept.end),
                    // It would begin where the log begins, or has not decided.
                    None => kept.start,
                },
                (SeekTo::Group(_), None) => kept.start,
            };
            sought.push(Sought {
                partition: number,
                old,
                new,
                start: partition.shared().log_start_offset(),
                end: kept.end,
            });
        }
        if !validate_only {
            let targets: Vec<_> = sought.iter().map(|one| (one.partition, one.new)).collect();
            if group.queue.is_some() {
                self.steer(group, Steering::Seek(targets)).await?;
            } else {
                let seek = |answer| Request::Seek { targets, answer };
                self.ask(group, seek).await?;
            }
        }
        Ok(sought)
    }
}

fn standing(group: &Group, partition: &Partition) -> (Option<u64>, Kept) {
    let shared = partition.shared();
    let stored = match group.queue {
        // Of a queue: the oldest message that is not finished.
        Some(_) => shared.with_queues(|queues| queues.get(group.id).map(State::floor)),
        None => shared.position(group.id).and_then(|p| p.offset),
    };
    let kept = Kept {
        // A queue finds what is kept aside, too.
        start: match group.queue {
            Some(_) => partition.queue_start(),
            None => shared.log_start_offset(),
        },
        end: shared.high_watermark(),
    };
    (position(group, shared.number, stored), kept)
}

/// So many messages on or back, stopping at both ends.
fn shifted(old: Option<u64>, by: i64, kept: Kept) -> u64 {
    let from = old.unwrap_or(kept.start).clamp(kept.start, kept.end);
    from.saturating_add_signed(by).clamp(kept.start, kept.end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shift_stops_at_both_ends() {
        let kept = Kept { start: 10, end: 20 };
        let cases = [
            (Some(15), 3, 18),
            (Some(15), -3, 12),
            (Some(15), 9, 20),
            (Some(15), i64::MIN, 10),
            (Some(15), i64::MAX, 20),
            (Some(3), 2, 12),
            (None, 4, 14),
        ];
        for (old, by, new) in cases {
            assert_eq!(shifted(old, by, kept), new, "{old:?} {by}");
        }
    }
}
