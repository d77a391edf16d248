"""Reading a topic without a group.

Records of one partition come in the order of their offsets, each once, exactly from `start` to
`until`, also across a broken connection: after that, reading goes on at the next offset of each
partition by itself. Nothing runs in the background: the broker sends no more than the credit, and
a reader that is not asked gives no credit.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType

from aqueduct._connection import Backoff, Connection, Stream
from aqueduct._proto import reader_pb2, types_pb2
from aqueduct.errors import AqueductError, Unavailable
from aqueduct.messages import Record

# Credit in messages is never what ends first: bytes are.
_UNLIMITED_MESSAGES = 1 << 48


@dataclass(slots=True)
class _Cursor:
    """Where reading is in a partition."""

    next: int
    until: int | None
    done: bool = False


class _Source:
    """One call and its credit."""

    def __init__(self, stream: Stream[reader_pb2.ReadResponse], credit: int) -> None:
        self.stream = stream
        self._credit = credit
        self._taken = 0

    @classmethod
    async def open(
        cls, connection: Connection, request: reader_pb2.ReadRequest, credit: int
    ) -> _Source:
        stream = connection.stream(
            "Reader/ReadStream", reader_pb2.ReadStreamRequest, reader_pb2.ReadResponse
        )
        source = cls(stream, credit)
        await stream.write(reader_pb2.ReadStreamRequest(open=request))
        return source

    async def opened(self) -> None:
        """The broker has agreed. (Not earlier: a refusal would meet the credit on its way.)"""
        await self._grant(_UNLIMITED_MESSAGES, self._credit)

    async def _grant(self, messages: int, size: int) -> None:
        credit = reader_pb2.Credit(messages=messages, bytes=size)
        # If the stream has ended, the next read says why.
        with suppress(Unavailable):
            await self.stream.write(reader_pb2.ReadStreamRequest(credit=credit))

    async def taken(self, size: int) -> None:
        """So much was received; the broker may send as much again."""
        self._taken += size
        if self._taken > self._credit // 2:
            size, self._taken = self._taken, 0
            await self._grant(0, size)


class Reader:
    """The records of a topic, by `async for`; see `Client.read`.

    Dropping it ends the reading; `async with` or `aclose` do so at a place of your choice.
    """

    def __init__(
        self,
        connection: Connection,
        request: reader_pb2.ReadRequest,
        *,
        limit: int | None,
        buffer_bytes: int,
        retry_timeout: float,
    ) -> None:
        self._connection = connection
        self._request = request
        self._credit = max(1, buffer_bytes)
        self._retry_timeout = retry_timeout
        self._left = limit
        self._sources: list[_Source] = []
        self._cursors: dict[int, _Cursor] = {}
        self._records: deque[Record] = deque()
        self._ended = limit == 0
        self._backoff = Backoff()
        self._failing_since: float | None = None

    def __aiter__(self) -> Reader:
        return self

    async def __anext__(self) -> Record:
        while not self._records:
            if self._ended:
                raise StopAsyncIteration
            try:
                await self._step()
            except Unavailable as error:
                await self._recover(error)
            except AqueductError:
                self._end()
                raise
        return self._records.popleft()

    async def __aenter__(self) -> Reader:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Ends the reading."""
        self._records.clear()
        self._end()

    def __del__(self) -> None:
        for source in self._sources:
            source.stream.cancel()

    def _end(self) -> None:
        self._ended = True
        self._drop_sources()

    def _drop_sources(self) -> None:
        for source in self._sources:
            source.stream.cancel()
        self._sources = []

    async def _step(self) -> None:
        """Opens what is not open, or takes one answer."""
        if not self._sources:
            await self._open()
        readings = {source.stream.reading(): source for source in self._sources}
        done, _ = await asyncio.wait(readings, return_when=asyncio.FIRST_COMPLETED)
        source = readings[done.pop()]
        answer = await source.stream.read()
        if answer is None:
            self._ended_stream(source)
            return
        self._failing_since = None
        self._backoff.reset()
        size = self._receive(answer)
        if self._ended:
            return
        if answer.HasField("opened"):
            await source.opened()
        await source.taken(size)

    def _ended_stream(self, source: _Source) -> None:
        """The broker has nothing more for this call."""
        self._sources.remove(source)
        if self._sources:
            return
        open_ended = any(not cursor.done for cursor in self._cursors.values())
        if (open_ended or not self._cursors) and self._left != 0:
            raise Unavailable("the broker ended the stream")
        self._end()

    def _receive(self, answer: reader_pb2.ReadResponse) -> int:
        """Takes an answer in; returns its weight in the account of credit."""
        kind = answer.WhichOneof("kind")
        if kind == "opened":
            for span in answer.opened.ranges:
                until = span.until if span.HasField("until") else None
                self._cursors.setdefault(span.partition, _Cursor(getattr(span, "from"), until))
        elif kind == "caught_up":
            cursor = self._cursors[answer.caught_up.partition]
            cursor.done = cursor.done or answer.caught_up.done
            if all(cursor.done for cursor in self._cursors.values()):
                self._end()
        elif kind == "records":
            return self._receive_records(answer.records.records)
        return 0

    def _receive_records(self, records: Iterable[types_pb2.Record]) -> int:
        size = 0
        for record in records:
            taken = Record.from_proto(record)
            size += taken.weight
            cursor = self._cursors[record.partition]
            if record.offset < cursor.next or self._left == 0:
                continue
            cursor.next = record.offset + 1
            self._records.append(taken)
            if self._left is not None:
                self._left -= 1
        if self._left == 0:
            self._end()
        return size

    async def _open(self) -> None:
        """Asks for what is missing: as at first if nothing is known of the partitions yet, else
        with a call for each, since each is somewhere else."""
        requests = list(self._requests())
        share = max(1, self._credit // len(requests))
        for request in requests:
            self._sources.append(await _Source.open(self._connection, request, share))

    def _requests(self) -> Iterable[reader_pb2.ReadRequest]:
        if not self._cursors:
            yield self._request
            return
        for partition, cursor in self._cursors.items():
            if cursor.done:
                continue
            request = reader_pb2.ReadRequest(
                topic=self._request.topic,
                partitions=[partition],
                follow=self._request.follow,
                max_messages=self._left or 0,
            )
            getattr(request, "from").offset = cursor.next
            if cursor.until is not None:
                request.until.offset = cursor.until
            yield request

    async def _recover(self, error: Unavailable) -> None:
        """Waits before the next attempt, unless it has failed for too long."""
        self._drop_sources()
        now = time.monotonic()
        since = self._failing_since = self._failing_since or now
        if now - since > self._retry_timeout:
            self._end()
            raise error
        await asyncio.sleep(self._backoff.next())
