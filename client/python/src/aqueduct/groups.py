"""Consumer groups from outside: create, look at, move, pause, delete."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import Literal

from aqueduct._connection import Connection, Seconds, request, to_duration
from aqueduct._proto import groups_pb2
from aqueduct.errors import InvalidArgument
from aqueduct.messages import Position, position_to_proto
from aqueduct.topics import to_datetime, to_delta

_PAGE = 1_000


class StartPolicy(Enum):
    """What to do where there is no position, or retention has overtaken it."""

    EARLIEST = groups_pb2.START_POLICY_EARLIEST
    """The first message that is kept."""
    LATEST = groups_pb2.START_POLICY_LATEST
    """The end; for a new group the end at the time of its creation."""
    ERROR = groups_pb2.START_POLICY_ERROR
    """Stop and say so, until a seek decides."""
    PINNED = groups_pb2.START_POLICY_PINNED
    """Only told: at the place that the group was created with."""


@dataclass(slots=True, frozen=True, kw_only=True)
class QueuePolicy:
    """How a queue group hands messages out; what is None is the broker's default. docs/queues.md
    tells what each does, and its bounds."""

    lease: Seconds | None = None
    max_attempts: int | None = None
    max_hand_outs: int | None = None
    backoff: Seconds | None = None
    backoff_factor_percent: int | None = None
    backoff_max: Seconds | None = None
    backoff_jitter_percent: int | None = None
    dead_letters: bool | None = None
    dead_letters_for_expired: bool | None = None
    order_per_key: bool = False
    on_key_failure: Literal["skip", "block", "park"] = "skip"
    priorities: Literal["off", "strict", "weighted"] = "off"
    max_in_flight: int = 0
    max_in_flight_per_consumer: int = 0
    max_in_flight_per_key: int = 0
    messages_per_second: int = 0
    retain_done: Seconds | None = None

    def to_proto(self) -> groups_pb2.QueuePolicy:
        """As it travels."""
        order = groups_pb2.QUEUE_ORDER_PER_KEY if self.order_per_key else None
        policy = request(
            lambda: groups_pb2.QueuePolicy(
                lease=None if self.lease is None else to_duration(self.lease),
                max_attempts=self.max_attempts,
                max_hand_outs=self.max_hand_outs,
                backoff=None if self.backoff is None else to_duration(self.backoff),
                backoff_factor_percent=self.backoff_factor_percent,
                backoff_max=None if self.backoff_max is None else to_duration(self.backoff_max),
                backoff_jitter_percent=self.backoff_jitter_percent,
                order=order,
                on_key_failure=_ON_KEY_FAILURE[self.on_key_failure],
                priorities=_PRIORITIES[self.priorities],
                max_in_flight=self.max_in_flight,
                max_in_flight_per_consumer=self.max_in_flight_per_consumer,
                max_in_flight_per_key=self.max_in_flight_per_key,
                messages_per_second=self.messages_per_second,
                retain_done=None if self.retain_done is None else to_duration(self.retain_done),
            )
        )
        if self.dead_letters is not None:
            policy.dead_letters = self.dead_letters
        if self.dead_letters_for_expired is not None:
            policy.dead_letters_for_expired = self.dead_letters_for_expired
        return policy


_ON_KEY_FAILURE = {
    "skip": groups_pb2.ON_KEY_FAILURE_UNSPECIFIED,
    "block": groups_pb2.ON_KEY_FAILURE_BLOCK,
    "park": groups_pb2.ON_KEY_FAILURE_PARK,
}
_PRIORITIES = {
    "off": groups_pb2.QUEUE_PRIORITIES_UNSPECIFIED,
    "strict": groups_pb2.QUEUE_PRIORITIES_STRICT,
    "weighted": groups_pb2.QUEUE_PRIORITIES_WEIGHTED,
}


class GroupState(Enum):
    """What a group is doing."""

    UNSPECIFIED = groups_pb2.GROUP_STATE_UNSPECIFIED
    EMPTY = groups_pb2.GROUP_STATE_EMPTY
    STABLE = groups_pb2.GROUP_STATE_STABLE
    REBALANCING = groups_pb2.GROUP_STATE_REBALANCING
    """Partitions are on their way from one member to another."""
    PAUSED = groups_pb2.GROUP_STATE_PAUSED


@dataclass(slots=True, frozen=True)
class Group:
    """A group as the broker has it."""

    topic: str
    name: str
    id: int
    start: StartPolicy
    """Of a group without positions."""
    overrun: StartPolicy
    """Of a position that retention has overtaken."""
    session_timeout: timedelta
    """A member that was not heard of for so long loses its partitions."""
    labels: Mapping[str, str]
    state: GroupState
    members: int
    paused_until: datetime | None
    create_time: datetime
    update_time: datetime
    etag: str
    start_offsets: Sequence[int] = ()
    """Of a group that starts at the end or at a place: where it begins in each partition."""
    is_queue: bool = False
    """Its messages are leased one by one."""


@dataclass(slots=True, frozen=True)
class PartitionLag:
    """How far behind a group is in one partition."""

    partition: int
    position: int | None
    """Next offset to be consumed; None if there is no position yet."""
    log_start_offset: int
    high_watermark: int
    messages: int
    seconds: float
    """Age of the oldest message that is not consumed; 0 if there is none."""
    member: str
    """Who has the partition; empty if nobody."""
    commit_time: datetime | None


@dataclass(slots=True, frozen=True)
class Lag:
    """How far behind a group is."""

    messages: int
    seconds: float
    """The greatest of the partitions."""
    partitions: Sequence[PartitionLag]


@dataclass(slots=True, frozen=True)
class Member:
    """A member of a group."""

    member_id: str
    instance_id: str
    """Empty for a dynamic member."""
    client_id: str
    address: str
    partitions: Sequence[int]
    pulls: bool
    """True for a member that pulls, False for a stream."""
    idle: timedelta
    """Since it was last heard of."""


@dataclass(slots=True, frozen=True)
class SoughtPartition:
    """What a seek did (or would do) to a partition."""

    partition: int
    old_position: int | None
    new_position: int
    log_start_offset: int
    high_watermark: int


class Groups:
    """`Client.groups`. A group belongs to a topic."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def create(
        self,
        topic: str,
        group: str,
        *,
        start: StartPolicy | Position | None = None,
        overrun: StartPolicy | None = None,
        session_timeout: Seconds | None = None,
        labels: Mapping[str, str] | None = None,
        queue: QueuePolicy | None = None,
        validate_only: bool = False,
    ) -> Group:
        """Creates a group. What is not said is the broker's default. With `queue` it is a queue
        group, whose messages are leased one by one. It may begin at a place, such as a time: what
        that comes to in each partition is found now, and stays (an offset needs a topic with one
        partition). Raises `GroupExists`."""
        policy, place = (start, None) if isinstance(start, StartPolicy) else (None, start)
        wanted = request(
            lambda: groups_pb2.CreateGroupRequest(
                topic=topic,
                group=_settings(group, policy, overrun, session_timeout, labels),
                validate_only=validate_only,
            )
        )
        if place is not None:
            wanted.group.start_position.CopyFrom(position_to_proto(place))
        if queue is not None:
            wanted.group.queue.CopyFrom(queue.to_proto())
        return _group(await self._connection.call("Groups/CreateGroup", wanted, groups_pb2.Group))

    async def get(self, topic: str, group: str) -> Group:
        """One group. Raises `GroupNotFound`."""
        wanted = request(lambda: groups_pb2.GetGroupRequest(topic=topic, group=group))
        return _group(await self._connection.call("Groups/GetGroup", wanted, groups_pb2.Group))

    async def list(self, topic: str = "") -> AsyncIterator[Group]:
        """The groups of a topic, or of all."""
        token = ""
        while True:
            page = await self._connection.call(
                "Groups/ListGroups",
                groups_pb2.ListGroupsRequest(topic=topic, page_size=_PAGE, page_token=token),
                groups_pb2.ListGroupsResponse,
            )
            for group in page.groups:
                yield _group(group)
            token = page.next_page_token
            if not token:
                return

    async def update(
        self,
        topic: str,
        group: str,
        *,
        overrun: StartPolicy | None = None,
        session_timeout: Seconds | None = None,
        labels: Mapping[str, str] | None = None,
        etag: str = "",
        validate_only: bool = False,
    ) -> Group:
        """Changes what is given; labels are replaced as a whole."""
        settings = request(lambda: _settings(group, None, overrun, session_timeout, labels))
        settings.etag = etag
        wanted = request(
            lambda: groups_pb2.UpdateGroupRequest(
                topic=topic, group=settings, validate_only=validate_only
            )
        )
        given = {"overrun": overrun, "session_timeout": session_timeout, "labels": labels}
        paths = [path for path, value in given.items() if value is not None]
        if not paths:
            raise InvalidArgument("nothing to change was given")
        wanted.update_mask.paths[:] = paths
        return _group(await self._connection.call("Groups/UpdateGroup", wanted, groups_pb2.Group))

    async def delete(self, topic: str, group: str, *, validate_only: bool = False) -> None:
        """Forgets the group and its positions. Raises `GroupNotEmpty` while it has members."""
        wanted = request(
            lambda: groups_pb2.DeleteGroupRequest(
                topic=topic, group=group, validate_only=validate_only
            )
        )
        await self._connection.call("Groups/DeleteGroup", wanted, groups_pb2.DeleteGroupResponse)

    async def lag(self, topic: str, group: str) -> Lag:
        """Position and lag of each partition, in messages and in seconds."""
        wanted = request(lambda: groups_pb2.GetLagRequest(topic=topic, group=group))
        answer = await self._connection.call("Groups/GetLag", wanted, groups_pb2.GetLagResponse)
        partitions = [_lag(partition) for partition in answer.partitions]
        return Lag(answer.messages, answer.seconds, partitions)

    async def members(self, topic: str, group: str) -> Sequence[Member]:
        """Who consumes, and what."""
        answer = await self._connection.call(
            "Groups/ListMembers",
            request(lambda: groups_pb2.ListMembersRequest(topic=topic, group=group)),
            groups_pb2.ListMembersResponse,
        )
        return [
            Member(
                m.member_id,
                m.instance_id,
                m.client_id,
                m.address,
                list(m.partitions),
                m.pulls,
                timedelta(milliseconds=m.idle_ms),
            )
            for m in answer.members
        ]

    async def seek(
        self,
        topic: str,
        group: str,
        *,
        to: Position | None = None,
        shift: int | None = None,
        from_group: str | None = None,
        partitions: Sequence[int] = (),
        validate_only: bool = False,
    ) -> Sequence[SoughtPartition]:
        """Moves positions, also while members consume: to a place (an offset needs exactly one
        partition), by so many messages, or to the positions of another group of the topic. With
        `validate_only` it only tells what it would do."""
        targets = [target for target in (to, shift, from_group) if target is not None]
        if len(targets) != 1:
            raise InvalidArgument("one of to, shift and from_group is wanted")
        wanted = request(
            lambda: groups_pb2.SeekGroupRequest(
                topic=topic,
                group=group,
                partitions=partitions,
                to=None if to is None else position_to_proto(to),
                shift=shift,
                from_group=from_group,
                validate_only=validate_only,
            )
        )
        answer = await self._connection.call(
            "Groups/SeekGroup", wanted, groups_pb2.SeekGroupResponse
        )
        return [
            SoughtPartition(
                p.partition,
                p.old_position if p.HasField("old_position") else None,
                p.new_position,
                p.log_start_offset,
                p.high_watermark,
            )
            for p in answer.partitions
        ]

    async def pause(
        self,
        topic: str,
        group: str,
        duration: Seconds | None = None,
        *,
        validate_only: bool = False,
    ) -> Group:
        """Members stay, but nothing is delivered: for so long, or until `resume`."""
        wanted = request(
            lambda: groups_pb2.PauseGroupRequest(
                topic=topic,
                group=group,
                duration=None if duration is None else to_duration(duration),
                validate_only=validate_only,
            )
        )
        return _group(await self._connection.call("Groups/PauseGroup", wanted, groups_pb2.Group))

    async def resume(self, topic: str, group: str, *, validate_only: bool = False) -> Group:
        """Delivers again."""
        wanted = request(
            lambda: groups_pb2.ResumeGroupRequest(
                topic=topic, group=group, validate_only=validate_only
            )
        )
        return _group(await self._connection.call("Groups/ResumeGroup", wanted, groups_pb2.Group))


def _settings(
    name: str,
    start: StartPolicy | None,
    overrun: StartPolicy | None,
    session_timeout: Seconds | None,
    labels: Mapping[str, str] | None,
) -> groups_pb2.Group:
    return groups_pb2.Group(
        name=name,
        start=None if start is None else start.value,
        overrun=None if overrun is None else overrun.value,
        session_timeout=None if session_timeout is None else to_duration(session_timeout),
        labels=labels or {},
    )


def _group(group: groups_pb2.Group) -> Group:
    _, _, path = group.name.partition("topics/")
    topic, _, name = path.partition("/groups/")
    return Group(
        topic=topic,
        name=name,
        id=group.id,
        start=StartPolicy(group.start or groups_pb2.START_POLICY_EARLIEST),
        overrun=StartPolicy(group.overrun or groups_pb2.START_POLICY_EARLIEST),
        session_timeout=to_delta(group.session_timeout),
        labels=dict(group.labels),
        state=GroupState(group.state),
        members=group.members,
        paused_until=to_datetime(group.paused_until) if group.HasField("paused_until") else None,
        create_time=to_datetime(group.create_time),
        update_time=to_datetime(group.update_time),
        etag=group.etag,
        start_offsets=tuple(group.start_offsets),
        is_queue=group.HasField("queue"),
    )


def _lag(lag: groups_pb2.PartitionLag) -> PartitionLag:
    return PartitionLag(
        partition=lag.partition,
        position=lag.position if lag.HasField("position") else None,
        log_start_offset=lag.log_start_offset,
        high_watermark=lag.high_watermark,
        messages=lag.messages,
        seconds=lag.seconds,
        member=lag.member,
        commit_time=to_datetime(lag.commit_time) if lag.HasField("commit_time") else None,
    )
