//! Consumer groups from outside: create, look at, change, move, pause, delete.
//!
//! What lives here: one call for each method of the broker's `Groups` service. Consuming as a
//! member is `Client::consumer`. Promises: every change can be tried with
//! `dry_run` first; a group is always named by its topic and its own bare name.

pub(crate) mod policy;
mod queue;
mod types;

use aqueduct_proto::v1::{self, seek_group_request::Target};

pub use policy::{HeaderCondition, OnKeyFailure, QueueOrder, QueuePolicy, QueuePriorities};
pub use queue::{
    InFlight, MessageCounts, MessageState, QueueDescription, QueuePartition, Standing,
};
pub use types::{
    Group, GroupLag, GroupState, GroupUpdate, Member, NewGroup, PartitionLag, Seek,
    SoughtPartition, StartPolicy,
};

use crate::{
    Client, Error, From,
    times::{duration_to_proto, time_from_proto},
};
use std::time::Duration;

/// Everything about consumer groups except consuming; see [`Client::groups`].
///
/// ```no_run
/// # async fn example(client: aqueduct_client::Client) -> Result<(), aqueduct_client::Error> {
/// use aqueduct_client::{From, NewGroup, Seek};
/// let groups = client.groups();
/// groups.create(NewGroup::new("orders", "billing")).await?;
/// let lag = groups.lag("orders", "billing").await?;
/// println!("{} messages, {:.1} s behind", lag.messages, lag.seconds);
/// // What would happen, and then do it.
/// let seek = Seek::to(From::Start);
/// for moved in groups.seek("orders", "billing", seek.clone().dry_run(true)).await? {
///     println!("{}: {:?} -> {}", moved.partition, moved.old_position, moved.new_position);
/// }
/// groups.seek("orders", "billing", seek).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Groups {
    client: Client,
}

impl Client {
    /// Consumer groups: create, look at, change, move, pause, delete.
    #[must_use]
    pub fn groups(&self) -> Groups {
        Groups {
            client: self.clone(),
        }
    }
}

impl Groups {
    /// Creates a group and answers with it as created.
    ///
    /// # Errors
    /// [`Error::NotFound`] for the topic, [`Error::AlreadyExists`], [`Error::Invalid`].
    pub async fn create(&self, new: NewGroup) -> Result<Group, Error> {
        let topic = new.group.topic.clone();
        let mut group = new.group.into_proto();
        group.start_position = new.start_at.map(From::into_proto);
        let request = v1::CreateGroupRequest {
            topic,
            group: Some(group),
            validate_only: new.dry_run,
        };
        let mut groups = self.client.grouping();
        let answer = self.client.call(groups.create_group(request)).await;
        answer.map(Group::from_proto)
    }

    /// Looks at one group.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn get(&self, topic: &str, group: &str) -> Result<Group, Error> {
        let request = v1::GetGroupRequest {
            topic: topic.to_owned(),
            group: group.to_owned(),
        };
        let mut groups = self.client.grouping();
        let answer = self.client.call(groups.get_group(request)).await;
        answer.map(Group::from_proto)
    }

    /// The groups of a topic, or of all topics, by name.
    ///
    /// # Errors
    /// [`Error::NotFound`] for the topic.
    pub async fn list(&self, topic: Option<&str>) -> Result<Vec<Group>, Error> {
        let mut found = Vec::new();
        let mut page_token = String::new();
        loop {
            let request = v1::ListGroupsRequest {
                topic: topic.unwrap_or_default().to_owned(),
                page_size: 1000,
                page_token,
            };
            let mut groups = self.client.grouping();
            let page = self.client.call(groups.list_groups(request)).await?;
            found.extend(page.groups.into_iter().map(Group::from_proto));
            if page.next_page_token.is_empty() {
                return Ok(found);
            }
            page_token = page.next_page_token;
        }
    }

    /// Changes what the update names and answers with the group as it is then.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Invalid`], [`Error::Conflict`] if the etag does not match.
    pub async fn update(&self, update: GroupUpdate) -> Result<Group, Error> {
        let request = v1::UpdateGroupRequest {
            topic: update.group.topic.clone(),
            group: Some(update.group.into_proto()),
            update_mask: Some(prost_types::FieldMask { paths: update.mask }),
            validate_only: update.dry_run,
        };
        let mut groups = self.client.grouping();
        let answer = self.client.call(groups.update_group(request)).await;
        answer.map(Group::from_proto)
    }

    /// Forgets a group and its positions.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Conflict`] while it has members.
    pub async fn delete(&self, topic: &str, group: &str) -> Result<(), Error> {
        self.delete_if(topic, group, false).await
    }

    /// [`Groups::delete`]; with `dry_run` it only checks.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Conflict`] while it has members.
    pub async fn delete_if(&self, topic: &str, group: &str, dry_run: bool) -> Result<(), Error> {
        let request = v1::DeleteGroupRequest {
            topic: topic.to_owned(),
            group: group.to_owned(),
            validate_only: dry_run,
        };
        let mut groups = self.client.grouping();
        let answer = self.client.call(groups.delete_group(request)).await;
        answer.map(drop)
    }

    /// Position and lag of each partition, in messages and in seconds.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn lag(&self, topic: &str, group: &str) -> Result<GroupLag, Error> {
        let request = v1::GetLagRequest {
            topic: topic.to_owned(),
            group: group.to_owned(),
        };
        let mut groups = self.client.grouping();
        let answer = self.client.call(groups.get_lag(request)).await?;
        let partitions = answer.partitions.into_iter().map(|lag| PartitionLag {
            partition: lag.partition,
            position: lag.position,
            log_start_offset: lag.log_start_offset,
            high_watermark: lag.high_watermark,
            messages: lag.messages,
            seconds: lag.seconds,
            member: lag.member,
            commit_time_ms: lag.commit_time.map(time_from_proto),
        });
        Ok(GroupLag {
            partitions: partitions.collect(),
            messages: answer.messages,
            seconds: answer.seconds,
        })
    }

    /// Who is in the group, and what each has.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn members(&self, topic: &str, group: &str) -> Result<Vec<Member>, Error> {
        let request = v1::ListMembersRequest {
            topic: topic.to_owned(),
            group: group.to_owned(),
        };
        let mut groups = self.client.grouping();
        let answer = self.client.call(groups.list_members(request)).await?;
        let members = answer.members.into_iter().map(|member| Member {
            member_id: member.member_id,
            instance_id: member.instance_id,
            client_id: member.client_id,
            address: member.address,
            partitions: member.partitions,
            pulls: member.pulls,
            idle: Duration::from_millis(member.idle_ms),
        });
        Ok(members.collect())
    }

    /// Moves positions; members go on from the new place. With [`Seek::dry_run`] nothing moves
    /// and the answer is what would be.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Invalid`] (an offset needs exactly one partition),
    /// [`Error::OutOfRange`].
    pub async fn seek(
        &self,
        topic: &str,
        group: &str,
        seek: Seek,
    ) -> Result<Vec<SoughtPartition>, Error> {
        let request = v1::SeekGroupRequest {
            topic: topic.to_owned(),
            group: group.to_owned(),
            partitions: seek.partitions,
            target: Some(match seek.target {
                types::Target::To(from) => Target::To(from.into_proto()),
                types::Target::Shift(by) => Target::Shift(by),
                types::Target::FromGroup(group) => Target::FromGroup(group),
            }),
            validate_only: seek.dry_run,
        };
        let mut groups = self.client.grouping();
        let answer = self.client.call(groups.seek_group(request)).await?;
        let sought = answer.partitions.into_iter().map(|sought| SoughtPartition {
            partition: sought.partition,
            old_position: sought.old_position,
            new_position: sought.new_position,
            log_start_offset: sought.log_start_offset,
            high_watermark: sought.high_watermark,
        });
        Ok(sought.collect())
    }

    /// Gives `to` the positions of `from`, another group of the topic.
    ///
    /// # Errors
    /// Those of [`Groups::seek`].
    pub async fn copy_positions(
        &self,
        topic: &str,
        from: &str,
        to: &str,
    ) -> Result<Vec<SoughtPartition>, Error> {
        self.seek(topic, to, Seek::from_group(from)).await
    }

    /// Stops delivery; members stay. Resumes by itself after `duration`, if one is given.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Invalid`] for the duration.
    pub async fn pause(
        &self,
        topic: &str,
        group: &str,
        duration: Option<Duration>,
    ) -> Result<Group, Error> {
        self.pause_if(topic, group, duration, false).await
    }

    /// [`Groups::pause`]; with `dry_run` it only checks.
    ///
    /// # Errors
    /// Those of [`Groups::pause`].
    pub async fn pause_if(
        &self,
        topic: &str,
        group: &str,
        duration: Option<Duration>,
        dry_run: bool,
    ) -> Result<Group, Error> {
        let request = v1::PauseGroupRequest {
            topic: topic.to_owned(),
            group: group.to_owned(),
            duration: duration.map(duration_to_proto),
            validate_only: dry_run,
        };
        let mut groups = self.client.grouping();
        let answer = self.client.call(groups.pause_group(request)).await;
        answer.map(Group::from_proto)
    }

    /// Delivers again.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn resume(&self, topic: &str, group: &str) -> Result<Group, Error> {
        self.resume_if(topic, group, false).await
    }

    /// [`Groups::resume`]; with `dry_run` it only checks.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn resume_if(&self, topic: &str, group: &str, dry_run: bool) -> Result<Group, Error> {
        let request = v1::ResumeGroupRequest {
            topic: topic.to_owned(),
            group: group.to_owned(),
            validate_only: dry_run,
        };
        let mut groups = self.client.grouping();
        let answer = self.client.call(groups.resume_group(request)).await;
        answer.map(Group::from_proto)
    }

    /// Sets positions of a group that has no members: pairs of a partition and the next offset
    /// to consume. One result for each, in order: the group's position after it.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Conflict`] while it has members.
    pub async fn commit(
        &self,
        topic: &str,
        group: &str,
        positions: &[(u32, u64)],
    ) -> Result<Vec<Result<u64, Error>>, Error> {
        let commits = positions.iter().map(|(partition, offset)| {
            let (partition, offset) = (*partition, *offset);
            v1::PartitionCommit {
                partition,
                offset,
                epoch: 0,
            }
        });
        let request = v1::CommitRequest {
            topic: topic.to_owned(),
            group: group.to_owned(),
            member_id: String::new(),
            commits: commits.collect(),
        };
        let mut consumer = self.client.consuming();
        let answer = self.client.call(consumer.commit(request)).await?;
        let results = answer.results.into_iter().map(|result| match result.error {
            Some(error) => Err(Error::from_rpc(error)),
            None => Ok(result.position),
        });
        Ok(results.collect())
    }
}
