"""Topics: create, look at, change, trim, delete."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from enum import Enum

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from aqueduct._connection import Connection, Seconds, request, to_duration
from aqueduct._proto import topics_pb2, types_pb2
from aqueduct.errors import InvalidArgument
from aqueduct.messages import Offset, Time, to_ms

_PAGE = 1_000


class TimestampKind(Enum):
    """Whose clock stamps messages."""

    CREATE = types_pb2.TIMESTAMP_KIND_CREATE
    """The publisher's time is kept."""
    APPEND = types_pb2.TIMESTAMP_KIND_APPEND
    """The broker's time of arrival replaces it."""


class Retain(Enum):
    """What makes messages of a topic go."""

    TIME = types_pb2.RETAIN_TIME
    """Their age, and the size of the log."""
    UNTIL_DONE = types_pb2.RETAIN_UNTIL_DONE
    """Every group is done with them; age and size are not regarded."""


@dataclass(slots=True, frozen=True)
class Topic:
    """A topic as the broker has it."""

    name: str
    id: int
    partitions: int
    retention: timedelta
    """How long messages are kept; zero is for ever."""
    retention_bytes: int
    """Bytes kept of each partition; zero is without limit."""
    max_message_bytes: int
    timestamp_kind: TimestampKind
    dedup_window: timedelta
    """How long dedup ids are remembered; zero is off."""
    retain: Retain
    labels: Mapping[str, str]
    create_time: datetime
    update_time: datetime
    etag: str


@dataclass(slots=True, frozen=True)
class PartitionInfo:
    """One partition of a topic."""

    partition: int
    log_start_offset: int
    """First readable offset."""
    high_watermark: int
    """One past the last acknowledged message."""
    size_bytes: int
    """Log on disk."""
    unavailable: str
    """Why it takes no messages now; empty if it does."""
    kept_messages: int = 0
    """Messages below the log's start that queue groups still need, kept aside."""
    kept_bytes: int = 0
    held_by: str = ""
    """Of a topic that retains until done: the group for which the log begins where it does."""
    held_offset: int = 0


@dataclass(slots=True, frozen=True)
class TrimmedPartition:
    """Where a partition begins after trimming."""

    partition: int
    log_start_offset: int


class Topics:
    """`Client.topics`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def create(
        self,
        name: str,
        *,
        partitions: int = 1,
        retention: Seconds | None = None,
        retention_bytes: int | None = None,
        max_message_bytes: int | None = None,
        timestamp_kind: TimestampKind | None = None,
        dedup_window: Seconds | None = None,
        retain: Retain | None = None,
        labels: Mapping[str, str] | None = None,
        validate_only: bool = False,
    ) -> Topic:
        """Creates a topic. What is not said is the broker's default; with `validate_only`
        nothing is changed. Raises `TopicExists`."""
        wanted = request(
            lambda: topics_pb2.CreateTopicRequest(
                topic=types_pb2.Topic(
                    name=name,
                    partitions=partitions,
                    labels=labels or {},
                    config=_config(
                        retention,
                        retention_bytes,
                        max_message_bytes,
                        timestamp_kind,
                        dedup_window,
                        retain,
                    ),
                ),
                validate_only=validate_only,
            )
        )
        return _topic(await self._connection.call("Topics/CreateTopic", wanted, types_pb2.Topic))

    async def get(self, name: str) -> Topic:
        """One topic. Raises `TopicNotFound`."""
        wanted = request(lambda: topics_pb2.GetTopicRequest(name=name))
        return _topic(await self._connection.call("Topics/GetTopic", wanted, types_pb2.Topic))

    async def list(self, prefix: str = "") -> AsyncIterator[Topic]:
        """Every topic whose name begins so, in the order of names."""
        token = ""
        while True:
            page = await self._connection.call(
                "Topics/ListTopics",
                topics_pb2.ListTopicsRequest(page_size=_PAGE, page_token=token, prefix=prefix),
                topics_pb2.ListTopicsResponse,
            )
            for topic in page.topics:
                yield _topic(topic)
            token = page.next_page_token
            if not token:
                return

    async def update(
        self,
        name: str,
        *,
        partitions: int | None = None,
        retention: Seconds | None = None,
        retention_bytes: int | None = None,
        max_message_bytes: int | None = None,
        timestamp_kind: TimestampKind | None = None,
        dedup_window: Seconds | None = None,
        retain: Retain | None = None,
        labels: Mapping[str, str] | None = None,
        etag: str = "",
        validate_only: bool = False,
    ) -> Topic:
        """Changes what is given; labels are replaced as a whole. Partitions can only be added.
        With the `etag` of a topic that was read: raises `EtagMismatch` if it changed since."""
        wanted = request(
            lambda: topics_pb2.UpdateTopicRequest(
                topic=types_pb2.Topic(
                    name=name,
                    partitions=partitions or 0,
                    labels=labels or {},
                    etag=etag,
                    config=_config(
                        retention,
                        retention_bytes,
                        max_message_bytes,
                        timestamp_kind,
                        dedup_window,
                        retain,
                    ),
                ),
                validate_only=validate_only,
            )
        )
        given = {
            "partitions": partitions,
            "labels": labels,
            "config.retention": retention,
            "config.retention_bytes": retention_bytes,
            "config.max_message_bytes": max_message_bytes,
            "config.timestamp_kind": timestamp_kind,
            "config.dedup_window": dedup_window,
            "config.retain": retain,
        }
        paths = [path for path, value in given.items() if value is not None]
        if not paths:
            raise InvalidArgument("nothing to change was given")
        wanted.update_mask.paths[:] = paths
        return _topic(await self._connection.call("Topics/UpdateTopic", wanted, types_pb2.Topic))

    async def delete(self, name: str, *, validate_only: bool = False) -> None:
        """Deletes a topic and its messages."""
        wanted = request(
            lambda: topics_pb2.DeleteTopicRequest(name=name, validate_only=validate_only)
        )
        await self._connection.call("Topics/DeleteTopic", wanted, topics_pb2.DeleteTopicResponse)

    async def trim(
        self,
        name: str,
        *,
        before: Offset | Time | None = None,
        partition: int | None = None,
        validate_only: bool = False,
    ) -> Sequence[TrimmedPartition]:
        """Forgets the messages before an offset (of one partition) or a time, or without
        `before` all there are now."""
        wanted = request(
            lambda: topics_pb2.TrimTopicRequest(
                name=name, partition=partition, validate_only=validate_only
            )
        )
        match before:
            case None:
                wanted.all = True
            case Offset(offset):
                wanted.offset = offset
            case Time(datetime() as time):
                wanted.timestamp_ms = to_ms(time)
            case Time(int() as ms):
                wanted.timestamp_ms = ms
            case _:
                raise InvalidArgument(f"before: an offset or a time is wanted, not {before!r}")
        answer = await self._connection.call(
            "Topics/TrimTopic", wanted, topics_pb2.TrimTopicResponse
        )
        return [TrimmedPartition(p.partition, p.log_start_offset) for p in answer.partitions]

    async def partitions(self, name: str) -> Sequence[PartitionInfo]:
        """Offsets, size and state of each partition."""
        answer = await self._connection.call(
            "Topics/ListPartitions",
            request(lambda: topics_pb2.ListPartitionsRequest(name=name)),
            topics_pb2.ListPartitionsResponse,
        )
        return [
            PartitionInfo(
                p.partition,
                p.log_start_offset,
                p.high_watermark,
                p.size_bytes,
                p.unavailable,
                p.kept_messages,
                p.kept_bytes,
                p.held_by,
                p.held_offset,
            )
            for p in answer.partitions
        ]


def _config(
    retention: Seconds | None,
    retention_bytes: int | None,
    max_message_bytes: int | None,
    timestamp_kind: TimestampKind | None,
    dedup_window: Seconds | None,
    retain: Retain | None,
) -> types_pb2.TopicConfig:
    return types_pb2.TopicConfig(
        retention=None if retention is None else to_duration(retention),
        retention_bytes=retention_bytes,
        max_message_bytes=max_message_bytes,
        timestamp_kind=None if timestamp_kind is None else timestamp_kind.value,
        dedup_window=None if dedup_window is None else to_duration(dedup_window),
        retain=None if retain is None else retain.value,
    )


def to_delta(duration: Duration) -> timedelta:
    """A length of time as Python has it."""
    return timedelta(seconds=duration.seconds, microseconds=duration.nanos // 1000)


def to_datetime(stamp: Timestamp) -> datetime:
    """A time in UTC."""
    return stamp.ToDatetime(tzinfo=timezone.utc)


def _topic(topic: types_pb2.Topic) -> Topic:
    config = topic.config
    return Topic(
        name=topic.name.removeprefix("topics/"),
        id=topic.id,
        partitions=topic.partitions,
        retention=to_delta(config.retention),
        retention_bytes=config.retention_bytes,
        max_message_bytes=config.max_message_bytes,
        timestamp_kind=TimestampKind(config.timestamp_kind or types_pb2.TIMESTAMP_KIND_CREATE),
        dedup_window=to_delta(config.dedup_window),
        retain=Retain(config.retain or types_pb2.RETAIN_TIME),
        labels=dict(topic.labels),
        create_time=to_datetime(topic.create_time),
        update_time=to_datetime(topic.update_time),
        etag=topic.etag,
    )
