//! What is done to a queue group from outside, between two rounds: seeks, keys that go on.
//!
//! The group's task does it itself, so no verdict is ever resolved against a state that a seek
//! has replaced meanwhile.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::{Request, driver::Driver, stopped};
use crate::{
    error::Refusal,
    groups::admin::wrong_kind,
    metadata::groups::Group,
    partition::queues::Step,
    queue::command::{Batch, Command, Kind, Status},
    services::Services,
};

/// Keys after which it is cheaper to build the schedule anew than to look for each key's
/// messages.
const FEW_KEYS: usize = 8;

/// What is to be done, by partition.
pub(crate) enum Steering {
    /// The queue begins here (if it has not yet), and all is fresh from this offset on.
    Seek(Vec<(u32, u64)>),
    /// Keys by hash.
    Unpark(Vec<(u32, Vec<u64>)>),
}

impl Steering {
    fn kinds(self) -> Vec<(u32, Vec<Kind>)> {
        match self {
            Steering::Seek(targets) => {
                let kinds = |offset| vec![Kind::Begin(offset), Kind::Seek(offset)];
                let targets = targets.into_iter();
                targets.map(|(at, offset)| (at, kinds(offset))).collect()
            }
            Steering::Unpark(keys) => {
                let kinds = |keys: Vec<u64>| keys.into_iter().map(Kind::Unpark).collect();
                let keys = keys.into_iter();
                keys.map(|(at, keys)| (at, kinds(keys))).collect()
            }
        }
    }
}

/// Who waits for it.
pub(super) struct Steered {
    pub(super) what: Steering,
    pub(super) answer: oneshot::Sender<Result<(), Refusal>>,
}

impl Driver {
    /// Works off what waits; nothing of the group is on its way into the log.
    pub(super) async fn steer(&mut self) {
        for Steered { what, answer } in std::mem::take(&mut self.steering) {
            let done = self.steer_one(what).await;
            // Whoever hung up does not want to know.
            let _ = answer.send(done);
        }
    }

    async fn steer_one(&mut self, what: Steering) -> Result<(), Refusal> {
        let now_ms = self.clock.now_ms();
        let mut begun = Vec::new();
        for (number, kinds) in what.kinds() {
            let Some(lane) = self.lanes.get_mut(number as usize) else {
                self.live.partition(number)?;
                continue;
            };
            if kinds.len() > FEW_KEYS {
                lane.reschedule();
            }
            let step = Step {
                group_id: self.group.id,
                batch: Batch {
                    now_ms,
                    commands: kinds.into_iter().map(Command::new).collect(),
                    ..Batch::default()
                },
            };
            begun.push(lane.partition.begin_step(step).await);
        }
        let mut result = Ok(());
        for begun in begun {
            let outcome = match begun {
                Ok(stepping) => stepping.outcome().await,
                Err(refusal) => Err(refusal),
            };
            let refused = outcome.and_then(|replies| {
                let mut replies = replies.replies.iter();
                match replies.all(|reply| reply.status() == Status::Done) {
                    true => Ok(()),
                    false => Err(Refusal::Unknown {
                        why: "the partition refused the change".into(),
                    }),
                }
            });
            result = result.and(refused);
        }
        result
    }
}

impl Services {
    /// Lets parked keys go on: one, by its hash, or all. Answers how many there were, counted in
    /// each partition.
    ///
    /// # Errors
    /// As [`Services::steer`].
    pub(crate) async fn unpark(
        self: &Arc<Self>,
        group: &Group,
        key: Option<u64>,
        validate_only: bool,
    ) -> Result<u64, Refusal> {
        if group.queue.is_none() {
            return Err(wrong_kind(group));
        }
        let live = self.topics.get(&group.topic)?;
        let parked = live.partitions.iter().filter_map(|partition| {
            let shared = partition.shared();
            let keys = shared.with_queues(|queues| {
                let state = queues.get(group.id)?;
                Some(match key {
                    Some(key) => Vec::from_iter(state.is_parked(key).then_some(key)),
                    None => state.parked().collect(),
                })
            });
            let keys = keys.filter(|keys| !keys.is_empty())?;
            Some((shared.number, keys))
        });
        let parked: Vec<(u32, Vec<u64>)> = parked.collect();
        let count = parked.iter().map(|(_, keys)| keys.len() as u64).sum();
        if count > 0 && !validate_only {
            self.steer(group, Steering::Unpark(parked)).await?;
        }
        Ok(count)
    }

    /// Moves a queue group, or lets keys go on; answers when that is durable.
    ///
    /// # Errors
    /// If a partition does not take the change; others may have.
    pub(crate) async fn steer(
        self: &Arc<Self>,
        group: &Group,
        what: Steering,
    ) -> Result<(), Refusal> {
        let (driver, wake) = self.driver(group)?;
        let (answer, answered) = oneshot::channel();
        let request = Request::Steer { what, answer };
        driver.send(request).await.map_err(|_| stopped())?;
        wake.notify_one();
        answered.await.map_err(|_| Refusal::Unknown {
            why: "the group's task stopped".into(),
        })?
    }
}
