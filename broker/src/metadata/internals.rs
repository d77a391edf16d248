//! Producers of the broker's own, such as those that write copies of dead letters. Pure.
//!
//! They are named ones as far as partitions are concerned (their numbers are kept for ever and
//! their epochs fence), but nobody can ask for their names, they do not count as named producers,
//! and each goes with what it was made for: the consumer group or one of the topics.

use prost::Message;

use super::state::{Denied, Outcome, Producer, State};
use crate::limits;

/// A producer of the broker's own.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(crate) struct Internal {
    #[prost(message, required, tag = "1")]
    pub(crate) producer: Producer,
    /// The consumer group that it goes with; 0 = none.
    #[prost(uint64, tag = "2")]
    pub(crate) group_id: u64,
    /// The topics that it goes with: where messages come from, where it writes.
    #[prost(uint64, tag = "3")]
    pub(crate) from_topic: u64,
    #[prost(uint64, tag = "4")]
    pub(crate) to_topic: u64,
    /// What its number 0 stands for, as it was said first.
    #[prost(uint64, tag = "5")]
    pub(crate) base: u64,
}

/// Asks for a producer of this name, and fences whoever has it.
#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct InitInternal {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(uint64, tag = "2")]
    pub(crate) group_id: u64,
    #[prost(uint64, tag = "3")]
    pub(crate) from_topic: u64,
    #[prost(uint64, tag = "4")]
    pub(crate) to_topic: u64,
    /// Counts only if there is none of this name yet.
    #[prost(uint64, tag = "5")]
    pub(crate) base: u64,
}

impl State {
    pub(super) fn init_internal(&mut self, init: InitInternal) -> Outcome {
        if let Some(known) = self.internals.get_mut(&init.name) {
            known.producer.epoch = next_epoch(known.producer.epoch);
            let Producer { id, epoch } = known.producer;
            self.epochs.insert(id, epoch);
            return Outcome::Internal(*known);
        }
        // Whatever was deleted meanwhile has taken its producers with it, for good.
        let topic = |id: u64| self.topics.values().any(|topic| topic.id == id);
        let group = |id: u64| id == 0 || self.groups.values().any(|group| group.id == id);
        if !topic(init.from_topic) || !topic(init.to_topic) || !group(init.group_id) {
            return Outcome::Denied(Denied::NotFound as i32);
        }
        if self.internals.len() >= limits::MAX_INTERNAL_PRODUCERS {
            return Outcome::Denied(Denied::TooMany as i32);
        }
        self.last_producer += 1;
        let producer = Producer {
            id: self.last_producer * 2 + 1,
            epoch: 0,
        };
        let internal = Internal {
            producer,
            group_id: init.group_id,
            from_topic: init.from_topic,
            to_topic: init.to_topic,
            base: init.base,
        };
        self.epochs.insert(producer.id, 0);
        self.internals.insert(init.name, internal);
        Outcome::Internal(internal)
    }

    /// A topic is deleted, with its groups.
    pub(super) fn forget_internals_of_topic(&mut self, topic_id: u64) {
        self.forget_internals(|one| one.from_topic == topic_id || one.to_topic == topic_id);
    }

    pub(super) fn forget_internals_of_group(&mut self, group_id: u64) {
        self.forget_internals(|one| one.group_id == group_id);
    }

    pub(super) fn forget_internal(&mut self, name: &str) {
        if let Some(internal) = self.internals.remove(name) {
            self.epochs.remove(&internal.producer.id);
        }
    }

    fn forget_internals(&mut self, gone: impl Fn(&Internal) -> bool) {
        let State {
            internals, epochs, ..
        } = self;
        internals.retain(|_, internal| {
            let stays = !gone(internal);
            if !stays {
                epochs.remove(&internal.producer.id);
            }
            stays
        });
    }
}

fn next_epoch(epoch: i32) -> i32 {
    if epoch >= super::state::MAX_EPOCH {
        0
    } else {
        epoch + 1
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::{
        groups::Group,
        state::{Change, Command, CreateTopic, TopicConfig},
    };
    use super::*;

    fn run(state: &mut State, change: Change) -> Outcome {
        state.apply(Command {
            now_ms: 7,
            change: Some(change),
        })
    }

    /// Topics 1 and 2, and group 1 of the first.
    fn with_topics() -> State {
        let mut state = State::default();
        for name in ["jobs", "jobs.work.dlq"] {
            let create = CreateTopic {
                name: name.into(),
                partitions: 1,
                config: TopicConfig::standard(),
                labels: BTreeMap::new(),
            };
            run(&mut state, Change::CreateTopic(create));
        }
        let group = Group {
            topic: "jobs".into(),
            name: "work".into(),
            ..Group::default()
        };
        run(&mut state, Change::CreateGroup(group));
        state
    }

    fn init(state: &mut State, base: u64) -> Outcome {
        let init = InitInternal {
            name: "copies/1/0/2".into(),
            group_id: 1,
            from_topic: 1,
            to_topic: 2,
            base,
        };
        run(state, Change::InitInternal(init))
    }

    #[test]
    fn the_first_base_stays_and_every_epoch_fences() {
        let mut state = with_topics();
        for epoch in 0..3 {
            let Outcome::Internal(internal) = init(&mut state, 10 + epoch as u64) else {
                panic!("no producer")
            };
            assert_eq!((internal.base, internal.producer.epoch), (10, epoch));
            assert_eq!(state.epochs[&internal.producer.id], epoch);
            assert!(state.has_given_out(internal.producer.id));
        }
        assert!(state.producers.is_empty());
        let restored = State::decode(state.encode_to_vec().as_slice());
        assert_eq!(restored, Ok(state));
    }

    #[test]
    fn they_go_with_their_group_and_with_either_topic() {
        for end in [
            Change::DeleteGroup("jobs/work".into()),
            Change::DeleteTopic("jobs".into()),
            Change::DeleteTopic("jobs.work.dlq".into()),
        ] {
            let mut state = with_topics();
            init(&mut state, 0);
            run(&mut state, end);
            assert!(state.internals.is_empty() && state.epochs.is_empty());
            // Nor does one come back that asked too late.
            let denied = Outcome::Denied(Denied::NotFound as i32);
            assert_eq!(init(&mut state, 0), denied);
        }
    }
}
