//! What a consumer group is, as plain values: pure.

use std::{collections::BTreeMap, time::Duration};

use aqueduct_proto::v1;

use super::QueuePolicy;
use crate::{
    From,
    times::{duration_from_proto, duration_to_proto, time_from_proto},
};

/// What to do where a group has no position, or retention has overtaken it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartPolicy {
    /// The first message that is kept.
    Earliest,
    /// The end. For a new group: the end at the time of its creation.
    Latest,
    /// Stop and say so, until a seek decides.
    Error,
    /// At the place that the group was created with: see [`NewGroup::start_at`].
    Pinned,
}

impl StartPolicy {
    pub(crate) fn from_proto(policy: v1::StartPolicy) -> Option<Self> {
        match policy {
            v1::StartPolicy::Unspecified => None,
            v1::StartPolicy::Earliest => Some(Self::Earliest),
            v1::StartPolicy::Latest => Some(Self::Latest),
            v1::StartPolicy::Error => Some(Self::Error),
            v1::StartPolicy::Pinned => Some(Self::Pinned),
        }
    }

    pub(crate) fn to_proto(policy: Option<Self>) -> v1::StartPolicy {
        match policy {
            None => v1::StartPolicy::Unspecified,
            Some(Self::Earliest) => v1::StartPolicy::Earliest,
            Some(Self::Latest) => v1::StartPolicy::Latest,
            Some(Self::Error) => v1::StartPolicy::Error,
            Some(Self::Pinned) => v1::StartPolicy::Pinned,
        }
    }
}

/// What a group is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum GroupState {
    /// Not said, or a word this library does not know.
    #[default]
    Unknown,
    /// It has no members.
    Empty,
    /// Every partition is where it shall be.
    Stable,
    /// Partitions are on their way from one member to another.
    Rebalancing,
    /// Nothing is delivered until it resumes.
    Paused,
}

/// A group as the broker describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Group {
    /// The topic's bare name.
    pub topic: String,
    /// The group's bare name.
    pub name: String,
    /// Given by the broker, never used again for another group.
    pub id: u64,
    /// For partitions without a position. `None`: the broker's default (earliest).
    pub start: Option<StartPolicy>,
    /// Of a group that starts at the end or at a place: where it begins in each partition.
    pub start_offsets: Vec<u64>,
    /// For positions that retention has overtaken. `None`: the broker's default (earliest).
    pub overrun: Option<StartPolicy>,
    /// A member that was not heard of for so long loses its partitions.
    pub session_timeout: Option<Duration>,
    /// Free labels.
    pub labels: BTreeMap<String, String>,
    /// What it is doing.
    pub state: GroupState,
    /// Members that are connected or within their session.
    pub members: u32,
    /// When it resumes by itself, while paused with a deadline; milliseconds since the Unix
    /// epoch.
    pub paused_until_ms: Option<i64>,
    /// Milliseconds since the Unix epoch.
    pub create_time_ms: i64,
    /// Milliseconds since the Unix epoch.
    pub update_time_ms: i64,
    /// Changes with every update.
    pub etag: String,
    /// Set for a queue group, whose messages are leased one by one.
    pub queue: Option<QueuePolicy>,
}

impl Group {
    pub(super) fn into_proto(self) -> v1::Group {
        v1::Group {
            name: self.name,
            start: StartPolicy::to_proto(self.start).into(),
            overrun: StartPolicy::to_proto(self.overrun).into(),
            session_timeout: self.session_timeout.map(duration_to_proto),
            labels: self.labels.into_iter().collect(),
            etag: self.etag,
            queue: self.queue.map(QueuePolicy::into_proto),
            ..v1::Group::default()
        }
    }

    pub(super) fn from_proto(group: v1::Group) -> Self {
        let state = match group.state() {
            v1::GroupState::Unspecified => GroupState::Unknown,
            v1::GroupState::Empty => GroupState::Empty,
            v1::GroupState::Stable => GroupState::Stable,
            v1::GroupState::Rebalancing => GroupState::Rebalancing,
            v1::GroupState::Paused => GroupState::Paused,
        };
        let (topic, name) = split_name(&group.name);
        Self {
            topic: topic.to_owned(),
            name: name.to_owned(),
            id: group.id,
            start: StartPolicy::from_proto(group.start()),
            overrun: StartPolicy::from_proto(group.overrun()),
            start_offsets: group.start_offsets,
            session_timeout: group.session_timeout.map(duration_from_proto),
            labels: group.labels.into_iter().collect(),
            state,
            members: group.members,
            paused_until_ms: group.paused_until.map(time_from_proto),
            create_time_ms: group.create_time.map_or(0, time_from_proto),
            update_time_ms: group.update_time.map_or(0, time_from_proto),
            etag: group.etag,
            queue: group.queue.map(QueuePolicy::from_proto),
        }
    }
}

/// Topic and group of `topics/{topic}/groups/{group}`; a bare name has no topic.
fn split_name(full: &str) -> (&str, &str) {
    let parts = full
        .strip_prefix("topics/")
        .and_then(|rest| rest.split_once("/groups/"));
    parts.unwrap_or(("", full))
}

/// A group to create.
///
/// ```
/// use aqueduct_client::{NewGroup, StartPolicy};
/// let group = NewGroup::new("orders", "billing").start(StartPolicy::Latest).label("team", "shop");
/// ```
#[derive(Clone, Debug, Default)]
pub struct NewGroup {
    pub(super) group: Group,
    pub(super) start_at: Option<From>,
    pub(super) dry_run: bool,
}

/// A change of a group. Only what is set here changes.
#[derive(Clone, Debug, Default)]
pub struct GroupUpdate {
    pub(super) group: Group,
    pub(super) mask: Vec<String>,
    pub(super) dry_run: bool,
}

macro_rules! setters {
    () => {
        /// For positions that retention has overtaken. Default: earliest.
        #[must_use]
        pub fn overrun(mut self, policy: StartPolicy) -> Self {
            self.group.overrun = Some(policy);
            self.touch("overrun")
        }

        /// A member that was not heard of for so long loses its partitions (1 s to 10 min).
        /// Default 15 s.
        #[must_use]
        pub fn session_timeout(mut self, timeout: Duration) -> Self {
            self.group.session_timeout = Some(timeout);
            self.touch("session_timeout")
        }

        /// Adds a label. An update replaces all labels by those given.
        #[must_use]
        pub fn label(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
            self.group.labels.insert(name.into(), value.into());
            self.touch("labels")
        }

        /// Makes it a queue group with this policy. An update replaces the whole policy; a group
        /// stays of its kind.
        #[must_use]
        pub fn queue(mut self, policy: QueuePolicy) -> Self {
            self.group.queue = Some(policy);
            self.touch("queue")
        }

        /// Checks and answers as if done, but changes nothing.
        #[must_use]
        pub fn dry_run(mut self, dry_run: bool) -> Self {
            self.dry_run = dry_run;
            self
        }
    };
}

fn named(topic: String, name: String) -> Group {
    Group {
        topic,
        name,
        ..Group::default()
    }
}

impl NewGroup {
    /// A group with the broker's defaults.
    pub fn new(topic: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            group: named(topic.into(), name.into()),
            start_at: None,
            dry_run: false,
        }
    }

    /// Where a new group begins. Default: earliest. It cannot be changed later.
    #[must_use]
    pub fn start(mut self, policy: StartPolicy) -> Self {
        self.group.start = Some(policy);
        self
    }

    /// Where a new group begins, in place of a policy: what a time, an offset (of a topic with one
    /// partition) or so many messages before the end come to is decided when it is created.
    ///
    /// ```
    /// use aqueduct_client::{From, NewGroup};
    /// let group = NewGroup::new("orders", "audit").start_at(From::Time(1_795_161_600_000));
    /// ```
    #[must_use]
    pub fn start_at(mut self, from: From) -> Self {
        self.start_at = Some(from);
        self
    }

    setters!();

    fn touch(self, _field: &str) -> Self {
        self
    }
}

impl GroupUpdate {
    /// A change of the group of this name.
    pub fn new(topic: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            group: named(topic.into(), name.into()),
            ..Self::default()
        }
    }

    setters!();

    /// Removes all labels (then [`GroupUpdate::label`] may add some).
    #[must_use]
    pub fn clear_labels(mut self) -> Self {
        self.group.labels.clear();
        self.touch("labels")
    }

    /// Changes only these fields of a queue group's policy, named as in the API (`lease`,
    /// `max_attempts`, …).
    #[must_use]
    pub fn queue_fields<'a>(
        mut self,
        policy: QueuePolicy,
        fields: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        self.group.queue = Some(policy);
        let fields = fields.into_iter();
        fields.fold(self, |update, field| {
            update.touch(&format!("queue.{field}"))
        })
    }

    /// Change only if the group's etag is still this one; else [`Error::Conflict`](crate::Error::Conflict).
    #[must_use]
    pub fn etag(mut self, etag: impl Into<String>) -> Self {
        self.group.etag = etag.into();
        self
    }

    fn touch(mut self, field: &str) -> Self {
        if !self.mask.iter().any(|known| known == field) {
            self.mask.push(field.to_owned());
        }
        self
    }
}

/// How far a group is behind.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GroupLag {
    /// Of each partition, by number.
    pub partitions: Vec<PartitionLag>,
    /// Messages in all.
    pub messages: u64,
    /// The greatest of the partitions.
    pub seconds: f64,
}

/// How far a group is behind in one partition.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PartitionLag {
    /// Counted from 0.
    pub partition: u32,
    /// Next offset to be consumed; `None` if the group has no position here yet.
    pub position: Option<u64>,
    /// First readable offset.
    pub log_start_offset: u64,
    /// One past the last acknowledged message.
    pub high_watermark: u64,
    /// Messages from the position (or where the group would start) to the high watermark.
    pub messages: u64,
    /// Age of the oldest message that is not consumed; 0 if there is none.
    pub seconds: f64,
    /// The member that has the partition; empty if none.
    pub member: String,
    /// When the position was committed, in milliseconds since the Unix epoch.
    pub commit_time_ms: Option<i64>,
}

/// One member of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Member {
    /// Its name within the group.
    pub member_id: String,
    /// Empty for a dynamic member.
    pub instance_id: String,
    /// What the client said of itself.
    pub client_id: String,
    /// Where it comes from.
    pub address: String,
    /// Those it has now.
    pub partitions: Vec<u32>,
    /// True for a member that pulls, false for a stream.
    pub pulls: bool,
    /// Since it was last heard of.
    pub idle: Duration,
}

/// Where [`Groups::seek`](crate::Groups::seek) moves positions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seek {
    pub(super) target: Target,
    pub(super) partitions: Vec<u32>,
    pub(super) dry_run: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target {
    To(From),
    Shift(i64),
    FromGroup(String),
}

impl Seek {
    fn target(target: Target) -> Self {
        Self {
            target,
            partitions: Vec::new(),
            dry_run: false,
        }
    }

    /// To this place. An offset needs exactly one partition.
    #[must_use]
    pub fn to(place: From) -> Self {
        Self::target(Target::To(place))
    }

    /// So many messages forward, or back if negative; stops at both ends.
    #[must_use]
    pub fn shift(messages: i64) -> Self {
        Self::target(Target::Shift(messages))
    }

    /// To the positions of another group of the topic.
    pub fn from_group(group: impl Into<String>) -> Self {
        Self::target(Target::FromGroup(group.into()))
    }

    /// Only these partitions. Default: all.
    #[must_use]
    pub fn partitions(mut self, partitions: impl IntoIterator<Item = u32>) -> Self {
        self.partitions = partitions.into_iter().collect();
        self
    }

    /// Answers what would be, changes nothing.
    #[must_use]
    pub fn dry_run(mut self, dry_run: bool) -> Self {
        self.dry_run = dry_run;
        self
    }
}

/// What a seek did (or would do) in one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SoughtPartition {
    /// Counted from 0.
    pub partition: u32,
    /// `None`: there was no position.
    pub old_position: Option<u64>,
    /// Next offset to be consumed from now on.
    pub new_position: u64,
    /// First readable offset.
    pub log_start_offset: u64,
    /// One past the last acknowledged message.
    pub high_watermark: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_keeps_its_settings_on_the_wire() {
        let new = NewGroup::new("orders", "billing")
            .start(StartPolicy::Latest)
            .overrun(StartPolicy::Error)
            .session_timeout(Duration::from_millis(2500))
            .label("team", "shop")
            .queue(QueuePolicy::new().max_attempts(3));
        let mut sent = new.group.clone().into_proto();
        assert_eq!(sent.name, "billing");
        sent.name = "topics/orders/groups/billing".into();
        assert_eq!(Group::from_proto(sent), new.group);
    }

    #[test]
    fn an_update_names_each_field_once() {
        let update = GroupUpdate::new("orders", "billing")
            .label("a", "1")
            .clear_labels()
            .session_timeout(Duration::from_secs(3));
        assert_eq!(update.mask, ["labels", "session_timeout"]);
    }

    #[test]
    fn names_are_split() {
        let cases = [
            ("topics/a/groups/b", ("a", "b")),
            ("topics/a.groups/groups/b", ("a.groups", "b")),
            ("b", ("", "b")),
            ("topics/a", ("", "topics/a")),
        ];
        for (full, parts) in cases {
            assert_eq!(split_name(full), parts);
        }
    }
}
