//! Groups from outside: created, listed, changed, paused, deleted.
//!
//! A group's record lies in the metadata. Changes go one after the other, so that a change is
//! made from what is there.

use std::{collections::BTreeMap, sync::Arc};

use aqueduct_proto::names;

use super::{
    not_empty, not_found,
    requests::Request,
    terms::{Joining, MemberInfo},
};
use crate::{
    clock,
    error::Refusal,
    limits,
    metadata::{
        groups::{Group, StartAt, UpdateGroup, key},
        queues::QueueSettings,
        state::{Change, Command, Denied, Outcome},
    },
    partition::{
        Partition, Place,
        positions::{Kind, Move},
        queues::Step,
    },
    queue::{self, fields::PolicyChange, policy::Policy},
    services::Services,
    slips::closest,
    topics::rules::check_labels,
    work::face::Holder,
};

/// What a group is created with.
#[derive(Debug, Clone)]
pub(crate) struct NewGroup {
    pub(crate) topic: String,
    pub(crate) name: String,
    pub(crate) start: StartAt,
    /// With [`StartAt::Pinned`]: where.
    pub(crate) place: Option<Place>,
    pub(crate) overrun: StartAt,
    /// `None`: the default.
    pub(crate) session_timeout_ms: Option<u64>,
    pub(crate) labels: BTreeMap<String, String>,
    /// Makes it a queue group.
    pub(crate) queue: Option<Policy>,
}

impl Default for NewGroup {
    fn default() -> NewGroup {
        NewGroup {
            topic: String::new(),
            name: String::new(),
            start: StartAt::Earliest,
            place: None,
            overrun: StartAt::Earliest,
            session_timeout_ms: None,
            labels: BTreeMap::new(),
            queue: None,
        }
    }
}

/// What of a group is to change; `None` stays.
#[derive(Debug, Clone, Default)]
pub(crate) struct GroupChange {
    pub(crate) overrun: Option<StartAt>,
    pub(crate) session_timeout_ms: Option<u64>,
    pub(crate) labels: Option<BTreeMap<String, String>>,
    /// 0 = resume, `i64::MAX` = until it is resumed.
    pub(crate) paused_until_ms: Option<i64>,
    pub(crate) queue: Option<PolicyChange>,
    /// Only if the group still is at this version.
    pub(crate) version: Option<u64>,
}

/// What a group does just now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Activity {
    Empty,
    Stable,
    Rebalancing,
    Paused,
}

/// A group and what it does.
#[derive(Debug, Clone)]
pub(crate) struct GroupStatus {
    pub(crate) group: Group,
    pub(crate) activity: Activity,
    pub(crate) members: u32,
}

impl Services {
    /// The record of a group ("bill" or "topics/orders/groups/bill").
    ///
    /// # Errors
    /// If a name cannot be, or topic or group do not exist.
    pub(crate) fn group(&self, topic: &str, name: &str) -> Result<Group, Refusal> {
        let live = self.topics.get(topic)?;
        let topic = &live.topic.name;
        let name = parse_group(topic, name)?;
        let view = self.metadata.view().read();
        if let Some(group) = view.group(topic, name) {
            return Ok(group.clone());
        }
        let wanted = Group {
            topic: topic.clone(),
            name: name.to_owned(),
            ..Group::default()
        };
        let names: Vec<String> = view.groups_of(topic).map(|g| g.name.clone()).collect();
        Err(not_found(&wanted, closest(name, names.iter())))
    }

    /// What the group does, with its record.
    pub(crate) fn group_status(&self, group: Group) -> GroupStatus {
        use std::sync::atomic::Ordering::Relaxed;
        let face = self.groups.face(group.id);
        let members = match group.queue {
            Some(_) => self.workers(&group).len() as u32,
            None => face.as_ref().map_or(0, |face| face.members.load(Relaxed)),
        };
        let activity = if group.paused_until_ms > self.clock.wall_ms() {
            Activity::Paused
        } else if members == 0 {
            Activity::Empty
        } else if face.is_some_and(|face| face.rebalancing.load(Relaxed)) {
            Activity::Rebalancing
        } else {
            Activity::Stable
        };
        GroupStatus {
            group,
            activity,
            members,
        }
    }

    /// Up to `limit` groups after the key `after`, of one topic or (empty) of all.
    ///
    /// # Errors
    /// If there is no such topic.
    pub(crate) fn list_groups(
        &self,
        topic: &str,
        after: &str,
        limit: usize,
    ) -> Result<Vec<GroupStatus>, Refusal> {
        let prefix = match topic {
            "" => String::new(),
            topic => key(&self.topics.get(topic)?.topic.name, ""),
        };
        let groups: Vec<Group> = {
            let view = self.metadata.view().read();
            let from = if *after > *prefix { after } else { &prefix };
            view.groups
                .range(from.to_owned()..)
                .take_while(|(key, _)| key.starts_with(&prefix))
                .filter(|(key, _)| key.as_str() > after)
                .take(limit)
                .map(|(_, group)| group.clone())
                .collect()
        };
        Ok(groups.into_iter().map(|g| self.group_status(g)).collect())
    }

    /// Creates a group; with `validate_only` just says what it would be.
    ///
    /// # Errors
    /// If it exists, a field cannot be, or a limit is reached.
    pub(crate) async fn create_group(
        &self,
        new: NewGroup,
        validate_only: bool,
    ) -> Result<Group, Refusal> {
        self.check_draining()?;
        let live = self.topics.get(&new.topic)?;
        let name = parse_group(&live.topic.name, &new.name)?.to_owned();
        let session = u64::try_from(limits::DEFAULT_SESSION_TIMEOUT.as_millis());
        let session_timeout_ms = new.session_timeout_ms.or(session.ok()).unwrap_or(0);
        check_session(session_timeout_ms)?;
        check_labels(&new.labels)?;
        if let Some(policy) = &new.queue {
            check_queue(&live.topic.name, &name, new.start, policy)?;
        }
        let _changing = self.groups.changing.lock().await;
        if new.queue.is_some() {
            self.check_dead_letter_topic(&live.topic.name, &name)?;
        }
        let pinned = match (new.start, new.place) {
            (StartAt::Latest, _) => pin(&live.partitions, Place::End).await?,
            (StartAt::Pinned, Some(place)) => pin(&live.partitions, place).await?,
            _ => Vec::new(),
        };
        let group = Group {
            topic: live.topic.name.clone(),
            name,
            start: new.start as i32,
            overrun: new.overrun as i32,
            session_timeout_ms,
            labels: new.labels,
            pinned,
            queue: new.queue.as_ref().map(QueueSettings::from),
            ..Group::default()
        };
        let change = Change::CreateGroup(group.clone());
        let outcome = self.decide(change, validate_only).await?;
        group_of(outcome, &group)
    }

    /// Names may have dots, so two groups could share a dead-letter topic, and what is redriven
    /// or discarded for one would be the other's. Asked while nobody changes groups.
    fn check_dead_letter_topic(&self, topic: &str, group: &str) -> Result<(), Refusal> {
        let name = dead_letter_topic(topic, group);
        let view = self.metadata.view().read();
        let shares = |other: &&Group| {
            let is_other = other.topic != topic || other.name != group;
            let dead_letters = || dead_letter_topic(&other.topic, &other.name);
            other.queue.is_some() && is_other && dead_letters() == name
        };
        match view.groups.values().find(shares) {
            None => Ok(()),
            Some(other) => {
                let (topic, group) = (&other.topic, &other.name);
                let why = format!("{name} takes the dead letters of {topic}/{group}");
                Err(Refusal::invalid("group.name", why))
            }
        }
    }

    /// The group, created if there is none; `true` if it was.
    ///
    /// # Errors
    /// As [`Services::create_group`].
    pub(crate) async fn group_or_new(&self, new: NewGroup) -> Result<(Group, bool), Refusal> {
        match self.group(&new.topic, &new.name) {
            Err(Refusal::GroupNotFound { .. }) => {}
            other => return other.map(|group| (group, false)),
        }
        match self.create_group(new.clone(), false).await {
            Err(Refusal::GroupExists { .. }) => Ok((self.group(&new.topic, &new.name)?, false)),
            other => other.map(|group| (group, true)),
        }
    }

    /// Changes a group; with `validate_only` just says what it would become.
    ///
    /// # Errors
    /// If it does not exist, a field cannot be, or it has changed since the caller looked.
    pub(crate) async fn update_group(
        &self,
        (topic, name): (&str, &str),
        change: GroupChange,
        validate_only: bool,
    ) -> Result<Group, Refusal> {
        let _changing = self.groups.changing.lock().await;
        let group = self.group(topic, name)?;
        if let Some(expected) = change.version.filter(|v| *v != group.version) {
            return Err(changed(&group, expected));
        }
        let session_timeout_ms = change
            .session_timeout_ms
            .unwrap_or(group.session_timeout_ms);
        check_session(session_timeout_ms)?;
        let labels = change.labels.unwrap_or_else(|| group.labels.clone());
        check_labels(&labels)?;
        let queue = match (&change.queue, &group.queue) {
            (None, present) => present.clone(),
            (Some(_), None) => return Err(wrong_kind(&group)),
            (Some(change), Some(present)) => {
                let policy = change.apply(Policy::from(present));
                check_queue(&group.topic, &group.name, group.start(), &policy)?;
                Some(QueueSettings::from(&policy))
            }
        };
        let update = UpdateGroup {
            key: key(&group.topic, &group.name),
            overrun: change
                .overrun
                .map_or(group.overrun, |overrun| overrun as i32),
            session_timeout_ms,
            labels,
            paused_until_ms: change.paused_until_ms.unwrap_or(group.paused_until_ms),
            from_version: group.version,
            queue,
        };
        let outcome = self
            .decide(Change::UpdateGroup(update), validate_only)
            .await?;
        let updated = group_of(outcome, &group)?;
        if !validate_only && let Some(coordinator) = self.groups.running(group.id) {
            // An error means that it has just ended; the next one reads the record anew.
            let _ = coordinator.send(Request::Reconfigure).await;
        }
        if !validate_only && let Some(driver) = self.work.running(group.id) {
            let _ = driver.send(crate::work::Request::Reconfigure).await;
        }
        Ok(updated)
    }

    /// Deletes a group and its positions.
    ///
    /// # Errors
    /// If it does not exist or has members.
    pub(crate) async fn delete_group(
        self: &Arc<Self>,
        topic: &str,
        name: &str,
        validate_only: bool,
    ) -> Result<(), Refusal> {
        let group = self.group(topic, name)?;
        if group.queue.is_some() && !validate_only {
            // Before the lock: this may take a while.
            self.copy_dead_letters(&group).await?;
            self.await_results(&group).await;
        }
        let _changing = self.groups.changing.lock().await;
        let group = self.group(topic, name)?;
        if validate_only {
            return match self.members(&group).await?.len() as u64 {
                0 => Ok(()),
                members => Err(not_empty(&group, members)),
            };
        }
        if group.queue.is_some() {
            self.close_queue(&group).await?;
        } else {
            self.ask(&group, |answer| Request::Close { answer }).await?;
        }
        let change = Change::DeleteGroup(key(&group.topic, &group.name));
        let outcome = self.metadata.propose(change).await;
        let deleted = outcome.and_then(|outcome| group_of(outcome, &group));
        match deleted {
            Ok(_) => {
                self.forget_positions(&group).await;
                Ok(())
            }
            Err(refusal) => {
                if let Some(driver) = self.work.running(group.id) {
                    let _ = driver.send(crate::work::Request::Reopen).await;
                }
                if let Some(coordinator) = self.groups.running(group.id) {
                    let _ = coordinator.send(Request::Reopen).await;
                }
                Err(refusal)
            }
        }
    }

    async fn forget_positions(&self, group: &Group) {
        let Ok(live) = self.topics.get(&group.topic) else {
            return;
        };
        let group_id = group.id;
        if group.queue.is_some() {
            for partition in &live.partitions {
                if let Err(refusal) = forget_queue(partition, group_id).await {
                    tracing::warn!(topic = group.topic, group = group.name, %refusal,
                        "a queue of a deleted group stays for now");
                }
            }
            return;
        }
        let forgetting = live.partitions.iter().map(|partition| {
            let kind = Some(Kind::Forget(true));
            partition.change_position(Move { group_id, kind })
        });
        for forgotten in futures::future::join_all(forgetting).await {
            if let Err(refusal) = forgotten {
                // They are forgotten at the next start.
                tracing::warn!(topic = group.topic, group = group.name, %refusal,
                    "a position of a deleted group stays for now");
            }
        }
    }

    /// Forgets positions of groups that were deleted while that could not be carried out.
    pub(crate) async fn forget_deleted_groups(&self) {
        for live in self.topics.all() {
            let known: Vec<u64> = {
                let view = self.metadata.view().read();
                view.groups_of(&live.topic.name).map(|g| g.id).collect()
            };
            for partition in &live.partitions {
                forget_unknown_groups(partition, &known).await;
            }
        }
    }

    /// Everybody in the group.
    ///
    /// # Errors
    /// If there is no such group.
    pub(crate) async fn members(
        self: &Arc<Self>,
        group: &Group,
    ) -> Result<Vec<MemberInfo>, Refusal> {
        if group.queue.is_some() {
            return Ok(self.workers(group));
        }
        if self.groups.face(group.id).is_none() {
            return Ok(Vec::new());
        }
        self.ask(group, |answer| Request::Describe { answer }).await
    }

    /// Streams that work in a queue group.
    fn workers(&self, group: &Group) -> Vec<MemberInfo> {
        let face = self.work.face(group.id);
        let streams = face.map(|face| face.streams()).unwrap_or_default();
        let member = |(id, holder): (u64, Holder)| MemberInfo {
            member: Joining {
                member_id: id.to_string(),
                client_id: holder.client_id,
                address: holder.address,
                ..Joining::default()
            },
            partitions: Vec::new(),
            idle_ms: 0,
        };
        streams.into_iter().map(member).collect()
    }

    /// Makes a change, or just says what it would make.
    async fn decide(&self, change: Change, validate_only: bool) -> Result<Outcome, Refusal> {
        if !validate_only {
            return self.metadata.propose(change).await;
        }
        let mut state = self.metadata.view().read().clone();
        Ok(state.apply(Command {
            now_ms: clock::now_ms(),
            change: Some(change),
        }))
    }
}

/// The bare name of a group, checked.
fn parse_group<'a>(topic: &str, name: &'a str) -> Result<&'a str, Refusal> {
    let bare = match name.strip_prefix("topics/") {
        None => name,
        Some(rest) => rest
            .strip_prefix(topic)
            .and_then(|rest| rest.strip_prefix("/groups/"))
            .ok_or_else(|| {
                let why = format!("\"{name}\" is not a group of topic \"{topic}\"");
                Refusal::invalid("group", why)
            })?,
    };
    let checked = names::check_topic(bare);
    checked.map_err(|error| {
        let why = error.to_string().replace("topic name", "group name");
        Refusal::invalid("group", why.replace("a topic ", "a group "))
    })?;
    Ok(bare)
}

/// Forgets what a partition has of groups other than these.
pub(crate) async fn forget_unknown_groups(partition: &Partition, known: &[u64]) {
    let shared = partition.shared();
    for group_id in shared.group_ids() {
        if known.contains(&group_id) {
            continue;
        }
        let is_queue = shared.with_queues(|queues| queues.get(group_id).is_some());
        let forgotten = if is_queue {
            forget_queue(partition, group_id).await
        } else {
            let kind = Some(Kind::Forget(true));
            let forgotten = partition.change_position(Move { group_id, kind });
            forgotten.await.map(drop)
        };
        if let Err(refusal) = forgotten {
            tracing::warn!(topic = %shared.topic, partition = shared.number, group_id, %refusal,
                "a position of a deleted group stays for now");
        }
    }
}

/// The queue of a group that is no more is forgotten in this partition.
async fn forget_queue(partition: &Partition, group_id: u64) -> Result<(), Refusal> {
    let batch = queue::command::Batch {
        commands: vec![queue::command::Command::new(queue::command::Kind::Forget(
            true,
        ))],
        ..queue::command::Batch::default()
    };
    let step = partition.begin_step(Step { group_id, batch }).await?;
    step.outcome().await.map(drop)
}

fn check_queue(topic: &str, group: &str, start: StartAt, policy: &Policy) -> Result<(), Refusal> {
    if start == StartAt::Refuse {
        let why = "a queue group begins at the first message or at the end";
        return Err(Refusal::invalid("group.start", why));
    }
    if policy.dead_letters {
        names::check_topic(&dead_letter_topic(topic, group)).map_err(|error| {
            let why = format!("the dead-letter topic cannot have its name: {error}");
            Refusal::invalid("group.name", why)
        })?;
    }
    policy.check().map_err(|error| {
        Refusal::invalid(format!("group.queue.{}", error.field), error.to_string())
    })
}

/// What a place comes to in each partition, now.
async fn pin(partitions: &[Partition], place: Place) -> Result<Vec<u64>, Refusal> {
    if matches!(place, Place::Offset(_)) && partitions.len() != 1 {
        let count = partitions.len();
        let why = format!("an offset belongs to one partition, and the topic has {count}");
        return Err(Refusal::invalid("group.start_position", why));
    }
    let mut pinned = Vec::with_capacity(partitions.len());
    for partition in partitions {
        pinned.push(partition.offset_of(place).await?);
    }
    Ok(pinned)
}

/// Where copies of the group's dead letters go.
pub(crate) fn dead_letter_topic(topic: &str, group: &str) -> String {
    format!("{topic}.{group}.dlq")
}

/// The call is not for groups of this kind.
pub(crate) fn wrong_kind(group: &Group) -> Refusal {
    Refusal::WrongGroupKind {
        topic: group.topic.clone(),
        group: group.name.clone(),
        is: if group.queue.is_some() {
            "queue"
        } else {
            "stream"
        },
    }
}

fn check_session(ms: u64) -> Result<(), Refusal> {
    let (least, most) = (limits::MIN_SESSION_TIMEOUT, limits::MAX_SESSION_TIMEOUT);
    if (least.as_millis()..=most.as_millis()).contains(&u128::from(ms)) {
        return Ok(());
    }
    let why = format!("{ms} ms is not between {least:?} and {most:?}");
    Err(Refusal::invalid("session_timeout", why))
}

fn changed(group: &Group, expected: u64) -> Refusal {
    Refusal::GroupChanged {
        group: group.name.clone(),
        expected: expected.to_string(),
        actual: group.version.to_string(),
    }
}

fn group_of(outcome: Outcome, wanted: &Group) -> Result<Group, Refusal> {
    let denied = match outcome {
        Outcome::Group(group) => return Ok(group),
        Outcome::Denied(why) => Denied::try_from(why).unwrap_or(Denied::Unreadable),
        Outcome::Topic(_) | Outcome::Producer(_) | Outcome::Schedule(_) | Outcome::Internal(_) => {
            Denied::Unreadable
        }
    };
    Err(match denied {
        Denied::Exists => Refusal::GroupExists {
            topic: wanted.topic.clone(),
            group: wanted.name.clone(),
        },
        Denied::NotFound => not_found(wanted, None),
        Denied::Changed => Refusal::GroupChanged {
            group: wanted.name.clone(),
            expected: wanted.version.to_string(),
            actual: "a later one".into(),
        },
        Denied::TooMany => Refusal::LimitReached {
            what: format!("groups of the topic ({}) or", limits::MAX_GROUPS_PER_TOPIC)
                + " of the node",
            limit: limits::MAX_GROUPS as u64,
        },
        Denied::FewerPartitions | Denied::Unreadable => Refusal::Unknown {
            why: "an unexpected outcome".into(),
        },
    })
}
