"""Messages as they are published, records as they are read, and places in a log."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone

from aqueduct._proto import reader_pb2, types_pb2
from aqueduct.errors import InvalidArgument

Data = bytes | bytearray | memoryview | str
"""A key or a value: text is encoded as UTF-8."""

Headers = Mapping[str, Data] | Iterable[tuple[str, Data]]
"""Headers keep their order and may repeat a name, for which pairs are needed."""


def to_bytes(data: Data) -> bytes:
    """Text as UTF-8; bytes as they are."""
    if isinstance(data, str):
        return data.encode()
    if isinstance(data, bytes | bytearray | memoryview):
        return bytes(data)
    raise TypeError(f"bytes or text are wanted, not {data!r}")


def to_ms(time: datetime) -> int:
    """Milliseconds since the Unix epoch, exactly. A time without zone is local time."""
    since = time.astimezone(timezone.utc) - datetime(1970, 1, 1, tzinfo=timezone.utc)
    return since // timedelta(milliseconds=1)


def to_time(ms: int) -> datetime:
    """The time of so many milliseconds since the Unix epoch, in UTC."""
    return datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(milliseconds=ms)


def _as_delta(duration: timedelta | float) -> timedelta:
    return duration if isinstance(duration, timedelta) else timedelta(seconds=duration)


@dataclass(slots=True)
class Message:
    """A message to publish.

    Without value it is a tombstone. Messages of one key go to one partition, in order, unless
    `partition` chooses. `time` defaults to the broker's time of arrival. A message whose
    `dedup_id` was stored within the topic's dedup window is not stored again.

    For queue groups: `delay` (from when it is stored, by the broker's clock) or `deliver_at`
    holds it back, at most ten years; after `ttl` from its time it is not handed out any more;
    `priority` is 0 to 9, the greater first, 4 without one. Readers without a group see it at once.
    """

    value: Data | None
    key: Data | None = None
    headers: Headers = ()
    dedup_id: str | None = None
    partition: int | None = None
    time: datetime | None = None
    delay: timedelta | float | None = None
    deliver_at: datetime | None = None
    ttl: timedelta | float | None = None
    priority: int | None = None

    def to_proto(self) -> types_pb2.Message:
        """As it travels."""
        try:
            return self._to_proto()
        except (TypeError, ValueError) as error:
            raise InvalidArgument(f"this cannot be a message: {error}") from error

    def _to_proto(self) -> types_pb2.Message:
        headers = self.headers.items() if isinstance(self.headers, Mapping) else self.headers
        message = types_pb2.Message(
            headers=[types_pb2.Header(name=name, value=to_bytes(value)) for name, value in headers],
            dedup_id=self.dedup_id or "",
        )
        if self.value is not None:
            message.value = to_bytes(self.value)
        if self.key is not None:
            message.key = to_bytes(self.key)
        if self.partition is not None:
            message.partition = self.partition
        if self.time is not None:
            message.timestamp_ms = to_ms(self.time)
        if self.delay is not None:
            message.delay.FromTimedelta(_as_delta(self.delay))
        if self.deliver_at is not None:
            message.deliver_at.FromDatetime(self.deliver_at.astimezone(timezone.utc))
        if self.ttl is not None:
            message.ttl.FromTimedelta(_as_delta(self.ttl))
        if self.priority is not None:
            message.priority = self.priority
        return message


@dataclass(slots=True, frozen=True)
class Ack:
    """A message is on stable storage, at this place."""

    partition: int
    offset: int
    duplicate: bool = False
    """Stored earlier under the same dedup id; the place is the first one's."""


@dataclass(slots=True, frozen=True)
class Record:
    """A message as it is stored."""

    partition: int
    offset: int
    """Its place in the partition; without gaps."""
    timestamp_ms: int
    """Milliseconds since the Unix epoch; whose clock is the topic's choice."""
    key: bytes | None
    value: bytes | None
    """None is a tombstone."""
    headers: tuple[tuple[str, bytes], ...] = ()
    epoch: int = field(default=0, repr=False, compare=False)
    """The assignment under which a group's member got it; belongs to a commit."""

    @property
    def time(self) -> datetime:
        """`timestamp_ms` as a time in UTC."""
        return to_time(self.timestamp_ms)

    @property
    def weight(self) -> int:
        """Bytes of key, value and headers: its weight in the broker's account of credit."""
        headers = sum(len(name.encode()) + len(value) for name, value in self.headers)
        return len(self.key or b"") + len(self.value or b"") + headers

    @property
    def text(self) -> str:
        """The value as UTF-8 text; empty for a tombstone.

        Raises UnicodeDecodeError if it is something else.
        """
        return (self.value or b"").decode()

    def header(self, name: str) -> bytes | None:
        """The value of the first header of this name."""
        return next((value for key, value in self.headers if key == name), None)

    @classmethod
    def from_proto(cls, record: types_pb2.Record, epoch: int = 0) -> Record:
        """As it was received."""
        return cls(
            record.partition,
            record.offset,
            record.timestamp_ms,
            record.key if record.HasField("key") else None,
            record.value if record.HasField("value") else None,
            tuple((header.name, header.value) for header in record.headers),
            epoch,
        )


@dataclass(slots=True, frozen=True)
class Start:
    """The first message that is kept."""


@dataclass(slots=True, frozen=True)
class End:
    """Past the last acknowledged message, as of now."""


@dataclass(slots=True, frozen=True)
class Offset:
    """This offset, in each partition."""

    offset: int


@dataclass(slots=True, frozen=True)
class Time:
    """The first message of this time or a later one. A number is milliseconds since the epoch."""

    time: datetime | int


@dataclass(slots=True, frozen=True)
class Last:
    """So many messages before the end, of each partition."""

    count: int


START = Start()
END = End()

Position = Start | End | Offset | Time | Last
"""A place in each partition of a topic."""


def position_to_proto(position: Position) -> reader_pb2.Position:
    """As it travels."""
    try:
        match position:
            case Start():
                return reader_pb2.Position(start=True)
            case End():
                return reader_pb2.Position(end=True)
            case Offset(offset):
                return reader_pb2.Position(offset=offset)
            case Time(datetime() as time):
                return reader_pb2.Position(timestamp_ms=to_ms(time))
            case Time(int() as ms):
                return reader_pb2.Position(timestamp_ms=ms)
            case Last(count):
                return reader_pb2.Position(last=count)
    except (TypeError, ValueError) as error:
        raise InvalidArgument(f"this cannot be a position: {position}: {error}") from error
    raise InvalidArgument(f"this is not a position: {position!r}")


@dataclass(slots=True, frozen=True)
class PartitionOffsets:
    """Where a partition begins and ends."""

    partition: int
    log_start_offset: int
    """First readable offset."""
    high_watermark: int
    """One past the last acknowledged message."""
    offset: int | None
    """Where the position that was asked for is."""
