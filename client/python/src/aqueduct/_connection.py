"""One channel to a broker: addresses, calls with a deadline, and the wait between attempts.

Everything that names grpc for calls is here; the other modules know messages and errors.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Generic, TypeVar

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from aqueduct.errors import AqueductError, Closed, InvalidArgument, Timeout, Unavailable, from_rpc

DEFAULT_SERVER = "127.0.0.1:7320"
DEFAULT_PORT = 7320

# Room for a full answer of large messages, both ways.
_MAX_TRANSPORT_MESSAGE = 32 << 20

_OPTIONS: list[tuple[str, Any]] = [
    ("grpc.max_receive_message_length", _MAX_TRANSPORT_MESSAGE),
    ("grpc.max_send_message_length", _MAX_TRANSPORT_MESSAGE),
    # A broker that stands still or is cut off is noticed, also on an idle stream.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    # Come back soon after a restart of the broker.
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # A client's connection is its own.
    ("grpc.use_local_subchannel_pool", 1),
]

# The details of the status that grpc.aio gives a call when a write fails.
_FAILED_WRITE = "Internal error from Core"

Answer = TypeVar("Answer", bound=Message)

Seconds = float | timedelta
"""A length of time."""


def to_seconds(time: Seconds) -> float:
    """The number of seconds."""
    return time.total_seconds() if isinstance(time, timedelta) else float(time)


def to_duration(time: Seconds) -> Duration:
    """As it travels."""
    duration = Duration()
    try:
        duration.FromMicroseconds(round(to_seconds(time) * 1e6))
    except (ValueError, OverflowError, TypeError) as error:
        raise InvalidArgument(f"this cannot be a duration: {time}: {error}") from error
    return duration


def request(build: Callable[[], Answer]) -> Answer:
    """Builds a message from a caller's values, which may not fit."""
    try:
        return build()
    except (TypeError, ValueError) as error:
        raise InvalidArgument(f"the request cannot be built: {error}") from error


def parse_address(address: str) -> str:
    """`host:port`, from that or `http://host:port` or `aqueduct://host:port`; the port may be
    missing."""
    text = address.strip()
    for scheme in ("http://", "aqueduct://"):
        text = text.removeprefix(scheme)
    text = text.removesuffix("/")
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):
        host, port = text, str(DEFAULT_PORT)
    fits = port.isdecimal() and 0 < int(port) < 65536
    if not host or not fits or any(mark in text for mark in "/ ,@?#"):
        raise InvalidArgument(f'"{address}" is not an address: host:port is wanted')
    return f"{host}:{port}"


class Backoff:
    """How long to wait before trying again: exponential, with full jitter."""

    def __init__(self, least: float = 0.05, most: float = 2.0) -> None:
        self._least, self._most, self._failures = least, most, 0

    def next(self) -> float:
        """The next wait in seconds."""
        ceiling = min(self._most, self._least * 2 ** min(self._failures, 16))
        self._failures += 1
        return random.uniform(0, ceiling)

    def reset(self) -> None:
        """It worked."""
        self._failures = 0


class Stream(Generic[Answer]):
    """One call with requests and answers. One task may read, any number may write.

    A caller that is cancelled while it waits here does not end the call: what was begun goes on,
    and the next read takes its result.
    """

    def __init__(self, call: Any) -> None:
        self._call = call
        self._writing = asyncio.Lock()
        self._reading: asyncio.Task[Any] | None = None

    async def write(self, message: Message) -> None:
        """Sends a request, when the transport has room."""
        await asyncio.shield(asyncio.ensure_future(self._write(message)))

    async def _write(self, message: Message | None) -> None:
        async with self._writing:
            try:
                await (self._call.done_writing() if message is None else self._call.write(message))
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:
                # Why, is for the next read to say.
                raise Unavailable("the stream has ended") from error
            except asyncio.CancelledError as error:
                raise Unavailable("the stream was cancelled") from error

    async def done_writing(self) -> None:
        """Closes the side of the requests."""
        await asyncio.shield(asyncio.ensure_future(self._write(None)))

    async def read(self) -> Answer | None:
        """The next answer; None after the last."""
        reading = self.reading()
        await asyncio.wait({reading})
        self._reading = None
        return reading.result()

    def reading(self) -> asyncio.Task[Answer | None]:
        """The task that waits for the next answer, to be waited for together with others."""
        if self._reading is None:
            self._reading = asyncio.ensure_future(_read(self._call))
        return self._reading

    def cancel(self) -> None:
        """Ends the call at once."""
        self._call.cancel()
        if self._reading is not None:
            # Its outcome is of no interest any more, and must not be reported as lost.
            self._reading.add_done_callback(lambda task: task.cancelled() or task.exception())
            self._reading = None


async def _read(call: Any) -> Any:
    # A function and not a method: the task must not keep the stream alive that nobody reads.
    try:
        answer = await call.read()
    except grpc.aio.AioRpcError as error:
        if error.details() != _FAILED_WRITE:
            raise from_rpc(error) from error
        return await _real_end(call)
    except asyncio.CancelledError as error:
        raise Unavailable("the stream was cancelled") from error
    return None if answer is grpc.aio.EOF else answer


async def _real_end(call: Any) -> None:
    """Waits for the status that the broker gave a stream to which a write has failed.

    A write to a stream that has just ended sets a status of the library's own, until the broker's
    one, which is under way, takes its place.
    """
    for _ in range(100):
        if await call.details() != _FAILED_WRITE:
            break
        await asyncio.sleep(0.02)
    else:
        raise Unavailable("the stream has ended")
    code, details = await call.code(), await call.details()
    if code is not grpc.StatusCode.OK:
        trailing = await call.trailing_metadata()
        raise from_rpc(grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailing, details))


class Connection:
    """A channel that connects when it is needed, and again when it broke."""

    def __init__(self, address: str, connect_timeout: float, request_timeout: float) -> None:
        self.address = parse_address(address)
        self._connect_timeout = connect_timeout
        self._timeout = request_timeout
        self._channel: grpc.aio.Channel | None = None
        self._closed = False

    def _open(self) -> grpc.aio.Channel:
        if self._closed:
            raise Closed("the client is closed")
        if self._channel is None:
            # Here and not earlier, because a channel belongs to a running loop.
            self._channel = grpc.aio.insecure_channel(self.address, options=_OPTIONS)
        return self._channel

    async def ready(self) -> None:
        """Waits for the broker to answer."""
        channel = self._open()
        if channel.get_state(try_to_connect=True) is grpc.ChannelConnectivity.READY:
            return
        limit = self._connect_timeout
        try:
            await asyncio.wait_for(channel.channel_ready(), limit)
        except asyncio.TimeoutError as timeout:
            error = Unavailable(f"nobody answers at {self.address} within {limit:g} s")
            error.unknown = False
            raise error from timeout
        except grpc.aio.UsageError as usage:
            raise Closed("the client is closed") from usage

    async def call(
        self, method: str, message: Message, answer: type[Answer], *, patience: float = 0.0
    ) -> Answer:
        """One request and its answer; `method` is "Service/Method", `patience` what the broker
        may wait beyond the time-out of requests."""
        # A broker that is being started again is waited for; nothing has been sent then.
        await self.ready()
        call = self._open().unary_unary(
            f"/aqueduct.v1.{method}",
            request_serializer=type(message).SerializeToString,
            response_deserializer=answer.FromString,
        )
        try:
            response: Answer = await call(message, timeout=self._timeout + patience)
        except grpc.aio.AioRpcError as error:
            raise self._explain(error) from error
        except grpc.aio.UsageError as error:
            raise Closed("the client is closed") from error
        return response

    def stream(self, method: str, sent: type[Message], answer: type[Answer]) -> Stream[Answer]:
        """Opens a stream of requests and answers."""
        call = self._open().stream_stream(
            f"/aqueduct.v1.{method}",
            request_serializer=sent.SerializeToString,
            response_deserializer=answer.FromString,
        )
        return Stream(call())

    async def close(self) -> None:
        """Ends every call and the connection."""
        self._closed = True
        if self._channel is not None:
            await self._channel.close()

    def _explain(self, error: grpc.aio.AioRpcError) -> AqueductError:
        told = from_rpc(error)
        if isinstance(told, Timeout):
            return Timeout(f"no answer within {self._timeout:g} s", code=told.code)
        return told
