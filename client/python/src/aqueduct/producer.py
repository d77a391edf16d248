"""Publishing many messages: gathered, pipelined, answered one by one.

One task owns the stream. It sends whatever has gathered since its last request, so a lone message
leaves at once and a flood travels in few requests; answers come in the order of the requests.
What is promised, and what is not, stands at `Producer`.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections import deque
from collections.abc import Generator
from datetime import datetime, timedelta
from types import TracebackType

from aqueduct._connection import Backoff, Connection, Stream
from aqueduct._proto import publisher_pb2, topics_pb2, types_pb2
from aqueduct.errors import (
    AqueductError,
    Closed,
    Internal,
    OutcomeUnknown,
    TopicNotFound,
    Unavailable,
    from_status,
)
from aqueduct.messages import Ack, Data, Headers, Message

_MESSAGES_PER_REQUEST = 1_000
_BYTES_PER_REQUEST = 256 << 10
# The broker does not read a stream on at 8,192; this is far below.
_REQUESTS_IN_FLIGHT = 256
# Longest wait for the end of a stream that cannot be written to.
_FAREWELL = 5.0
# So many messages are taken from a caller in a row before others get a turn.
_TURN = 256
# What a message takes in memory beside its bytes, about.
_OVERHEAD = 256

_log = logging.getLogger("aqueduct")

_PublishStream = Stream[publisher_pb2.PublishStreamResponse]


class Delivery:
    """A message on its way. Awaiting it gives its `Ack`, or raises why there is none."""

    __slots__ = ("_seen", "deadline", "future", "message", "sent", "size")

    def __init__(self, message: types_pb2.Message, deadline: float) -> None:
        self.message = message
        self.size = message.ByteSize()
        self.deadline = deadline
        self.sent = False
        self._seen = False
        self.future: asyncio.Future[Ack] = asyncio.get_running_loop().create_future()

    def __await__(self) -> Generator[object, None, Ack]:
        self._seen = True
        return asyncio.shield(self.future).__await__()

    def done(self) -> bool:
        """The outcome is there."""
        return self.future.done()

    @property
    def unseen_failure(self) -> AqueductError | None:
        """Why it failed, if it did and nobody has awaited it."""
        error = self.future.exception() if self.future.done() else None
        return error if isinstance(error, AqueductError) and not self._seen else None

    @property
    def repeatable(self) -> bool:
        """The broker would recognise it if it came twice."""
        return bool(self.message.dedup_id)

    def resolve(self, outcome: Ack | AqueductError) -> None:
        """Sets the outcome, once."""
        if self.future.done():
            return
        if isinstance(outcome, Ack):
            self.future.set_result(outcome)
        else:
            self.future.set_exception(outcome)
            # Who does not await it is told by `flush`, not by the garbage collector.
            self.future.exception()


class Producer:
    """Publishes to one topic; see `Client.producer`.

    An `Ack` means: on stable storage. Messages are sent in the order of `send`, and stored in that
    order in each partition. When the connection breaks, the producer connects again by itself;
    what had no answer yet is treated by the one rule:

    - A message with a dedup id is sent again, in its place, and the broker recognises it if it has
      stored it before. With `dedup=True` (the default) every message gets an id of its own, so
      nothing is lost or doubled. This holds within the topic's dedup window (10 minutes unless set
      otherwise) and as long as the topic gets no more partitions meanwhile, because the
      broker looks for an id in one partition.
    - A message without an id fails with `OutcomeUnknown`: it may have been stored or not. So it is
      with `dedup=False`, or if the topic's dedup window is 0.

    A message that is not answered within `delivery_timeout` fails; `is_unknown` of its error says
    whether it may still be stored. A message that is refused (too large, disk full) fails alone:
    those behind it go on. The order of a partition may differ from that of `send` when the
    partition answers that it is unavailable just now and a message is sent again behind others.
    """

    def __init__(
        self,
        connection: Connection,
        topic: str,
        *,
        dedup: bool,
        max_in_flight_bytes: int,
        delivery_timeout: float,
    ) -> None:
        self._connection = connection
        self._topic = topic
        self._dedup = dedup
        self._max_bytes = max_in_flight_bytes
        self._delivery_timeout = delivery_timeout
        self._id = uuid.uuid4().hex[:16]
        self._count = 0
        self._bytes = 0
        self._room = asyncio.Event()
        self._more = asyncio.Event()
        self._queue: deque[Delivery] = deque()
        self._in_flight: deque[list[Delivery]] = deque()
        self._unseen: list[Delivery] = []
        self._backoff = Backoff()
        self._closed = False
        self._driver: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Producer:
        if self._closed or self._driver is not None:
            raise Closed("a producer is opened once")
        if self._dedup:
            self._dedup = await self._has_dedup_window()
        self._driver = asyncio.create_task(self._drive(), name=f"aqueduct producer {self._topic}")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            await self.aclose()
        except AqueductError as failure:
            if error is None:
                raise
            _log.warning("publishing to %s: %s", self._topic, failure)

    async def send(
        self,
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
    ) -> Delivery:
        """Takes a message (a whole one, or its value) for sending; waits only for room.

        Awaiting what is returned waits for the acknowledgement. Who does not care for single
        messages calls `flush` now and then: it raises what nobody has seen.
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
        ).to_proto()
        if self._dedup and not message.dedup_id:
            message.dedup_id = f"{self._id}-{self._count}"
        self._count += 1
        delivery = Delivery(message, _now() + self._delivery_timeout)
        await self._wait_for_room(delivery.size + _OVERHEAD)
        self._bytes += delivery.size + _OVERHEAD
        self._queue.append(delivery)
        self._more.set()
        return delivery

    async def flush(self) -> None:
        """Waits until every message has its outcome.

        Raises the first failure since the last flush that nobody has awaited.
        """
        self._check_open()
        waiting = [delivery for batch in self._in_flight for delivery in batch]
        waiting.extend(self._queue)
        if waiting:
            await asyncio.wait([delivery.future for delivery in waiting])
        self._raise_unseen()

    async def aclose(self) -> None:
        """Flushes, then closes."""
        if self._driver is None:
            return
        self._closed = True
        self._more.set()
        driver, self._driver = self._driver, None
        try:
            await driver
        finally:
            self._room.set()
        self._raise_unseen()

    async def _has_dedup_window(self) -> bool:
        request = topics_pb2.GetTopicRequest(name=self._topic)
        try:
            topic = await self._connection.call("Topics/GetTopic", request, types_pb2.Topic)
        except TopicNotFound:
            # Publishing says so, or creates it with a window, as the broker is set.
            return True
        window = topic.config.dedup_window
        return bool(window.seconds or window.nanos)

    async def _wait_for_room(self, size: int) -> None:
        if self._count % _TURN == 0:
            await asyncio.sleep(0)
        while self._bytes > 0 and self._bytes + size > self._max_bytes:
            self._check_open()
            self._room.clear()
            await self._room.wait()
        self._check_open()

    def _check_open(self) -> None:
        if self._closed or self._driver is None:
            raise Closed("the producer is not open: use it with `async with`")
        if self._driver.done():
            raise Closed("the producer was ended from outside")

    def _raise_unseen(self) -> None:
        unseen, self._unseen = self._unseen, []
        for delivery in unseen:
            failure = delivery.unseen_failure
            if failure is not None:
                raise failure

    # The rest runs in the producer's own task.

    async def _drive(self) -> None:
        """Keeps a stream as long as there is something to send."""
        try:
            while not (self._closed and not self._queue and not self._in_flight):
                if not self._queue and not self._closed:
                    await self._wait_for_more()
                elif self._queue:
                    await self._serve()
        finally:
            self._give_up()

    async def _wait_for_more(self) -> None:
        self._more.clear()
        await self._more.wait()

    async def _serve(self) -> None:
        """One stream, from its opening to its end."""
        try:
            await self._session()
        except AqueductError as error:
            if error.is_unknown:
                self._take_back(error)
                self._expire()
                if self._queue:
                    await asyncio.sleep(self._backoff.next())
                return
            # The stream as a whole was refused, and everything in it.
            refused = [delivery for batch in self._in_flight for delivery in batch]
            self._in_flight.clear()
            for delivery in refused:
                self._finish(delivery, error)
            self._release(refused)

    async def _session(self) -> None:
        stream: _PublishStream = self._connection.stream(
            "Publisher/PublishStream",
            publisher_pb2.PublishStreamRequest,
            publisher_pb2.PublishStreamResponse,
        )
        halves: list[asyncio.Task[None]] = []
        try:
            opening = publisher_pb2.PublishOpen(topic=self._topic)
            await stream.write(publisher_pb2.PublishStreamRequest(open=opening))
            halves = [
                asyncio.create_task(self._write(stream)),
                asyncio.create_task(self._read(stream)),
            ]
            waiting = set(halves)
            while waiting and not any(half.done() and half.exception() for half in halves):
                _, waiting = await asyncio.wait(
                    waiting, timeout=0.5, return_when=asyncio.FIRST_COMPLETED
                )
                self._expire()
            # The reading half knows why the stream ended.
            await asyncio.wait(halves[1:], timeout=_FAREWELL)
            for half in reversed(halves):
                if half.done():
                    half.result()
        finally:
            for half in halves:
                half.cancel()
            stream.cancel()
            await asyncio.gather(*halves, return_exceptions=True)

    async def _write(self, stream: _PublishStream) -> None:
        """Sends what has gathered, until the producer is closed and nothing is left."""
        while True:
            full = len(self._in_flight) >= _REQUESTS_IN_FLIGHT
            if full or (not self._queue and not self._closed):
                await self._wait_for_more()
                continue
            batch = self._gather()
            if not batch and self._closed:
                return await stream.done_writing()
            if not batch:
                continue
            self._in_flight.append(batch)
            messages = publisher_pb2.PublishMessages(
                messages=[delivery.message for delivery in batch]
            )
            await stream.write(publisher_pb2.PublishStreamRequest(messages=messages))

    def _gather(self) -> list[Delivery]:
        """What goes into the next request."""
        batch: list[Delivery] = []
        size = 0
        while self._queue and len(batch) < _MESSAGES_PER_REQUEST:
            delivery = self._queue[0]
            if batch and size + delivery.size > _BYTES_PER_REQUEST:
                break
            self._queue.popleft()
            if delivery.done():
                self._release([delivery])
                continue
            delivery.sent = True
            size += delivery.size
            batch.append(delivery)
        return batch

    async def _read(self, stream: _PublishStream) -> None:
        """Takes answers, until the broker ends the stream."""
        while (answer := await stream.read()) is not None:
            self._backoff.reset()
            if not self._in_flight:
                raise Internal("the broker answered a request that was not sent")
            batch = self._in_flight.popleft()
            results = answer.results.results
            if len(results) != len(batch):
                raise Internal(f"{len(results)} results for {len(batch)} messages")
            self._settle(batch, [outcome(result) for result in results])
            self._more.set()
        if self._in_flight or not self._closed:
            raise Unavailable("the broker ended the stream")

    def _settle(self, batch: list[Delivery], outcomes: list[Ack | AqueductError]) -> None:
        """Gives messages their outcomes; what may be tried again is put back."""
        settled: list[Delivery] = []
        again: list[Delivery] = []
        failure: AqueductError | None = None
        for delivery, outcome in zip(batch, outcomes, strict=True):
            unknown = isinstance(outcome, AqueductError) and outcome.is_unknown
            if unknown and delivery.repeatable and not delivery.done():
                again.append(delivery)
                failure = failure or outcome  # type: ignore[assignment]
            else:
                self._finish(delivery, outcome)
                settled.append(delivery)
        self._release(settled)
        if failure is not None:
            self._in_flight.appendleft(again)
            raise Unavailable(failure.message, reason=failure.reason) from failure

    def _take_back(self, error: AqueductError) -> None:
        """After a break: what can be sent again goes back to its place, the rest is unknown."""
        batches, self._in_flight = self._in_flight, deque()
        lost: list[Delivery] = []
        for batch in reversed(batches):
            self._queue.extendleft(d for d in reversed(batch) if d.repeatable)
            lost.extend(delivery for delivery in batch if not delivery.repeatable)
        for delivery in lost:
            why = f"the connection broke: {error}"
            self._finish(delivery, OutcomeUnknown(why, code=error.code))
        self._release(lost)

    def _expire(self) -> None:
        """Fails what has waited for too long. All have the same patience, so the oldest tell."""
        now = _now()
        for batch in self._in_flight:
            if batch and batch[0].deadline > now:
                return
            for delivery in batch:
                self._fail_late(delivery, now)
        while self._queue and self._queue[0].deadline <= now:
            delivery = self._queue.popleft()
            self._fail_late(delivery, now)
            self._release([delivery])

    def _fail_late(self, delivery: Delivery, now: float) -> None:
        if delivery.deadline > now or delivery.done():
            return
        limit = self._delivery_timeout
        if delivery.sent:
            self._finish(delivery, OutcomeUnknown(f"not acknowledged within {limit:g} s"))
            return
        error = Unavailable(f"could not be sent within {limit:g} s")
        error.unknown = False
        self._finish(delivery, error)

    def _finish(self, delivery: Delivery, outcome: Ack | AqueductError) -> None:
        """Sets an outcome; a failure is kept for the next flush, if nobody has seen it then."""
        delivery.resolve(outcome)
        if isinstance(outcome, Ack):
            return
        if len(self._unseen) >= _TURN:
            self._unseen = [d for d in self._unseen if d.unseen_failure is not None]
        if len(self._unseen) < _TURN:
            self._unseen.append(delivery)

    def _release(self, deliveries: list[Delivery]) -> None:
        """These are in memory no more."""
        for delivery in deliveries:
            self._bytes -= delivery.size + _OVERHEAD
        if deliveries:
            self._room.set()

    def _give_up(self) -> None:
        """The task ends: nothing may wait for it for ever."""
        left = [delivery for batch in self._in_flight for delivery in batch]
        for delivery in [*left, *self._queue]:
            error = Closed("the producer was ended")
            error.unknown = delivery.sent
            self._finish(delivery, error)
        self._in_flight.clear()
        self._queue.clear()
        self._room.set()


def as_message(
    value: Message | Data | None,
    key: Data | None,
    headers: Headers,
    *,
    dedup_id: str | None,
    partition: int | None,
    time: datetime | None,
    delay: timedelta | float | None = None,
    deliver_at: datetime | None = None,
    ttl: timedelta | float | None = None,
    priority: int | None = None,
) -> Message:
    """A whole message, or one put together."""
    if isinstance(value, Message):
        return value
    return Message(
        value, key, headers, dedup_id, partition, time, delay, deliver_at, ttl, priority
    )


def _now() -> float:
    return time.monotonic()


def outcome(result: publisher_pb2.PublishResult) -> Ack | AqueductError:
    """What became of a message."""
    if result.HasField("error"):
        return from_status(result.error)
    return Ack(result.partition, result.offset, result.duplicate)
