//! `aqueduct.v1.Groups`.

use std::sync::Arc;

use aqueduct_proto::v1::{
    self, CreateGroupRequest, DeleteGroupRequest, DeleteGroupResponse, DescribeQueueRequest,
    DescribeQueueResponse, GetGroupRequest, GetLagRequest, GetLagResponse, GetStandingsRequest,
    GetStandingsResponse, GroupState, ListGroupsRequest, ListGroupsResponse, ListInFlightRequest,
    ListInFlightResponse, ListMembersRequest, ListMembersResponse, PauseGroupRequest,
    ResumeGroupRequest, SeekGroupRequest, SeekGroupResponse, SoughtPartition, StartPolicy,
    UnparkKeysRequest, UnparkKeysResponse, UpdateGroupRequest, seek_group_request::Target,
};
use tonic::{Request, Response, Status};

use super::{
    queue_policy::{decode_queue, encode_queue, fields_set},
    queue_views::{
        decode_keys, decode_token, encode_held, encode_standing, encode_token, encode_views,
    },
    reader::decode_place,
    status::{duration_ms, status},
    topics::{encode_duration, encode_time},
};
use crate::{
    error::Refusal,
    groups::{
        admin::{Activity, GroupChange, GroupStatus, NewGroup, wrong_kind},
        lag::PartitionLag,
        seek::{SeekTo, Sought},
        terms::MemberInfo,
    },
    limits::{DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE},
    metadata::groups::{Group, StartAt},
    partition::Place,
    queue::{
        fields::{Field, PolicyChange},
        policy::Policy,
    },
    services::Services,
};

pub(super) struct Groups(Arc<Services>);

impl Groups {
    pub(super) fn new(services: Arc<Services>) -> Groups {
        Groups(services)
    }

    fn answer(&self, group: Group) -> Response<v1::Group> {
        Response::new(encode(self.0.group_status(group)))
    }

    /// A group that has to be a queue group.
    fn queue(&self, topic: &str, group: &str) -> Result<Group, Status> {
        let group = self.0.group(topic, group).map_err(|r| status(&r))?;
        match group.queue {
            Some(_) => Ok(group),
            None => Err(status(&wrong_kind(&group))),
        }
    }

    async fn pause(
        &self,
        (topic, group): (&str, &str),
        until_ms: i64,
        validate_only: bool,
    ) -> Result<Response<v1::Group>, Status> {
        let change = GroupChange {
            paused_until_ms: Some(until_ms),
            ..GroupChange::default()
        };
        let updated = self.0.update_group((topic, group), change, validate_only);
        let updated = updated.await.map_err(|r| status(&r))?;
        Ok(self.answer(updated))
    }
}

fn page_size(asked: u32) -> usize {
    match asked {
        0 => DEFAULT_PAGE_SIZE as usize,
        size => size.min(MAX_PAGE_SIZE) as usize,
    }
}

fn encode_policy(policy: StartAt) -> StartPolicy {
    match policy {
        StartAt::Earliest => StartPolicy::Earliest,
        StartAt::Latest => StartPolicy::Latest,
        StartAt::Refuse => StartPolicy::Error,
        StartAt::Pinned => StartPolicy::Pinned,
    }
}

/// A policy, absent if none is set.
pub(super) fn decode_policy(field: &str, policy: i32) -> Result<Option<StartAt>, Refusal> {
    match StartPolicy::try_from(policy) {
        Ok(StartPolicy::Unspecified) => Ok(None),
        Ok(StartPolicy::Earliest) => Ok(Some(StartAt::Earliest)),
        Ok(StartPolicy::Latest) => Ok(Some(StartAt::Latest)),
        Ok(StartPolicy::Error) => Ok(Some(StartAt::Refuse)),
        Ok(StartPolicy::Pinned) => {
            let why = "PINNED is for answers; a new group takes a start_position";
            Err(Refusal::invalid(field, why))
        }
        Err(_) => Err(Refusal::invalid(field, format!("{policy} is not a policy"))),
    }
}

fn encode(status: GroupStatus) -> v1::Group {
    let GroupStatus {
        group,
        activity,
        members,
    } = status;
    let state = match activity {
        Activity::Empty => GroupState::Empty,
        Activity::Stable => GroupState::Stable,
        Activity::Rebalancing => GroupState::Rebalancing,
        Activity::Paused => GroupState::Paused,
    };
    let paused = activity == Activity::Paused && group.paused_until_ms < i64::MAX;
    v1::Group {
        name: format!("topics/{}/groups/{}", group.topic, group.name),
        id: group.id,
        start: encode_policy(group.start()) as i32,
        overrun: encode_policy(group.overrun()) as i32,
        session_timeout: Some(encode_duration(group.session_timeout_ms)),
        state: state as i32,
        members,
        paused_until: paused.then(|| encode_time(group.paused_until_ms)),
        create_time: Some(encode_time(group.create_time_ms)),
        update_time: Some(encode_time(group.update_time_ms)),
        etag: group.version.to_string(),
        queue: group
            .queue
            .as_ref()
            .map(|queue| encode_queue(&Policy::from(queue))),
        start_position: None,
        start_offsets: group.pinned,
        labels: group.labels.into_iter().collect(),
    }
}

fn decode_new(topic: String, group: v1::Group) -> Result<NewGroup, Refusal> {
    let session_timeout_ms = group
        .session_timeout
        .map(|timeout| duration_ms("group.session_timeout", timeout))
        .transpose()?;
    let start = decode_policy("group.start", group.start)?;
    let place = decode_place("group.start_position", group.start_position)?;
    let (start, place) = match (start, place) {
        (Some(_), Some(_)) => {
            let why = "it takes the place of start; give one of them";
            return Err(Refusal::invalid("group.start_position", why));
        }
        (start, None) => (start.unwrap_or(StartAt::Earliest), None),
        (None, Some(Place::Start)) => (StartAt::Earliest, None),
        (None, Some(Place::End)) => (StartAt::Latest, None),
        (None, place) => (StartAt::Pinned, place),
    };
    Ok(NewGroup {
        topic,
        name: group.name,
        start,
        place,
        overrun: decode_policy("group.overrun", group.overrun)?.unwrap_or(StartAt::Earliest),
        session_timeout_ms,
        labels: group.labels.into_iter().collect(),
        queue: group.queue.map(decode_queue).transpose()?,
    })
}

fn decode_change(group: v1::Group, mask: &[String]) -> Result<GroupChange, Refusal> {
    let version = match group.etag.as_str() {
        "" => None,
        etag => Some(
            etag.parse()
                .map_err(|_| Refusal::invalid("group.etag", "it is not an etag of a group"))?,
        ),
    };
    let overrun = decode_policy("group.overrun", group.overrun)?;
    let session_timeout_ms = group
        .session_timeout
        .map(|timeout| duration_ms("group.session_timeout", timeout))
        .transpose()?;
    let queue = decode_queue_change(group.queue, mask)?;
    let mut labels = Some(group.labels.into_iter().collect());
    let mut change = GroupChange {
        version,
        ..GroupChange::default()
    };
    if mask.is_empty() {
        let is_start = group.start != StartPolicy::Unspecified as i32;
        if is_start || group.start_position.is_some() {
            let why = "where a group starts cannot be changed; seek it";
            return Err(Refusal::invalid("group.start", why));
        }
        change.overrun = overrun;
        change.session_timeout_ms = session_timeout_ms;
        change.queue = queue;
        change.labels =
            labels.filter(|labels: &std::collections::BTreeMap<_, _>| !labels.is_empty());
        return Ok(change);
    }
    for path in mask {
        match path.as_str() {
            "overrun" => change.overrun = overrun.or(Some(StartAt::Earliest)),
            "session_timeout" => change.session_timeout_ms = session_timeout_ms,
            "labels" => change.labels = labels.take(),
            path if path == "queue" || path.starts_with("queue.") => change.queue = queue.clone(),
            other => {
                let why = format!("\"{other}\" cannot be updated");
                return Err(Refusal::invalid("update_mask", why));
            }
        }
    }
    Ok(change)
}

/// What of a policy is to change: as a whole, field by field, or (without a mask) what says
/// anything.
fn decode_queue_change(
    queue: Option<v1::QueuePolicy>,
    mask: &[String],
) -> Result<Option<PolicyChange>, Refusal> {
    let fields = if mask.is_empty() {
        queue.as_ref().map(fields_set)
    } else if mask.iter().any(|path| path == "queue") {
        None
    } else {
        let named = mask.iter().filter_map(|path| path.strip_prefix("queue."));
        let field = |name| {
            let why = || format!("\"queue.{name}\" cannot be updated");
            Field::named(name).ok_or_else(|| Refusal::invalid("update_mask", why()))
        };
        Some(named.map(field).collect::<Result<_, _>>()?)
    };
    // A field that is named and not given takes its default.
    let whole = fields
        .as_ref()
        .is_some_and(|fields: &Vec<_>| !fields.is_empty());
    let queue = queue.or_else(|| (whole && !mask.is_empty()).then(v1::QueuePolicy::default));
    let policy = queue.map(decode_queue).transpose()?;
    Ok(policy.map(|policy| PolicyChange { policy, fields }))
}

fn decode_target(target: Option<Target>) -> Result<SeekTo, Refusal> {
    let nowhere = || {
        let why = "say where to: a position, a shift, or a group to follow";
        Refusal::invalid("target", why)
    };
    match target {
        Some(Target::To(position)) => {
            let place = decode_place("to", Some(position))?;
            place.map(SeekTo::Place).ok_or_else(nowhere)
        }
        Some(Target::Shift(by)) => Ok(SeekTo::Shift(by)),
        Some(Target::FromGroup(name)) => Ok(SeekTo::Group(name)),
        None => Err(nowhere()),
    }
}

fn encode_sought(sought: Sought) -> SoughtPartition {
    SoughtPartition {
        partition: sought.partition,
        old_position: sought.old,
        new_position: sought.new,
        log_start_offset: sought.start,
        high_watermark: sought.end,
    }
}

fn encode_lag(lag: PartitionLag) -> v1::PartitionLag {
    v1::PartitionLag {
        partition: lag.partition,
        position: lag.position,
        log_start_offset: lag.start,
        high_watermark: lag.end,
        messages: lag.messages,
        seconds: lag.seconds,
        member: lag.member,
        commit_time: (lag.commit_time_ms > 0).then(|| encode_time(lag.commit_time_ms)),
    }
}

fn encode_member(info: MemberInfo) -> v1::Member {
    v1::Member {
        member_id: info.member.member_id,
        instance_id: info.member.instance_id,
        client_id: info.member.client_id,
        address: info.member.address,
        partitions: info.partitions,
        pulls: info.member.pulls,
        idle_ms: info.idle_ms,
    }
}

#[tonic::async_trait]
impl v1::groups_server::Groups for Groups {
    async fn create_group(
        &self,
        request: Request<CreateGroupRequest>,
    ) -> Result<Response<v1::Group>, Status> {
        let request = request.into_inner();
        let new = decode_new(request.topic, request.group.unwrap_or_default());
        let new = new.map_err(|r| status(&r))?;
        let created = self.0.create_group(new, request.validate_only).await;
        created.map(|g| self.answer(g)).map_err(|r| status(&r))
    }

    async fn get_group(
        &self,
        request: Request<GetGroupRequest>,
    ) -> Result<Response<v1::Group>, Status> {
        let GetGroupRequest { topic, group } = request.into_inner();
        let group = self.0.group(&topic, &group);
        group.map(|g| self.answer(g)).map_err(|r| status(&r))
    }

    async fn list_groups(
        &self,
        request: Request<ListGroupsRequest>,
    ) -> Result<Response<ListGroupsResponse>, Status> {
        let request = request.into_inner();
        let size = page_size(request.page_size);
        let (topic, after) = (&request.topic, &request.page_token);
        let found = self.0.list_groups(topic, after, size + 1);
        let mut found = found.map_err(|r| status(&r))?;
        let more = found.len() > size;
        found.truncate(size);
        let last = found.last().filter(|_| more).map(|last| {
            let Group { topic, name, .. } = &last.group;
            crate::metadata::groups::key(topic, name)
        });
        Ok(Response::new(ListGroupsResponse {
            groups: found.into_iter().map(encode).collect(),
            next_page_token: last.unwrap_or_default(),
        }))
    }

    async fn update_group(
        &self,
        request: Request<UpdateGroupRequest>,
    ) -> Result<Response<v1::Group>, Status> {
        let request = request.into_inner();
        let group = request.group.unwrap_or_default();
        let (name, mask) = (
            group.name.clone(),
            request.update_mask.unwrap_or_default().paths,
        );
        let change = decode_change(group, &mask).map_err(|r| status(&r))?;
        let names = (request.topic.as_str(), name.as_str());
        let updated = self.0.update_group(names, change, request.validate_only);
        let updated = updated.await.map_err(|r| status(&r))?;
        Ok(self.answer(updated))
    }

    async fn delete_group(
        &self,
        request: Request<DeleteGroupRequest>,
    ) -> Result<Response<DeleteGroupResponse>, Status> {
        let request = request.into_inner();
        let (topic, group) = (&request.topic, &request.group);
        let deleted = self.0.delete_group(topic, group, request.validate_only);
        deleted.await.map_err(|r| status(&r))?;
        Ok(Response::new(DeleteGroupResponse {}))
    }

    async fn get_lag(
        &self,
        request: Request<GetLagRequest>,
    ) -> Result<Response<GetLagResponse>, Status> {
        let GetLagRequest { topic, group } = request.into_inner();
        let group = self.0.group(&topic, &group).map_err(|r| status(&r))?;
        let lags = self.0.group_lag(&group).await.map_err(|r| status(&r))?;
        let seconds = lags.iter().map(|lag| lag.seconds).fold(0.0, f64::max);
        Ok(Response::new(GetLagResponse {
            messages: lags.iter().map(|lag| lag.messages).sum(),
            seconds,
            partitions: lags.into_iter().map(encode_lag).collect(),
        }))
    }

    async fn list_members(
        &self,
        request: Request<ListMembersRequest>,
    ) -> Result<Response<ListMembersResponse>, Status> {
        let ListMembersRequest { topic, group } = request.into_inner();
        let group = self.0.group(&topic, &group).map_err(|r| status(&r))?;
        let members = self.0.members(&group).await.map_err(|r| status(&r))?;
        Ok(Response::new(ListMembersResponse {
            members: members.into_iter().map(encode_member).collect(),
        }))
    }

    async fn seek_group(
        &self,
        request: Request<SeekGroupRequest>,
    ) -> Result<Response<SeekGroupResponse>, Status> {
        let request = request.into_inner();
        let target = decode_target(request.target).map_err(|r| status(&r))?;
        let group = self.0.group(&request.topic, &request.group);
        let group = group.map_err(|r| status(&r))?;
        let (partitions, dry) = (request.partitions, request.validate_only);
        let sought = self.0.seek_group(&group, partitions, target, dry).await;
        let sought = sought.map_err(|r| status(&r))?;
        Ok(Response::new(SeekGroupResponse {
            partitions: sought.into_iter().map(encode_sought).collect(),
        }))
    }

    async fn describe_queue(
        &self,
        request: Request<DescribeQueueRequest>,
    ) -> Result<Response<DescribeQueueResponse>, Status> {
        let DescribeQueueRequest { topic, group } = request.into_inner();
        let group = self.queue(&topic, &group)?;
        let views = self.0.queue_views(&group).await;
        let views = views.map_err(|r| status(&r))?;
        Ok(Response::new(encode_views(&views)))
    }

    async fn list_in_flight(
        &self,
        request: Request<ListInFlightRequest>,
    ) -> Result<Response<ListInFlightResponse>, Status> {
        let request = request.into_inner();
        let group = self.queue(&request.topic, &request.group)?;
        let from = decode_token(&request.page_token).map_err(|r| status(&r))?;
        let size = page_size(request.page_size);
        let found = self.0.in_flight(&group, from, size);
        let (found, next) = found.map_err(|r| status(&r))?;
        Ok(Response::new(ListInFlightResponse {
            messages: found.into_iter().map(encode_held).collect(),
            next_page_token: next.map(encode_token).unwrap_or_default(),
        }))
    }

    async fn unpark_keys(
        &self,
        request: Request<UnparkKeysRequest>,
    ) -> Result<Response<UnparkKeysResponse>, Status> {
        let request = request.into_inner();
        let keys = decode_keys(request.which).map_err(|r| status(&r))?;
        let group = self.queue(&request.topic, &request.group)?;
        let unparked = self.0.unpark(&group, keys, request.validate_only).await;
        let unparked = unparked.map_err(|r| status(&r))?;
        Ok(Response::new(UnparkKeysResponse { unparked }))
    }

    async fn get_standings(
        &self,
        request: Request<GetStandingsRequest>,
    ) -> Result<Response<GetStandingsResponse>, Status> {
        let request = request.into_inner();
        let (topic, partition) = (&request.topic, request.partition);
        let standings = self.0.standings(topic, partition, request.offset).await;
        let standings = standings.map_err(|r| status(&r))?;
        Ok(Response::new(GetStandingsResponse {
            standings: standings.into_iter().map(encode_standing).collect(),
        }))
    }

    async fn pause_group(
        &self,
        request: Request<PauseGroupRequest>,
    ) -> Result<Response<v1::Group>, Status> {
        let request = request.into_inner();
        let until_ms = match request.duration {
            None => i64::MAX,
            Some(duration) => {
                let ms = duration_ms("duration", duration).map_err(|r| status(&r))?;
                self.0.clock.wall_ms().saturating_add_unsigned(ms)
            }
        };
        let names = (request.topic.as_str(), request.group.as_str());
        self.pause(names, until_ms, request.validate_only).await
    }

    async fn resume_group(
        &self,
        request: Request<ResumeGroupRequest>,
    ) -> Result<Response<v1::Group>, Status> {
        let request = request.into_inner();
        let names = (request.topic.as_str(), request.group.as_str());
        self.pause(names, 0, request.validate_only).await
    }
}
