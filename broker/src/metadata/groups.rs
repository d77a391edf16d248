//! Consumer groups as the metadata keeps them: settings, not positions. Pure.
//!
//! Positions lie in the partitions' own logs. The one exception is where a group begins that
//! starts at the end or at a place: those offsets are part of its creation, so that it exists
//! with all of them or not at all.

use std::collections::BTreeMap;

use prost::Message;

use super::{
    queues::QueueSettings,
    state::{Denied, Outcome, State},
};
use crate::limits;

/// What to do where there is no position, or retention has overtaken it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub(crate) enum StartAt {
    /// The first message that is kept.
    Earliest = 0,
    /// The end.
    Latest = 1,
    /// Nowhere, until a seek decides.
    Refuse = 2,
    /// A place that was found when the group was created.
    Pinned = 3,
}

/// A consumer group.
#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct Group {
    #[prost(string, tag = "1")]
    pub(crate) topic: String,
    #[prost(string, tag = "2")]
    pub(crate) name: String,
    #[prost(uint64, tag = "3")]
    pub(crate) id: u64,
    #[prost(enumeration = "StartAt", tag = "4")]
    pub(crate) start: i32,
    #[prost(enumeration = "StartAt", tag = "5")]
    pub(crate) overrun: i32,
    #[prost(uint64, tag = "6")]
    pub(crate) session_timeout_ms: u64,
    #[prost(btree_map = "string, string", tag = "7")]
    pub(crate) labels: BTreeMap<String, String>,
    /// 0 = not paused, `i64::MAX` = until it is resumed.
    #[prost(int64, tag = "8")]
    pub(crate) paused_until_ms: i64,
    /// Where a group that starts at the end or at a place begins, by partition; partitions that were added
    /// later begin at their first message.
    #[prost(uint64, repeated, tag = "9")]
    pub(crate) pinned: Vec<u64>,
    #[prost(int64, tag = "10")]
    pub(crate) create_time_ms: i64,
    #[prost(int64, tag = "11")]
    pub(crate) update_time_ms: i64,
    /// Counts updates; what users see as etag.
    #[prost(uint64, tag = "12")]
    pub(crate) version: u64,
    /// Present: a queue group.
    #[prost(message, optional, tag = "13")]
    pub(crate) queue: Option<QueueSettings>,
}

/// The whole new state of what may change.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct UpdateGroup {
    #[prost(string, tag = "1")]
    pub(crate) key: String,
    #[prost(enumeration = "StartAt", tag = "2")]
    pub(crate) overrun: i32,
    #[prost(uint64, tag = "3")]
    pub(crate) session_timeout_ms: u64,
    #[prost(btree_map = "string, string", tag = "4")]
    pub(crate) labels: BTreeMap<String, String>,
    #[prost(int64, tag = "5")]
    pub(crate) paused_until_ms: i64,
    /// The version that the change was made from: another one is refused.
    #[prost(uint64, tag = "6")]
    pub(crate) from_version: u64,
    #[prost(message, optional, tag = "7")]
    pub(crate) queue: Option<QueueSettings>,
}

/// The key of a group: neither name can hold a slash.
pub(crate) fn key(topic: &str, group: &str) -> String {
    format!("{topic}/{group}")
}

impl State {
    /// The group of this name.
    pub(crate) fn group(&self, topic: &str, group: &str) -> Option<&Group> {
        self.groups.get(&key(topic, group))
    }

    /// The groups of a topic, by name.
    pub(crate) fn groups_of<'a>(&'a self, topic: &str) -> impl Iterator<Item = &'a Group> {
        let prefix = key(topic, "");
        let from = prefix.clone();
        self.groups
            .range(from..)
            .take_while(move |(key, _)| key.starts_with(&prefix))
            .map(|(_, group)| group)
    }

    pub(super) fn create_group(&mut self, mut group: Group, now: i64) -> Outcome {
        let key = key(&group.topic, &group.name);
        if !self.topics.contains_key(&group.topic) {
            return Outcome::Denied(Denied::NotFound as i32);
        }
        if self.groups.contains_key(&key) {
            return Outcome::Denied(Denied::Exists as i32);
        }
        if self.groups.len() >= limits::MAX_GROUPS
            || self.groups_of(&group.topic).count() >= limits::MAX_GROUPS_PER_TOPIC
        {
            return Outcome::Denied(Denied::TooMany as i32);
        }
        self.last_consumer_group_id += 1;
        group.id = self.last_consumer_group_id;
        group.create_time_ms = now;
        group.update_time_ms = now;
        group.version = 1;
        self.groups.insert(key, group.clone());
        Outcome::Group(group)
    }

    pub(super) fn update_group(&mut self, update: UpdateGroup, now: i64) -> Outcome {
        let Some(group) = self.groups.get_mut(&update.key) else {
            return Outcome::Denied(Denied::NotFound as i32);
        };
        if group.version != update.from_version {
            return Outcome::Denied(Denied::Changed as i32);
        }
        group.overrun = update.overrun;
        group.session_timeout_ms = update.session_timeout_ms;
        group.labels = update.labels;
        group.paused_until_ms = update.paused_until_ms;
        group.queue = update.queue;
        group.update_time_ms = now;
        group.version += 1;
        Outcome::Group(group.clone())
    }

    pub(super) fn delete_group(&mut self, key: &str) -> Outcome {
        match self.groups.remove(key) {
            Some(group) => {
                self.forget_internals_of_group(group.id);
                Outcome::Group(group)
            }
            None => Outcome::Denied(Denied::NotFound as i32),
        }
    }

    pub(super) fn delete_groups_of(&mut self, topic: &str) {
        let prefix = key(topic, "");
        self.groups.retain(|key, _| !key.starts_with(&prefix));
    }
}

#[cfg(test)]
mod tests {
    use super::super::state::{Change, Command, CreateTopic, TopicConfig};
    use super::*;

    fn run(state: &mut State, change: Change) -> Outcome {
        state.apply(Command {
            now_ms: 7,
            change: Some(change),
        })
    }

    fn with_topics() -> State {
        let mut state = State::default();
        for name in ["a", "a-b"] {
            let create = CreateTopic {
                name: name.into(),
                partitions: 1,
                config: TopicConfig::standard(),
                labels: BTreeMap::new(),
            };
            run(&mut state, Change::CreateTopic(create));
        }
        state
    }

    fn create(topic: &str, name: &str) -> Change {
        Change::CreateGroup(Group {
            topic: topic.into(),
            name: name.into(),
            ..Group::default()
        })
    }

    #[test]
    fn groups_go_with_their_topic_and_ids_are_never_reused() {
        let mut state = with_topics();
        for (topic, name) in [("a", "x"), ("a-b", "x"), ("a", "y")] {
            run(&mut state, create(topic, name));
        }
        let denied = |why: Denied| Outcome::Denied(why as i32);
        assert_eq!(run(&mut state, create("a", "x")), denied(Denied::Exists));
        assert_eq!(run(&mut state, create("b", "x")), denied(Denied::NotFound));
        let names: Vec<_> = state.groups_of("a").map(|g| g.name.clone()).collect();
        assert_eq!(names, ["x", "y"]);
        run(&mut state, Change::DeleteTopic("a".into()));
        assert_eq!(state.groups.keys().collect::<Vec<_>>(), ["a-b/x"]);
        run(&mut state, Change::DeleteGroup("a-b/x".into()));
        let Outcome::Group(group) = run(&mut state, create("a-b", "x")) else {
            panic!("not created")
        };
        assert_eq!((group.id, group.version), (4, 1));
    }

    #[test]
    fn an_update_of_an_old_version_is_refused() {
        let mut state = with_topics();
        run(&mut state, create("a", "x"));
        let update = |from_version| {
            Change::UpdateGroup(UpdateGroup {
                key: "a/x".into(),
                paused_until_ms: 9,
                from_version,
                ..UpdateGroup::default()
            })
        };
        assert!(
            matches!(run(&mut state, update(1)), Outcome::Group(g) if g.version == 2 && g.paused_until_ms == 9)
        );
        let changed = Outcome::Denied(Denied::Changed as i32);
        assert_eq!(run(&mut state, update(1)), changed);
        let restored = State::decode(state.encode_to_vec().as_slice());
        assert_eq!(restored, Ok(state));
    }

    #[test]
    fn groups_are_bounded() {
        let mut state = with_topics();
        for n in 0..limits::MAX_GROUPS_PER_TOPIC {
            run(&mut state, create("a", &n.to_string()));
        }
        let denied = Outcome::Denied(Denied::TooMany as i32);
        assert_eq!(run(&mut state, create("a", "more")), denied);
        assert!(matches!(
            run(&mut state, create("a-b", "more")),
            Outcome::Group(_)
        ));
    }
}
