"""Consuming as a member of a group.

Three tasks beside the caller: one reads the stream, one writes it (credit, commits, released
partitions, heartbeats), one calls the caller back about rebalances. What is owned and how far it
is, is bookkeeping of its own (`_ownership`).
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
import uuid
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType

from aqueduct._connection import Backoff, Connection, Stream
from aqueduct._ownership import Ownership, Position
from aqueduct._proto import consumer_pb2, reader_pb2
from aqueduct.errors import (
    AqueductError,
    Closed,
    CommitBackwards,
    DeliveryStopped,
    Fenced,
    Internal,
    InvalidArgument,
    MemberUnknown,
    TopicNotFound,
    Unavailable,
    from_status,
)
from aqueduct.messages import Record

_log = logging.getLogger("aqueduct")

# Why partitions are lost that are delivered to somebody nevertheless.
_MOVED = ("SEEK", "REVOKED")
# Longest wait for the broker to see a member off.
_FAREWELL = 5.0


@dataclass(slots=True, frozen=True)
class Assignment:
    """A partition that the member has got."""

    partition: int
    epoch: int
    position: int
    """The first offset that will be delivered."""
    skipped: tuple[int, int] | None = None
    """Retention had overtaken the position: these offsets (the second one exclusive) were skipped
    by the group's policy."""

    @classmethod
    def from_proto(cls, assignment: consumer_pb2.Assignment) -> Assignment:
        """As it was received."""
        skipped = None
        if assignment.HasField("skipped"):
            skipped = (getattr(assignment.skipped, "from"), assignment.skipped.to)
        return cls(assignment.partition, assignment.epoch, assignment.position, skipped)


@dataclass(slots=True, frozen=True)
class Assigned:
    """The member has got these partitions."""

    assignments: tuple[Assignment, ...]


@dataclass(slots=True, frozen=True)
class Revoking:
    """These partitions go to somebody else as soon as what was delivered of them is committed, or
    after `deadline` seconds. Nothing more of them will come."""

    partitions: tuple[int, ...]
    deadline: float


@dataclass(slots=True, frozen=True)
class Lost:
    """These partitions are gone; commits for them are refused.

    Reasons: "SEEK" (the group was moved: they come again), "REVOKED" (not given back in time),
    "DISCONNECTED" (the connection broke: they come again, or go to others), "TOPIC_DELETED", and
    those of `DeliveryStopped`, which is also raised.
    """

    partitions: tuple[int, ...]
    reason: str


RebalanceEvent = Assigned | Revoking | Lost
OnRebalance = Callable[[RebalanceEvent], Awaitable[None] | None]

_ConsumeStream = Stream[consumer_pb2.ConsumeResponse]
_Committing = tuple[list[Position], "asyncio.Future[list[consumer_pb2.CommitResult]]"]


@dataclass(slots=True, frozen=True)
class Options:
    """How to consume; see `Client.consumer`."""

    auto_commit: bool
    commit_interval: float
    prefetch: int
    prefetch_bytes: int
    retry_timeout: float
    on_rebalance: OnRebalance | None


class Consumer:
    """A member of a group; see `Client.consumer`. Used with `async with`, then `async for`."""

    def __init__(
        self, connection: Connection, opening: consumer_pb2.ConsumeOpen, options: Options
    ) -> None:
        if not opening.member_id:
            # Ours and not the broker's, so that we can come back even if its answer was lost.
            opening.member_id = uuid.uuid4().hex
        self._connection = connection
        self._opening = opening
        self._options = options
        self._ownership = Ownership(auto_commit=options.auto_commit)
        self._records: deque[Record] = deque()
        self._problems: deque[AqueductError] = deque()
        self._failure: AqueductError | None = None
        self._arrived = asyncio.Event()
        self._chores = asyncio.Event()
        self._events: asyncio.Queue[RebalanceEvent] = asyncio.Queue()
        self._commits: deque[_Committing] = deque()
        self._unanswered: deque[_Committing] = deque()
        self._taken = [0, 0]
        self._heartbeat = 5.0
        self._opened: asyncio.Future[None] | None = None
        self._closing = False
        self._backoff = Backoff()
        self._failing_since: float | None = None
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def member_id(self) -> str:
        """The name of this member in its group."""
        return self._opening.member_id

    @property
    def partitions(self) -> list[int]:
        """What this member has now."""
        return self._ownership.partitions()

    async def __aenter__(self) -> Consumer:
        if self._tasks or self._closing:
            raise Closed("a consumer is opened once")
        self._opened = asyncio.get_running_loop().create_future()
        self._tasks = [
            asyncio.create_task(self._drive(), name=f"aqueduct consumer {self.member_id}")
        ]
        if self._options.on_rebalance is not None:
            self._tasks.append(asyncio.create_task(self._listen(self._options.on_rebalance)))
        try:
            await self._opened
        except BaseException:
            await self._end_tasks()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __aiter__(self) -> Consumer:
        return self

    async def __anext__(self) -> Record:
        self._ownership.finish()
        if self._ownership.leaving():
            self._chores.set()
        while True:
            if self._problems:
                raise self._problems.popleft()
            if self._failure is not None:
                raise self._failure
            if self._closing or not self._tasks:
                raise StopAsyncIteration
            while self._records:
                record = self._records.popleft()
                self._give_credit(record)
                if self._ownership.hand_out(record):
                    return record
            self._arrived.clear()
            await self._arrived.wait()

    async def commit(self, record: Record | None = None) -> None:
        """Says that a record, and with it all before it in its partition, is done; without one:
        all records that this consumer has given out. Returns when that is on stable storage.

        Raises `CommitFenced` or `NotAssigned` (both `Fenced`) if the partition went to somebody
        else meanwhile, `Unavailable` if the connection broke before the answer. In both cases
        the records come again if the commit was not stored: go on with the loop.
        """
        if record is None:
            positions = self._ownership.returned()
        elif record.epoch == 0:
            raise InvalidArgument("the record does not come from a group")
        else:
            positions = [Position(record.partition, record.epoch, record.offset + 1)]
        if not positions:
            return
        if self._failure is not None:
            raise self._failure
        if self._closing or not self._tasks:
            raise Closed("the consumer is not open: use it with `async with`")
        answered: asyncio.Future[list[consumer_pb2.CommitResult]] = (
            asyncio.get_running_loop().create_future()
        )
        self._commits.append((positions, answered))
        self._chores.set()
        results = await asyncio.shield(answered)
        for result in results:
            if result.HasField("error"):
                raise from_status(result.error)

    async def aclose(self) -> None:
        """Commits what is done (with automatic commit) and leaves the group, so that others get
        the partitions at once; those of a static member (`instance_id`) wait for it until the
        session time-out."""
        if self._closing or not self._tasks:
            return
        self._closing = True
        self._arrived.set()
        self._chores.set()
        await asyncio.wait(self._tasks[:1], timeout=_FAREWELL)
        await self._end_tasks()

    async def _end_tasks(self) -> None:
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._records.clear()
        self._arrived.set()

    # What follows runs in the consumer's own tasks.

    async def _drive(self) -> None:
        """Keeps the member in its group until it is closed or cannot be any more."""
        try:
            while True:
                try:
                    await self._session()
                    return
                except (Unavailable, MemberUnknown) as error:
                    # Unknown is who was not heard of for too long: it joins again. Who was
                    # removed does not.
                    self._disconnected(error)
                    await self._wait_after(error)
        except AqueductError as error:
            self._fail(error)
        except Exception as error:
            _log.exception("the consumer of %s ended", self._opening.topic)
            self._fail(Internal(f"the consumer ended: {error!r}"))
        finally:
            self._disconnected(Closed("the consumer was closed"))

    async def _wait_after(self, error: AqueductError) -> None:
        now = time.monotonic()
        self._failing_since = self._failing_since or now
        if self._closing or now - self._failing_since > self._options.retry_timeout:
            raise error
        _log.debug("consuming %s: %s; connecting again", self._opening.topic, error)
        await asyncio.sleep(self._backoff.next())

    def _fail(self, error: AqueductError) -> None:
        self._failure = error
        if self._opened is not None and not self._opened.done():
            self._opened.set_exception(error)
        self._arrived.set()

    def _disconnected(self, error: AqueductError) -> None:
        """The stream is gone, and what was assigned over it."""
        self._records.clear()
        lost = self._ownership.take_away(self._ownership.partitions())
        if lost and not self._closing:
            self._tell(Lost(tuple(lost), "DISCONNECTED"))
        waiting = list(self._unanswered)
        self._unanswered.clear()
        if isinstance(error, Closed):
            waiting.extend(self._commits)
            self._commits.clear()
        for _, answered in waiting:
            if not answered.done():
                answered.set_exception(error)
                # An automatic commit has nobody to tell.
                answered.exception()

    async def _session(self) -> None:
        stream: _ConsumeStream = self._connection.stream(
            "Consumer/Consume", consumer_pb2.ConsumeRequest, consumer_pb2.ConsumeResponse
        )
        halves: list[asyncio.Task[None]] = []
        try:
            await stream.write(consumer_pb2.ConsumeRequest(open=self._opening))
            # Before anything else is sent: a refusal would meet it on its way.
            first = await stream.read()
            if first is not None:
                self._receive(first)
            self._taken = [self._options.prefetch, self._options.prefetch_bytes]
            halves = [
                asyncio.create_task(self._read(stream)),
                asyncio.create_task(self._write(stream)),
            ]
            waiting = set(halves)
            while waiting and not any(half.done() and half.exception() for half in halves):
                _, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                if halves[0].done():
                    break
            # The reading half knows why the stream ended.
            await asyncio.wait(halves[:1], timeout=_FAREWELL)
            for half in halves:
                if half.done():
                    half.result()
        finally:
            for half in halves:
                half.cancel()
            stream.cancel()
            await asyncio.gather(*halves, return_exceptions=True)

    async def _read(self, stream: _ConsumeStream) -> None:
        try:
            while (answer := await stream.read()) is not None:
                self._receive(answer)
        except AqueductError:
            if self._closing and not self._unanswered:
                return
            raise
        if not self._closing:
            raise Unavailable("the broker ended the stream")

    def _receive(self, answer: consumer_pb2.ConsumeResponse) -> None:
        kind = answer.WhichOneof("kind")
        if kind == "records":
            self._receive_records(answer.records)
        elif kind == "commit_results":
            self._receive_results(answer.commit_results.results)
        elif kind == "assigned":
            self._receive_assigned(answer.assigned)
        elif kind == "revoking":
            self._receive_revoking(answer.revoking)
        elif kind == "lost":
            self._receive_lost(answer.lost)
        elif kind == "opened":
            self._receive_opened(answer.opened)

    def _receive_opened(self, opened: consumer_pb2.ConsumeOpened) -> None:
        self._opening.member_id = opened.member_id
        # Whoever deletes the group while we are away does not want it back.
        self._opening.must_exist = True
        interval = opened.heartbeat_interval
        self._heartbeat = max(0.05, interval.seconds + interval.nanos / 1e9)
        self._failing_since = None
        self._backoff.reset()
        self._chores.set()
        if self._opened is not None and not self._opened.done():
            self._opened.set_result(None)

    def _receive_assigned(self, assigned: consumer_pb2.Assigned) -> None:
        assignments = tuple(Assignment.from_proto(a) for a in assigned.assignments)
        for assignment in assignments:
            number = assignment.partition
            self._ownership.assign(number, assignment.epoch, assignment.position)
            if assignment.skipped is not None:
                first, end = assignment.skipped
                _log.warning(
                    "group %s of %s: retention had overtaken partition %d; "
                    "offsets %d to %d were skipped",
                    self._opening.group, self._opening.topic, number, first, end - 1,
                )  # fmt: skip
        self._tell(Assigned(assignments))

    def _receive_revoking(self, revoking: consumer_pb2.Revoking) -> None:
        deadline = revoking.deadline.seconds + revoking.deadline.nanos / 1e9
        by = time.monotonic() + deadline * 0.9
        told = self._options.on_rebalance is None
        asked = self._ownership.ask_back(revoking.partitions, by, told=told)
        self._drop(asked)
        self._tell(Revoking(tuple(asked), deadline))
        self._chores.set()

    def _receive_lost(self, lost: consumer_pb2.Lost) -> None:
        self._drop(lost.partitions)
        self._ownership.take_away(lost.partitions)
        event = Lost(tuple(lost.partitions), lost.reason)
        self._tell(event)
        topic = self._opening.topic
        if lost.reason == "TOPIC_DELETED":
            raise TopicNotFound(f'topic "{topic}" was deleted', reason="TOPIC_NOT_FOUND")
        if lost.reason not in _MOVED:
            self._problems.append(DeliveryStopped(topic, event.partitions, lost.reason))
            self._arrived.set()

    def _receive_records(self, records: reader_pb2.Records) -> None:
        for record in records.records:
            epoch = self._ownership.epoch(record.partition)
            self._records.append(Record.from_proto(record, epoch or 0))
        self._arrived.set()

    def _receive_results(self, results: Sequence[consumer_pb2.CommitResult]) -> None:
        if not self._unanswered:
            raise Internal("the broker answered a commit that was not sent")
        positions, answered = self._unanswered.popleft()
        if len(results) != len(positions):
            raise Internal(f"{len(results)} results for {len(positions)} commits")
        for position, result in zip(positions, results, strict=True):
            self._settle(position, result)
        if not answered.done():
            answered.set_result(list(results))
        self._chores.set()

    def _settle(self, position: Position, result: consumer_pb2.CommitResult) -> None:
        error = from_status(result.error) if result.HasField("error") else None
        if error is None or isinstance(error, CommitBackwards):
            self._ownership.committed(position)
        elif isinstance(error, Fenced):
            _log.debug("partition %d went elsewhere: %s", position.partition, error)
        else:
            self._ownership.not_committed(position)
            _log.warning("commit of partition %d: %s", position.partition, error)

    def _drop(self, partitions: Iterable[int]) -> None:
        """Records of these that wait for the caller are of no use any more."""
        gone = set(partitions)
        for record in self._records:
            if record.partition in gone:
                self._give_credit(record)
        self._records = deque(r for r in self._records if r.partition not in gone)

    def _give_credit(self, record: Record) -> None:
        taken = self._taken
        taken[0] += 1
        taken[1] += record.weight
        if self._credit_due():
            self._chores.set()

    def _credit_due(self) -> bool:
        messages, size = self._taken
        half, half_bytes = self._options.prefetch / 2, self._options.prefetch_bytes / 2
        return messages >= half or size >= half_bytes

    def _tell(self, event: RebalanceEvent) -> None:
        if self._options.on_rebalance is not None:
            self._events.put_nowait(event)

    async def _listen(self, on_rebalance: OnRebalance) -> None:
        """Calls the caller back, one event after the other."""
        while True:
            event = await self._events.get()
            try:
                called = on_rebalance(event)
                if inspect.isawaitable(called):
                    await called
            except Exception:
                _log.exception("on_rebalance failed at %s", event)
            if isinstance(event, Revoking):
                self._ownership.told(event.partitions)
                self._chores.set()

    async def _write(self, stream: _ConsumeStream) -> None:
        """Does what is due, then waits for more to do; says now and then that the member lives."""
        interval = self._options.commit_interval
        next_commit = time.monotonic() + interval
        next_sign = time.monotonic() + self._heartbeat
        while True:
            self._chores.clear()
            now = time.monotonic()
            urgent = self._closing or self._ownership.leaving()
            sent = False
            for request in self._requests(now, commit=urgent or now >= next_commit):
                await stream.write(request)
                sent = True
            if now >= next_commit:
                next_commit = now + interval
            if sent:
                next_sign = now + self._heartbeat
            elif now >= next_sign:
                beat = consumer_pb2.ConsumeRequest(heartbeat=consumer_pb2.Heartbeat())
                await stream.write(beat)
                next_sign = now + self._heartbeat
            if self._closing and not self._commits and not self._unanswered:
                # An answer may have come while something else was written: then the last commit
                # has not been sent yet.
                if not (self._options.auto_commit and self._ownership.has_due()):
                    return await stream.done_writing()
                continue
            next_sign = min(next_sign, now + self._heartbeat)
            until = min(next_sign, next_commit) if self._options.auto_commit else next_sign
            if self._ownership.leaving():
                until = min(until, now + 0.1)
            await self._wait_for_chores(until - now)

    async def _wait_for_chores(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._chores.wait(), max(0.0, seconds))
        except asyncio.TimeoutError:
            return

    def _requests(self, now: float, *, commit: bool) -> Iterable[consumer_pb2.ConsumeRequest]:
        """What is to be sent now."""
        if self._credit_due():
            messages, size = self._taken
            self._taken[0], self._taken[1] = 0, 0
            credit = reader_pb2.Credit(messages=messages, bytes=size)
            yield consumer_pb2.ConsumeRequest(credit=credit)
        while self._commits:
            yield self._committing(*self._commits.popleft())
        # One automatic commit at a time: the next one takes along what has come meanwhile.
        if commit and self._options.auto_commit and not self._unanswered:
            due = self._ownership.due()
            if due:
                yield self._committing(due, asyncio.get_running_loop().create_future())
        released = self._ownership.release(now)
        if released:
            given_back = consumer_pb2.Released(partitions=released)
            yield consumer_pb2.ConsumeRequest(released=given_back)

    def _committing(
        self,
        positions: list[Position],
        answered: asyncio.Future[list[consumer_pb2.CommitResult]],
    ) -> consumer_pb2.ConsumeRequest:
        self._unanswered.append((positions, answered))
        commits = [
            consumer_pb2.PartitionCommit(partition=p.partition, epoch=p.epoch, offset=p.offset)
            for p in positions
        ]
        return consumer_pb2.ConsumeRequest(commit=consumer_pb2.Commits(commits=commits))
