"""The handle on a broker, from which everything else comes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import TracebackType

from aqueduct._connection import (
    DEFAULT_SERVER,
    Connection,
    Seconds,
    request,
    to_duration,
    to_seconds,
)
from aqueduct._proto import consumer_pb2, ops_pb2, publisher_pb2, reader_pb2, types_pb2
from aqueduct.consumer import Assignment, Consumer, OnRebalance, Options
from aqueduct.errors import AqueductError, Internal, from_status
from aqueduct.groups import Groups, StartPolicy
from aqueduct.messages import (
    Ack,
    Data,
    Headers,
    Message,
    PartitionOffsets,
    Position,
    Record,
    position_to_proto,
)
from aqueduct.producer import Producer, as_message, outcome
from aqueduct.queue import Queue
from aqueduct.reader import Reader
from aqueduct.topics import Topics


@dataclass(slots=True, frozen=True)
class Commit:
    """A position to be committed: one past the last message that is done."""

    partition: int
    offset: int
    epoch: int = 0
    """Of the assignment; is not looked at if the group has no members."""

    @classmethod
    def after(cls, record: Record) -> Commit:
        """Says that this record, and with it all before it in its partition, is done."""
        return cls(record.partition, record.offset + 1, record.epoch)


@dataclass(slots=True, frozen=True)
class CommitResult:
    """What became of a commit."""

    partition: int
    position: int
    """The group's position after it."""
    error: AqueductError | None


@dataclass(slots=True, frozen=True)
class Pulled:
    """The answer to a pull."""

    member_id: str
    """To be given with the next pull."""
    records: Sequence[Record]
    assignments: Sequence[Assignment]
    """The partitions this member has now, with the position after this answer."""
    commits: Sequence[CommitResult]
    """One for each commit of the request."""
    answer: int
    """The number of this answer, to be given with the next pull (`received`)."""


@dataclass(slots=True, frozen=True)
class Stats:
    """Some figures of the broker's process."""

    version: str
    uptime_ms: int
    topics: int
    partitions: int
    connections: int
    messages_in: int
    bytes_in: int
    messages_out: int
    bytes_out: int
    disk_free_bytes: int


class Client:
    """A handle on a broker.

        async with await Client.connect("127.0.0.1:7320") as client:
            ack = await client.publish("orders", "three apples", key="customer-7")

    One connection, which is made again by itself when it breaks. For one event loop; not for
    several threads.
    """

    def __init__(
        self,
        address: str = DEFAULT_SERVER,
        *,
        connect_timeout: Seconds = 5.0,
        request_timeout: Seconds = 30.0,
    ) -> None:
        """Connects with the first request; `connect` does so at once. `address` is
        "host:port". A request waits up to `connect_timeout` for a connection, if there is none,
        and up to `request_timeout` for its answer."""
        self._connection = Connection(
            address, to_seconds(connect_timeout), to_seconds(request_timeout)
        )
        self.topics = Topics(self._connection)
        """Create, look at, change, trim, delete topics."""
        self.groups = Groups(self._connection)
        """Create, look at, move, pause, delete groups."""

    @classmethod
    async def connect(
        cls,
        address: str = DEFAULT_SERVER,
        *,
        connect_timeout: Seconds = 5.0,
        request_timeout: Seconds = 30.0,
    ) -> Client:
        """Connects, or raises `Unavailable` if nobody answers in time."""
        client = cls(address, connect_timeout=connect_timeout, request_timeout=request_timeout)
        try:
            await client._connection.ready()
        except BaseException:
            await client.aclose()
            raise
        return client

    @classmethod
    async def from_env(cls) -> Client:
        """Connects to the broker that the environment variable AQUEDUCT_SERVER names, or to
        127.0.0.1:7320."""
        return await cls.connect(os.environ.get("AQUEDUCT_SERVER", DEFAULT_SERVER))

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Ends the connection, and everything that uses it."""
        await self._connection.close()

    async def publish(
        self,
        topic: str,
        value: Message | Data | None,
        *,
        key: Data | None = None,
        headers: Headers = (),
        dedup_id: str | None = None,
        partition: int | None = None,
        time: datetime | None = None,
        delay: timedelta | float | None = None,
        deliver_at: datetime | None = None,
        ttl: timedelta | float | None = None,
        priority: int | None = None,
        expected_offset: int | None = None,
    ) -> Ack:
        """Publishes one message (a whole one, or its value) and waits until it is on stable
        storage.

        Nothing is sent twice: an error whose `is_unknown` is true may have been stored. Trying
        again with the same `dedup_id` is safe. With `expected_offset`: raises `OffsetMismatch`
        unless that is the next offset of the message's partition.
        """
        message = as_message(
            value,
            key,
            headers,
            dedup_id=dedup_id,
            partition=partition,
            time=time,
            delay=delay,
            deliver_at=deliver_at,
            ttl=ttl,
            priority=priority,
        )
        (result,) = await self.publish_many(topic, [message], expected_offset=expected_offset)
        if isinstance(result, AqueductError):
            raise result
        return result

    async def publish_many(
        self, topic: str, messages: Sequence[Message], *, expected_offset: int | None = None
    ) -> list[Ack | AqueductError]:
        """Publishes some messages in one request; an `Ack` or an error for each, in order. With
        `expected_offset` all must go to one partition, and are stored together or not at all."""
        sent = request(
            lambda: publisher_pb2.PublishRequest(
                topic=topic,
                messages=[message.to_proto() for message in messages],
                expected_offset=expected_offset,
            )
        )
        answer = await self._connection.call(
            "Publisher/Publish", sent, publisher_pb2.PublishResponse
        )
        if len(answer.results) != len(messages):
            raise Internal(f"{len(answer.results)} results for {len(messages)} messages")
        return [outcome(result) for result in answer.results]

    def producer(
        self,
        topic: str,
        *,
        dedup: bool = True,
        max_in_flight_bytes: int = 16 << 20,
        delivery_timeout: Seconds = 60.0,
    ) -> Producer:
        """Publishes many messages, pipelined:

            async with client.producer("orders") as producer:
                for order in orders:
                    await producer.send(order, key=...)
                await producer.flush()

        `send` waits when `max_in_flight_bytes` have no answer yet. For `dedup` and what happens
        when the connection breaks see `Producer`.
        """
        return Producer(
            self._connection,
            topic,
            dedup=dedup,
            max_in_flight_bytes=max_in_flight_bytes,
            delivery_timeout=to_seconds(delivery_timeout),
        )

    def read(
        self,
        topic: str,
        *,
        start: Position | None = None,
        until: Position | None = None,
        follow: bool = False,
        partitions: Sequence[int] = (),
        max_messages: int | None = None,
        buffer_bytes: int = 4 << 20,
        retry_timeout: Seconds = 60.0,
    ) -> Reader:
        """Reads without a group:

            async for record in client.read("orders", start=aqueduct.START):
                ...

        From `start` (the first message kept; with `follow` the end) to `until`, exclusive (the
        end as of now; with `follow` for ever). The broker sends at most `buffer_bytes` ahead. A
        broken connection is made again, and reading goes on where it was; after `retry_timeout`
        without success `Unavailable` is raised.
        """
        wanted = request(
            lambda: reader_pb2.ReadRequest(
                topic=topic,
                partitions=partitions,
                until=None if until is None else position_to_proto(until),
                follow=follow,
                max_messages=max_messages,
            )
        )
        if start is not None:
            # The field has the name of a keyword.
            getattr(wanted, "from").CopyFrom(position_to_proto(start))
        return Reader(
            self._connection,
            wanted,
            limit=max_messages,
            buffer_bytes=buffer_bytes,
            retry_timeout=to_seconds(retry_timeout),
        )

    def queue(self, topic: str, group: str) -> Queue:
        """Works through a queue group: each message is leased to one consumer at a time, until it
        is done or a dead letter.

            queue = client.queue("orders", "billing")
            async with queue.worker(handle, concurrency=8) as worker:
                await worker.ended()
        """
        return Queue(self._connection, topic, group)

    def consumer(
        self,
        topic: str,
        group: str,
        *,
        auto_commit: bool = True,
        commit_interval: Seconds = 0.2,
        start: StartPolicy = StartPolicy.EARLIEST,
        must_exist: bool = False,
        member_id: str = "",
        instance_id: str = "",
        client_id: str = "",
        prefetch: int = 1_000,
        prefetch_bytes: int = 8 << 20,
        retry_timeout: Seconds = 60.0,
        on_rebalance: OnRebalance | None = None,
    ) -> Consumer:
        """Consumes as a member of a group, which shares the topic's partitions among its members:

            async with client.consumer("orders", group="billing") as consumer:
                async for record in consumer:
                    ...

        **At least once.** With `auto_commit` a record counts as done when the next one is asked
        for; what is done is committed every `commit_interval`, when a partition moves, and at
        the end. A record whose handling raises, or after which the loop is left by `break`, is not
        done. Without `auto_commit`, `await consumer.commit(record)` says so.

        **Rebalance.** When a partition is asked back, nothing more of it is given out; it is
        given back when what was given out is committed, at the latest shortly before the broker's
        deadline. `on_rebalance` is called (awaited, if it is async) with `Assigned`, `Revoking`
        and `Lost`; a partition is not given back while it handles `Revoking`.

        **Faults.** After a broken connection the member comes back under its `member_id`, and what
        was not committed is delivered again; after `retry_timeout` without success, `Unavailable`
        is raised. The loop must not block the event loop for longer than the session time-out (15 s
        unless the group says otherwise), or the member loses its partitions.

        The group is created if it does not exist (unless `must_exist`), and begins at `start`.
        With an `instance_id` the member is static: after a restart within the session time-out it
        has the same partitions. At most `prefetch` records and `prefetch_bytes` wait here.
        """
        opening = request(
            lambda: consumer_pb2.ConsumeOpen(
                topic=topic,
                group=group,
                member_id=member_id,
                instance_id=instance_id,
                client_id=client_id,
                start=start.value,
                must_exist=must_exist,
            )
        )
        options = Options(
            auto_commit=auto_commit,
            commit_interval=to_seconds(commit_interval),
            prefetch=max(1, prefetch),
            prefetch_bytes=max(1, prefetch_bytes),
            retry_timeout=to_seconds(retry_timeout),
            on_rebalance=on_rebalance,
        )
        return Consumer(self._connection, opening, options)

    async def pull(
        self,
        topic: str,
        group: str,
        *,
        member_id: str = "",
        instance_id: str = "",
        client_id: str = "",
        max_messages: int = 100,
        max_bytes: int = 1 << 20,
        wait: Seconds = 0.0,
        start: StartPolicy = StartPolicy.EARLIEST,
        must_exist: bool = False,
        commits: Sequence[Commit | Record] = (),
        received: int | None = None,
    ) -> Pulled:
        """Consumes without a stream: joins with the first call, goes on with the next ones.

        Say with `received` which answer arrived last (`Pulled.answer`; 0 before the first): if a
        later one was lost on the way, what it held is handed out again. Without it every answer
        counts as arrived.

        Waits up to `wait` (60 s at most) for the first message. `commits` are made before, and
        their results are in the answer; a record stands for itself and all before it in its
        partition. Between two calls not more than the session time-out may pass.
        """
        seconds = to_seconds(wait)
        sent = request(
            lambda: consumer_pb2.PullRequest(
                topic=topic,
                group=group,
                member_id=member_id,
                instance_id=instance_id,
                client_id=client_id,
                max_messages=max_messages,
                max_bytes=max_bytes,
                wait=to_duration(seconds),
                start=start.value,
                must_exist=must_exist,
                commits=_commits(commits),
                received=received,
            )
        )
        answer = await self._connection.call(
            "Consumer/Pull", sent, consumer_pb2.PullResponse, patience=seconds
        )
        assignments = [Assignment.from_proto(assignment) for assignment in answer.assignments]
        epochs = {assignment.partition: assignment.epoch for assignment in assignments}
        return Pulled(
            member_id=answer.member_id,
            records=[Record.from_proto(r, epochs.get(r.partition, 0)) for r in answer.records],
            assignments=assignments,
            commits=[_result(result) for result in answer.commit_results],
            answer=answer.answer,
        )

    async def commit(
        self,
        topic: str,
        group: str,
        commits: Sequence[Commit | Record],
        *,
        member_id: str = "",
    ) -> list[CommitResult]:
        """Commits for a member that pulls, or (without `member_id`) sets positions of a group that
        has no members."""
        sent = request(
            lambda: consumer_pb2.CommitRequest(
                topic=topic, group=group, member_id=member_id, commits=_commits(commits)
            )
        )
        answer = await self._connection.call("Consumer/Commit", sent, consumer_pb2.CommitResponse)
        return [_result(result) for result in answer.results]

    async def leave(self, topic: str, group: str, member_id: str) -> None:
        """A member that pulls goes, and its partitions move at once."""
        sent = request(
            lambda: consumer_pb2.LeaveRequest(topic=topic, group=group, member_id=member_id)
        )
        await self._connection.call("Consumer/Leave", sent, consumer_pb2.LeaveResponse)

    async def get_message(self, topic: str, partition: int, offset: int) -> Record:
        """One message."""
        sent = request(
            lambda: reader_pb2.GetMessageRequest(topic=topic, partition=partition, offset=offset)
        )
        answer = await self._connection.call("Reader/GetMessage", sent, types_pb2.Record)
        return Record.from_proto(answer)

    async def offsets(
        self, topic: str, position: Position | None = None, partitions: Sequence[int] = ()
    ) -> list[PartitionOffsets]:
        """Where each partition begins and ends, and where `position` is in it."""
        sent = request(
            lambda: reader_pb2.GetOffsetsRequest(
                topic=topic,
                partitions=partitions,
                position=None if position is None else position_to_proto(position),
            )
        )
        answer = await self._connection.call(
            "Reader/GetOffsets", sent, reader_pb2.GetOffsetsResponse
        )
        return [
            PartitionOffsets(
                p.partition,
                p.log_start_offset,
                p.high_watermark,
                p.offset if p.HasField("offset") else None,
            )
            for p in answer.partitions
        ]

    async def stats(self) -> Stats:
        """Some figures of the broker's process."""
        answer = await self._connection.call(
            "Ops/GetStats", ops_pb2.GetStatsRequest(), ops_pb2.GetStatsResponse
        )
        return Stats(
            version=answer.version,
            uptime_ms=answer.uptime_ms,
            topics=answer.topics,
            partitions=answer.partitions,
            connections=answer.connections,
            messages_in=answer.messages_in,
            bytes_in=answer.bytes_in,
            messages_out=answer.messages_out,
            bytes_out=answer.bytes_out,
            disk_free_bytes=answer.disk_free_bytes,
        )


def _commits(commits: Sequence[Commit | Record]) -> list[consumer_pb2.PartitionCommit]:
    wanted = [c if isinstance(c, Commit) else Commit.after(c) for c in commits]
    return [
        consumer_pb2.PartitionCommit(partition=c.partition, epoch=c.epoch, offset=c.offset)
        for c in wanted
    ]


def _result(result: consumer_pb2.CommitResult) -> CommitResult:
    error = from_status(result.error) if result.HasField("error") else None
    return CommitResult(result.partition, result.position, error)
