//! Commits: what a member holds, and the way of a commit to the partition and back.
//!
//! Here a commit is only checked against what the member was told; that gives the clearer
//! refusals. What decides is the partition's own log, which knows the present epoch.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use super::terms::LostReason;
use crate::{
    clock,
    error::Refusal,
    limits,
    partition::{
        Moving, Partition,
        positions::{Commit, Kind, Move, MoveResult, Verdict},
    },
    topics::LiveTopic,
};

/// What a member wants to commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CommitWish {
    pub(crate) partition: u32,
    pub(crate) epoch: u64,
    pub(crate) offset: u64,
}

/// What became of it.
#[derive(Debug, Clone)]
pub(crate) struct Committed {
    pub(crate) partition: u32,
    /// The group's position after this.
    pub(crate) position: u64,
    pub(crate) refusal: Option<Refusal>,
}

#[derive(Default)]
struct Epochs {
    now: BTreeMap<u32, u64>,
    /// Of partitions that were lost or given back.
    past: BTreeMap<u32, u64>,
}

/// What a member holds, as it was told.
pub(crate) struct Held {
    group: String,
    group_id: u64,
    member_id: String,
    live: ArcSwap<LiveTopic>,
    epochs: Mutex<Epochs>,
    heard_ms: AtomicU64,
    /// Calls of this member that are in progress.
    calls: AtomicU32,
}

/// While it is there, the member lives.
pub(super) struct Calling<'a>(&'a Held);

impl Drop for Calling<'_> {
    fn drop(&mut self) {
        self.0.touch();
        self.0.calls.fetch_sub(1, Relaxed);
    }
}

impl Held {
    pub(super) fn new(
        group: String,
        group_id: u64,
        member_id: String,
        live: Arc<LiveTopic>,
    ) -> Held {
        Held {
            group,
            group_id,
            member_id,
            live: ArcSwap::new(live),
            epochs: Mutex::default(),
            heard_ms: AtomicU64::new(clock::monotonic_ms()),
            calls: AtomicU32::new(0),
        }
    }

    /// The member says something, which means that it lives.
    pub(crate) fn touch(&self) {
        self.heard_ms.store(clock::monotonic_ms(), Relaxed);
    }

    /// A call begins; a member whose call waits for messages is heard of all the while.
    pub(super) fn calling(&self) -> Calling<'_> {
        self.calls.fetch_add(1, Relaxed);
        Calling(self)
    }

    pub(super) fn heard_ms(&self) -> u64 {
        if self.calls.load(Relaxed) > 0 {
            self.touch();
        }
        self.heard_ms.load(Relaxed)
    }

    pub(super) fn live(&self) -> Arc<LiveTopic> {
        self.live.load_full()
    }

    pub(super) fn set_live(&self, live: Arc<LiveTopic>) {
        self.live.store(live);
    }

    pub(super) fn gain(&self, partition: u32, epoch: u64) {
        self.epochs.lock().now.insert(partition, epoch);
    }

    pub(super) fn lose(&self, partitions: &[u32]) {
        let mut epochs = self.epochs.lock();
        for partition in partitions {
            if let Some(epoch) = epochs.now.remove(partition) {
                epochs.past.insert(*partition, epoch);
            }
        }
    }

    /// The group's position, if it is of this epoch.
    pub(super) fn committed(&self, partition: u32, epoch: u64) -> Option<u64> {
        let live = self.live();
        let shared = live.partition(partition).ok()?.shared();
        let stored = shared.position(self.group_id)?;
        stored.offset.filter(|_| stored.epoch == epoch)
    }

    pub(super) fn fenced(&self) -> Refusal {
        Refusal::MemberFenced {
            group: self.group.clone(),
            member: self.member_id.clone(),
        }
    }

    pub(super) fn removed(&self) -> Refusal {
        Refusal::MemberRemoved {
            group: self.group.clone(),
            member: self.member_id.clone(),
        }
    }

    pub(super) fn unknown(&self) -> Refusal {
        Refusal::MemberUnknown {
            group: self.group.clone(),
            member: self.member_id.clone(),
        }
    }

    /// Why nothing of a partition is delivered.
    pub(super) fn stuck(&self, partition: u32, reason: LostReason) -> Option<Refusal> {
        let live = self.live();
        let shared = live.partition(partition).ok()?.shared();
        let stored = shared.position(self.group_id).unwrap_or_default();
        Some(match reason {
            LostReason::NoPosition => Refusal::NoPosition {
                group: self.group.clone(),
                partition,
            },
            _ => shared.out_of_range(stored.offset.unwrap_or(0)),
        })
    }

    /// Refuses what this member cannot commit.
    fn check(&self, wish: CommitWish, stored_epoch: u64) -> Result<(), Refusal> {
        let CommitWish {
            partition, epoch, ..
        } = wish;
        let epochs = self.epochs.lock();
        let fenced = |current| Refusal::CommitFenced {
            partition,
            epoch,
            current,
        };
        match epochs.now.get(&partition) {
            Some(current) if *current == epoch => Ok(()),
            Some(current) => Err(fenced(*current)),
            None => {
                let past = epochs.past.get(&partition).copied().unwrap_or(0);
                if epoch > 0 && (epoch <= past || epoch < stored_epoch) {
                    return Err(fenced(stored_epoch));
                }
                Err(Refusal::NotAssigned {
                    partition,
                    member: self.member_id.clone(),
                })
            }
        }
    }
}

/// Commits that have their place in their partitions' logs.
pub(super) struct Committing(Vec<(u32, u64, Begun)>);

/// Epoch and offset of a commit that is on its way.
type Begun = Result<(u64, u64, Moving), Refusal>;

/// Refuses a request with too many commits.
///
/// # Errors
/// `Invalid`.
pub(super) fn check_count(field: &str, count: usize) -> Result<(), Refusal> {
    let limit = limits::MAX_COMMITS_PER_REQUEST;
    if count > limit {
        let why = format!("{count} commits, the limit is {limit}");
        return Err(Refusal::invalid(field, why));
    }
    Ok(())
}

/// Hands a member's commits to their partitions.
pub(super) async fn begin(held: &Held, wishes: &[CommitWish]) -> Committing {
    let live = held.live();
    let mut begun = Vec::with_capacity(wishes.len());
    for wish in wishes {
        let position = live.partition(wish.partition).map(|partition| {
            let stored = partition.shared().position(held.group_id);
            (partition, stored.unwrap_or_default())
        });
        let (before, moving) = match position {
            Err(refusal) => (0, Err(refusal)),
            Ok((partition, stored)) => {
                let moving = match held.check(*wish, stored.epoch) {
                    Ok(()) => begin_one(partition, held.group_id, *wish).await,
                    Err(refusal) => Err(refusal),
                };
                (stored.offset.unwrap_or(0), moving)
            }
        };
        let moving = moving.map(|moving| (wish.epoch, wish.offset, moving));
        begun.push((wish.partition, before, moving));
    }
    Committing(begun)
}

/// Hands commits of nobody to their partitions, under the epochs that were read while there was
/// no member: if one has joined since, they are refused.
pub(super) async fn begin_memberless(
    live: &LiveTopic,
    group_id: u64,
    wishes: &[(CommitWish, u64)],
) -> Committing {
    let mut begun = Vec::with_capacity(wishes.len());
    for (wish, epoch) in wishes {
        let wish = CommitWish {
            epoch: *epoch,
            ..*wish
        };
        let moving = match live.partition(wish.partition) {
            Ok(partition) => begin_one(partition, group_id, wish).await,
            Err(refusal) => Err(refusal),
        };
        let moving = moving.map(|moving| (wish.epoch, wish.offset, moving));
        begun.push((wish.partition, 0, moving));
    }
    Committing(begun)
}

async fn begin_one(
    partition: &Partition,
    group_id: u64,
    wish: CommitWish,
) -> Result<Moving, Refusal> {
    let CommitWish { epoch, offset, .. } = wish;
    let kind = Some(Kind::Commit(Commit { epoch, offset }));
    partition.begin_move(Move { group_id, kind }).await
}

impl Committing {
    /// Waits until all are applied or refused.
    pub(super) async fn finish(self, live: Arc<LiveTopic>) -> Vec<Committed> {
        let mut all = Vec::with_capacity(self.0.len());
        for (partition, before, moving) in self.0 {
            let outcome = match moving {
                Ok((epoch, offset, moving)) => match moving.outcome().await {
                    Ok(result) => Ok(verdict(&live, (partition, epoch, offset), &result)),
                    Err(refusal) => Err(refusal),
                },
                Err(refusal) => Err(refusal),
            };
            all.push(match outcome {
                Ok((position, refusal)) => Committed {
                    partition,
                    position,
                    refusal,
                },
                Err(refusal) => Committed {
                    partition,
                    position: before,
                    refusal: Some(refusal),
                },
            });
        }
        all
    }
}

fn verdict(
    live: &LiveTopic,
    (partition, epoch, offset): (u32, u64, u64),
    result: &MoveResult,
) -> (u64, Option<Refusal>) {
    let position = result.position.offset.unwrap_or(0);
    let refusal = match result.verdict() {
        Verdict::Made => None,
        Verdict::Fenced => Some(Refusal::CommitFenced {
            partition,
            epoch,
            current: result.position.epoch,
        }),
        Verdict::Backwards => Some(Refusal::CommitBackwards {
            partition,
            offset,
            position,
        }),
        Verdict::BeyondEnd => Some(match live.partition(partition) {
            Ok(found) => found.shared().out_of_range(offset),
            Err(refusal) => refusal,
        }),
        Verdict::Unreadable => Some(Refusal::Unknown {
            why: "the partition did not understand the commit".into(),
        }),
    };
    (position, refusal)
}
