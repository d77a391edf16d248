//! What was taken out of one partition of a dead-letter topic: redriven or discarded. Pure.
//!
//! The messages stay where they are until retention takes them; this says which of them are no
//! dead letters any more. A redrive publishes to another partition, which has its own log, so it
//! goes in three steps, and a crash between two of them neither doubles nor loses anything:
//!
//! 1. *Plan*: these offsets, in this order, go to that partition as one batch, whose first number
//!    (of a producer that no other redrive has) is `next`.
//! 2. The batch is published under that number: stored whole, or not at all.
//! 3. *Conclude*: the batch is stored, and the messages are gone; or it is not, and they are back.
//!
//! Whoever finds a plan asks the target how far the producer's numbers go, and concludes.

use std::{collections::BTreeMap, ops::Range};

use prost::Message;

use crate::queue::settled::Settled;

/// A change.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Taking {
    #[prost(oneof = "Kind", tags = "1, 2, 3")]
    pub(crate) kind: Option<Kind>,
}

/// What a [`Taking`] changes.
#[derive(Clone, PartialEq, prost::Oneof)]
pub(crate) enum Kind {
    #[prost(message, tag = "1")]
    Plan(Plans),
    #[prost(message, tag = "2")]
    Conclude(Conclusions),
    #[prost(message, tag = "3")]
    Discard(Discarding),
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct Plans {
    /// One for each target at most.
    #[prost(message, repeated, tag = "1")]
    pub(crate) plans: Vec<Plan>,
}

/// Messages on their way to one partition.
#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct Plan {
    /// The Raft group of the target partition, which is never used again for another.
    #[prost(uint64, tag = "1")]
    pub(crate) target: u64,
    /// Number of the first message there.
    #[prost(uint64, tag = "2")]
    pub(crate) next: u64,
    /// In the order of their numbers.
    #[prost(uint64, repeated, tag = "3")]
    pub(crate) offsets: Vec<u64>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct Conclusions {
    #[prost(message, repeated, tag = "1")]
    pub(crate) conclusions: Vec<Conclusion>,
}

/// What came of a plan.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(crate) struct Conclusion {
    #[prost(uint64, tag = "1")]
    pub(crate) target: u64,
    #[prost(bool, tag = "2")]
    pub(crate) is_stored: bool,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct Discarding {
    #[prost(uint64, repeated, tag = "1")]
    pub(crate) offsets: Vec<u64>,
}

/// How many messages a change took out; of plans: how many were planned.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(crate) struct TakingReply {
    #[prost(uint64, tag = "1")]
    pub(crate) count: u64,
}

/// The state.
#[derive(Debug, Clone, Default)]
pub(crate) struct Taken {
    gone: Settled,
    plans: BTreeMap<u64, Plan>,
    redriven: u64,
    discarded: u64,
}

/// As a checkpoint keeps it.
#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct SavedTaken {
    #[prost(uint64, tag = "1")]
    floor: u64,
    #[prost(bytes = "vec", tag = "2")]
    above: Vec<u8>,
    #[prost(message, repeated, tag = "3")]
    plans: Vec<Plan>,
    #[prost(uint64, tag = "4")]
    redriven: u64,
    #[prost(uint64, tag = "5")]
    discarded: u64,
}

/// Equal is what would be saved.
impl PartialEq for Taken {
    fn eq(&self, other: &Taken) -> bool {
        self.save() == other.save()
    }
}

impl Eq for Taken {}

impl Taken {
    /// Applies one change; `end` is the offset of the next record.
    pub(crate) fn apply(&mut self, taking: &Taking, end: u64) -> TakingReply {
        let count = match &taking.kind {
            Some(Kind::Plan(plans)) => plans.plans.iter().map(|plan| self.plan(plan, end)).sum(),
            Some(Kind::Conclude(all)) => all.conclusions.iter().map(|c| self.conclude(*c)).sum(),
            Some(Kind::Discard(discarding)) => self.discard(&discarding.offsets, end),
            None => 0,
        };
        TakingReply { count }
    }

    fn plan(&mut self, plan: &Plan, end: u64) -> u64 {
        let can_go = |offset: &u64| *offset < end && !self.is_taken(*offset);
        let is_free = !self.plans.contains_key(&plan.target);
        if !is_free || plan.offsets.is_empty() || !plan.offsets.iter().all(can_go) {
            return 0;
        }
        self.plans.insert(plan.target, plan.clone());
        plan.offsets.len() as u64
    }

    fn conclude(&mut self, conclusion: Conclusion) -> u64 {
        let Some(plan) = self.plans.remove(&conclusion.target) else {
            return 0;
        };
        if !conclusion.is_stored {
            return 0;
        }
        let count = self.take(&plan.offsets);
        self.redriven += count;
        count
    }

    fn discard(&mut self, offsets: &[u64], end: u64) -> u64 {
        let mut free: Vec<u64> = offsets.to_vec();
        free.retain(|offset| *offset < end && !self.is_taken(*offset));
        let count = self.take(&free);
        self.discarded += count;
        count
    }

    fn take(&mut self, offsets: &[u64]) -> u64 {
        let mut count = 0;
        for offset in offsets {
            if !self.gone.contains(*offset) {
                self.gone.insert(*offset..*offset + 1);
                count += 1;
            }
        }
        count
    }

    /// The log begins at this offset now.
    pub(crate) fn trim(&mut self, log_start: u64) {
        // A topic of which nothing was ever taken has nothing to remember.
        if *self != Taken::default() && self.gone.floor() < log_start {
            self.gone.insert(0..log_start);
        }
    }

    /// Gone, or on its way.
    pub(crate) fn is_taken(&self, offset: u64) -> bool {
        let flies = |plan: &Plan| plan.offsets.contains(&offset);
        self.gone.contains(offset) || self.plans.values().any(flies)
    }

    /// The first run in `range` of which nothing is gone; some of it may be on its way.
    pub(crate) fn next_left(&self, range: Range<u64>) -> Option<Range<u64>> {
        self.gone.next_gap(range)
    }

    /// How many in `range` are not gone.
    pub(crate) fn left(&self, range: Range<u64>) -> u64 {
        let all = range.end.saturating_sub(range.start);
        all - self.gone.count(range).min(all)
    }

    /// Redrives that nobody has concluded.
    pub(crate) fn plans(&self) -> impl Iterator<Item = &Plan> {
        self.plans.values()
    }

    /// The state for a checkpoint.
    pub(crate) fn save(&self) -> SavedTaken {
        let mut above = Vec::new();
        self.gone.save(&mut above);
        SavedTaken {
            floor: self.gone.floor(),
            above,
            plans: self.plans.values().cloned().collect(),
            redriven: self.redriven,
            discarded: self.discarded,
        }
    }

    /// The inverse of [`Taken::save`]; nothing if it is none.
    pub(crate) fn load(saved: SavedTaken) -> Option<Taken> {
        let plans = saved.plans.into_iter().map(|plan| (plan.target, plan));
        Some(Taken {
            gone: Settled::load(saved.floor, &saved.above)?,
            plans: plans.collect(),
            redriven: saved.redriven,
            discarded: saved.discarded,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    const END: u64 = 100;

    fn run(taken: &mut Taken, kind: Kind) -> u64 {
        taken.apply(&Taking { kind: Some(kind) }, END).count
    }

    fn plan(target: u64, offsets: &[u64]) -> Kind {
        let offsets = offsets.to_vec();
        let next = 40;
        let plan = Plan {
            target,
            next,
            offsets,
        };
        Kind::Plan(Plans { plans: vec![plan] })
    }

    fn conclude(target: u64, is_stored: bool) -> Kind {
        let conclusions = vec![Conclusion { target, is_stored }];
        Kind::Conclude(Conclusions { conclusions })
    }

    fn discard(offsets: &[u64]) -> Kind {
        let offsets = offsets.to_vec();
        Kind::Discard(Discarding { offsets })
    }

    #[test]
    fn what_is_on_its_way_is_not_taken_twice() {
        let mut taken = Taken::default();
        assert_eq!(run(&mut taken, plan(1, &[3, 9])), 2);
        assert_eq!(
            run(&mut taken, plan(1, &[4])),
            0,
            "one at a time for a target"
        );
        assert_eq!(run(&mut taken, plan(2, &[4, 9])), 0, "9 is on its way");
        assert_eq!(run(&mut taken, discard(&[9, 10])), 1);
        assert_eq!(run(&mut taken, conclude(1, true)), 2);
        assert_eq!(run(&mut taken, conclude(1, true)), 0, "concluded already");
        assert_eq!(run(&mut taken, discard(&[3, 9, 10, 10, END])), 0);
        assert_eq!(taken.left(0..20), 17);
        assert_eq!(taken.next_left(3..20), Some(4..9));
    }

    #[test]
    fn what_was_not_stored_is_back() {
        let mut taken = Taken::default();
        run(&mut taken, plan(1, &[3]));
        assert!(taken.is_taken(3));
        assert_eq!(run(&mut taken, conclude(1, false)), 0);
        assert!(!taken.is_taken(3));
        assert_eq!(run(&mut taken, plan(2, &[3])), 1);
    }

    #[test]
    fn what_is_saved_comes_back() {
        let mut taken = Taken::default();
        run(&mut taken, plan(7, &[3, 2]));
        run(&mut taken, discard(&[0, 1, 50]));
        let loaded = Taken::load(taken.save()).unwrap();
        assert_eq!(loaded, taken);
        assert_eq!(loaded.plans().next().unwrap().offsets, [3, 2]);
        assert!(loaded.is_taken(50) && !loaded.is_taken(51));
    }

    #[test]
    fn retention_takes_what_it_takes() {
        let mut never = Taken::default();
        never.trim(10);
        assert_eq!(never, Taken::default());
        let mut taken = Taken::default();
        run(&mut taken, discard(&[5, 30]));
        run(&mut taken, plan(1, &[8]));
        taken.trim(20);
        assert_eq!(taken.left(0..END), 79);
        assert_eq!(run(&mut taken, conclude(1, true)), 0, "gone already");
    }
}
