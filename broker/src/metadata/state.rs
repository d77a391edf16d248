//! The metadata machine's state: topics, names of producers, consumer groups, schedules. Pure: commands in, answers
//! out; no clock (the proposer stamps commands), ordered collections only.
//!
//! Commands, answers and the checkpoint are protobuf messages of this file, so that fields can
//! be added without a new format. Ids are never reused. A producer's id is odd if it has a
//! name: the partitions keep what they know of named producers for ever.

use std::collections::BTreeMap;

use prost::Message;

use super::{
    groups::{Group, UpdateGroup},
    internals::{InitInternal, Internal},
    schedules::{FireSchedule, Schedule, UpdateSchedule},
};
use crate::limits;

/// What a topic keeps and allows.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(crate) struct TopicConfig {
    /// 0 = for ever.
    #[prost(uint64, tag = "1")]
    pub(crate) retention_ms: u64,
    /// Per partition; 0 = unlimited.
    #[prost(uint64, tag = "2")]
    pub(crate) retention_bytes: u64,
    #[prost(uint64, tag = "3")]
    pub(crate) max_message_bytes: u64,
    /// The broker's time of arrival replaces the publisher's stamp.
    #[prost(bool, tag = "4")]
    pub(crate) append_time: bool,
    /// 0 = dedup ids are ignored.
    #[prost(uint64, tag = "5")]
    pub(crate) dedup_window_ms: u64,
    /// Messages go when every group is done with them, and not by age or size.
    #[prost(bool, tag = "6")]
    pub(crate) until_done: bool,
}

impl TopicConfig {
    /// The broker's defaults.
    pub(crate) fn standard() -> TopicConfig {
        TopicConfig {
            retention_ms: limits::DEFAULT_RETENTION.as_millis() as u64,
            retention_bytes: 0,
            max_message_bytes: limits::DEFAULT_MESSAGE_BYTES,
            append_time: false,
            dedup_window_ms: limits::DEFAULT_DEDUP_WINDOW.as_millis() as u64,
            until_done: false,
        }
    }
}

/// A topic.
#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct Topic {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(uint64, tag = "2")]
    pub(crate) id: u64,
    /// The Raft group of each partition, by partition number.
    #[prost(uint64, repeated, tag = "3")]
    pub(crate) groups: Vec<u64>,
    #[prost(message, required, tag = "4")]
    pub(crate) config: TopicConfig,
    #[prost(btree_map = "string, string", tag = "5")]
    pub(crate) labels: BTreeMap<String, String>,
    #[prost(int64, tag = "6")]
    pub(crate) create_time_ms: i64,
    #[prost(int64, tag = "7")]
    pub(crate) update_time_ms: i64,
    /// Counts updates; what users see as etag.
    #[prost(uint64, tag = "8")]
    pub(crate) version: u64,
}

/// A named producer.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(crate) struct Producer {
    #[prost(int64, tag = "1")]
    pub(crate) id: i64,
    /// 0 to 32,767, then 0 again.
    #[prost(int32, tag = "2")]
    pub(crate) epoch: i32,
}

/// A change, as it is logged.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Command {
    /// When it was proposed, milliseconds since the Unix epoch.
    #[prost(int64, tag = "1")]
    pub(crate) now_ms: i64,
    #[prost(oneof = "Change", tags = "2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 20")]
    pub(crate) change: Option<Change>,
}

/// What a [`Command`] changes.
#[derive(Clone, PartialEq, prost::Oneof)]
pub(crate) enum Change {
    #[prost(message, tag = "2")]
    CreateTopic(CreateTopic),
    #[prost(message, tag = "3")]
    UpdateTopic(UpdateTopic),
    #[prost(string, tag = "4")]
    DeleteTopic(String),
    /// The name; empty for a nameless producer.
    #[prost(string, tag = "5")]
    InitProducer(String),
    /// Id, times and version are given when it is applied.
    #[prost(message, tag = "6")]
    CreateGroup(Group),
    #[prost(message, tag = "7")]
    UpdateGroup(UpdateGroup),
    /// By its key.
    #[prost(string, tag = "8")]
    DeleteGroup(String),
    /// Id, times and version are given when it is applied.
    #[prost(message, tag = "9")]
    CreateSchedule(Schedule),
    #[prost(message, tag = "10")]
    UpdateSchedule(UpdateSchedule),
    #[prost(string, tag = "11")]
    DeleteSchedule(String),
    #[prost(message, tag = "12")]
    FireSchedule(FireSchedule),
    #[prost(message, tag = "20")]
    InitInternal(InitInternal),
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct CreateTopic {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(uint32, tag = "2")]
    pub(crate) partitions: u32,
    #[prost(message, required, tag = "3")]
    pub(crate) config: TopicConfig,
    #[prost(btree_map = "string, string", tag = "4")]
    pub(crate) labels: BTreeMap<String, String>,
}

/// The whole new state of what may change.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct UpdateTopic {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(uint32, tag = "2")]
    pub(crate) partitions: u32,
    #[prost(message, required, tag = "3")]
    pub(crate) config: TopicConfig,
    #[prost(btree_map = "string, string", tag = "4")]
    pub(crate) labels: BTreeMap<String, String>,
    /// The version that the change was made from: another one is refused.
    #[prost(uint64, tag = "5")]
    pub(crate) from_version: u64,
}

/// What applying a command answers.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Answer {
    #[prost(oneof = "Outcome", tags = "1, 2, 3, 4, 5, 20")]
    pub(crate) outcome: Option<Outcome>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(crate) enum Outcome {
    #[prost(message, tag = "1")]
    Topic(Topic),
    #[prost(message, tag = "2")]
    Producer(Producer),
    #[prost(enumeration = "Denied", tag = "3")]
    Denied(i32),
    #[prost(message, tag = "4")]
    Group(Group),
    #[prost(message, tag = "5")]
    Schedule(Box<Schedule>),
    #[prost(message, tag = "20")]
    Internal(Internal),
}

/// Why a command changed nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub(crate) enum Denied {
    /// An entry that this version cannot read.
    Unreadable = 0,
    Exists = 1,
    NotFound = 2,
    Changed = 3,
    TooMany = 4,
    FewerPartitions = 5,
}

/// Everything the cluster agrees on.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct State {
    #[prost(btree_map = "string, message", tag = "1")]
    pub(crate) topics: BTreeMap<String, Topic>,
    #[prost(btree_map = "string, message", tag = "2")]
    pub(crate) producers: BTreeMap<String, Producer>,
    #[prost(uint64, tag = "3")]
    pub(crate) last_topic_id: u64,
    /// Raft group 0 is the metadata itself.
    #[prost(uint64, tag = "4")]
    pub(crate) last_group_id: u64,
    #[prost(int64, tag = "5")]
    pub(crate) last_producer: i64,
    /// Current epoch of each named producer by its id:.
    #[prost(btree_map = "int64, int32", tag = "6")]
    pub(crate) epochs: BTreeMap<i64, i32>,
    /// Consumer groups by [`key`](super::groups::key).
    #[prost(btree_map = "string, message", tag = "7")]
    pub(crate) groups: BTreeMap<String, Group>,
    #[prost(uint64, tag = "8")]
    pub(crate) last_consumer_group_id: u64,
    #[prost(btree_map = "string, message", tag = "9")]
    pub(crate) schedules: BTreeMap<String, Schedule>,
    #[prost(uint64, tag = "10")]
    pub(crate) last_schedule_id: u64,
    /// Producers of the broker's own, by name.
    #[prost(btree_map = "string, message", tag = "20")]
    pub(crate) internals: BTreeMap<String, Internal>,
}

/// Epochs run from 0 to this and then start again.
pub(super) const MAX_EPOCH: i32 = i16::MAX as i32;

/// Has the producer with this id a name?
pub(crate) fn is_named(producer_id: i64) -> bool {
    producer_id & 1 == 1
}

impl State {
    /// Whether a producer may have this id.
    pub(crate) fn has_given_out(&self, producer_id: i64) -> bool {
        if is_named(producer_id) {
            self.epochs.contains_key(&producer_id)
        } else {
            (1..=self.last_producer).contains(&(producer_id / 2))
        }
    }

    /// Applies one command.
    pub(crate) fn apply(&mut self, command: Command) -> Outcome {
        let now = command.now_ms;
        match command.change {
            Some(Change::CreateTopic(create)) => self.create_topic(create, now),
            Some(Change::UpdateTopic(update)) => self.update_topic(update, now),
            Some(Change::DeleteTopic(name)) => match self.topics.remove(&name) {
                Some(topic) => {
                    self.delete_groups_of(&name);
                    self.forget_internals_of_topic(topic.id);
                    Outcome::Topic(topic)
                }
                None => Outcome::Denied(Denied::NotFound as i32),
            },
            Some(Change::InitProducer(name)) => self.init_producer(name),
            Some(Change::CreateGroup(group)) => self.create_group(group, now),
            Some(Change::UpdateGroup(update)) => self.update_group(update, now),
            Some(Change::DeleteGroup(key)) => self.delete_group(&key),
            Some(Change::CreateSchedule(schedule)) => self.create_schedule(schedule, now),
            Some(Change::UpdateSchedule(update)) => self.update_schedule(update, now),
            Some(Change::DeleteSchedule(name)) => self.delete_schedule(&name),
            Some(Change::FireSchedule(fire)) => self.fire_schedule(fire),
            Some(Change::InitInternal(init)) => self.init_internal(init),
            None => Outcome::Denied(Denied::Unreadable as i32),
        }
    }

    /// Partitions of all topics.
    pub(crate) fn partitions(&self) -> usize {
        self.topics.values().map(|topic| topic.groups.len()).sum()
    }

    fn new_groups(&mut self, count: u32) -> Vec<u64> {
        let first = self.last_group_id + 1;
        self.last_group_id += u64::from(count);
        (first..=self.last_group_id).collect()
    }

    fn create_topic(&mut self, create: CreateTopic, now: i64) -> Outcome {
        if self.topics.contains_key(&create.name) {
            return Outcome::Denied(Denied::Exists as i32);
        }
        let partitions = self.partitions() + create.partitions as usize;
        if self.topics.len() >= limits::MAX_TOPICS || partitions > limits::MAX_PARTITIONS {
            return Outcome::Denied(Denied::TooMany as i32);
        }
        self.last_topic_id += 1;
        let topic = Topic {
            name: create.name.clone(),
            id: self.last_topic_id,
            groups: self.new_groups(create.partitions),
            config: create.config,
            labels: create.labels,
            create_time_ms: now,
            update_time_ms: now,
            version: 1,
        };
        self.topics.insert(create.name, topic.clone());
        Outcome::Topic(topic)
    }

    fn update_topic(&mut self, update: UpdateTopic, now: i64) -> Outcome {
        let others = self.partitions();
        let Some(topic) = self.topics.get(&update.name) else {
            return Outcome::Denied(Denied::NotFound as i32);
        };
        if topic.version != update.from_version {
            return Outcome::Denied(Denied::Changed as i32);
        }
        let Some(more) = update.partitions.checked_sub(topic.groups.len() as u32) else {
            return Outcome::Denied(Denied::FewerPartitions as i32);
        };
        if others + more as usize > limits::MAX_PARTITIONS {
            return Outcome::Denied(Denied::TooMany as i32);
        }
        let groups = self.new_groups(more);
        let topic = self
            .topics
            .get_mut(&update.name)
            .expect("it was found above");
        topic.groups.extend(groups);
        topic.config = update.config;
        topic.labels = update.labels;
        topic.update_time_ms = now;
        topic.version += 1;
        Outcome::Topic(topic.clone())
    }

    fn init_producer(&mut self, name: String) -> Outcome {
        if name.is_empty() {
            self.last_producer += 1;
            return Outcome::Producer(Producer {
                id: self.last_producer * 2,
                epoch: 0,
            });
        }
        if let Some(producer) = self.producers.get_mut(&name) {
            producer.epoch = if producer.epoch >= MAX_EPOCH {
                0
            } else {
                producer.epoch + 1
            };
            self.epochs.insert(producer.id, producer.epoch);
            return Outcome::Producer(*producer);
        }
        if self.producers.len() >= limits::MAX_NAMED_PRODUCERS {
            return Outcome::Denied(Denied::TooMany as i32);
        }
        self.last_producer += 1;
        let producer = Producer {
            id: self.last_producer * 2 + 1,
            epoch: 0,
        };
        self.producers.insert(name, producer);
        self.epochs.insert(producer.id, 0);
        Outcome::Producer(producer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(state: &mut State, change: Change) -> Outcome {
        state.apply(Command {
            now_ms: 7,
            change: Some(change),
        })
    }

    fn create(name: &str, partitions: u32) -> Change {
        Change::CreateTopic(CreateTopic {
            name: name.into(),
            partitions,
            config: TopicConfig::standard(),
            labels: BTreeMap::new(),
        })
    }

    #[test]
    fn groups_are_never_reused() {
        let mut state = State::default();
        run(&mut state, create("a", 2));
        run(&mut state, Change::DeleteTopic("a".into()));
        let Outcome::Topic(topic) = run(&mut state, create("a", 2)) else {
            panic!("not created")
        };
        assert_eq!((topic.id, topic.groups), (2, vec![3, 4]));
        assert_eq!(
            run(&mut state, create("a", 1)),
            Outcome::Denied(Denied::Exists as i32)
        );
    }

    #[test]
    fn partitions_only_grow_and_old_versions_are_refused() {
        let mut state = State::default();
        run(&mut state, create("a", 2));
        let update = |partitions, from_version| {
            Change::UpdateTopic(UpdateTopic {
                name: "a".into(),
                partitions,
                config: TopicConfig::standard(),
                labels: BTreeMap::new(),
                from_version,
            })
        };
        let denied = |why: Denied| Outcome::Denied(why as i32);
        assert_eq!(
            run(&mut state, update(1, 1)),
            denied(Denied::FewerPartitions)
        );
        assert!(
            matches!(run(&mut state, update(3, 1)), Outcome::Topic(t) if t.groups == [1, 2, 3])
        );
        assert_eq!(run(&mut state, update(4, 1)), denied(Denied::Changed));
    }

    #[test]
    fn a_name_keeps_its_id_and_raises_its_epoch() {
        let mut state = State::default();
        let init = |name: &str| Change::InitProducer(name.into());
        assert_eq!(
            run(&mut state, init("shop")),
            Outcome::Producer(Producer { id: 3, epoch: 0 })
        );
        assert_eq!(
            run(&mut state, init("")),
            Outcome::Producer(Producer { id: 4, epoch: 0 })
        );
        assert_eq!(
            run(&mut state, init("shop")),
            Outcome::Producer(Producer { id: 3, epoch: 1 })
        );
        assert_eq!(state.epochs[&3], 1);
        let given: Vec<i64> = (-2..10).filter(|id| state.has_given_out(*id)).collect();
        assert_eq!(given, [2, 3, 4], "2 and 3 share their number");
    }

    #[test]
    fn a_checkpoint_is_the_state() {
        let mut state = State::default();
        run(&mut state, create("a", 2));
        run(&mut state, Change::InitProducer("shop".into()));
        let restored = State::decode(state.encode_to_vec().as_slice());
        assert_eq!(restored, Ok(state));
    }
}
