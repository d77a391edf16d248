"""A worker of a queue group: calls a function with each job and says the verdicts.

Three tasks beside the handlers: one leases, one sends verdicts (those that come together leave
together), one renews leases. When a lease ends without word from the broker, a timer of its job
says so.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING

from aqueduct._connection import Backoff, Seconds, to_seconds
from aqueduct.errors import (
    AqueductError,
    Closed,
    Exhausted,
    LeaseLost,
    NotFound,
    OutcomeUnknown,
    Timeout,
    Unavailable,
)
from aqueduct.jobs import Handler, Job, Settlement, Verdict

if TYPE_CHECKING:
    from aqueduct.queue import Queue

_log = logging.getLogger("aqueduct")

# One call waits so long for messages: a worker that stops waits for the end of it, because what
# it brings would be held by nobody.
_POLL = 2.0
# How old the knowledge of the policy's lease may get.
_POLICY_AGE = 10.0
# The broker takes no more verdicts at a time.
_VERDICTS = 10_000
# The broker accepts no longer wait, in seconds.
_LONGEST_WAIT = 30 * 86_400.0
# What passes: the same request may succeed later.
_PASSING = (Unavailable, Timeout, OutcomeUnknown, Exhausted)


class Failure(Exception):
    """Raised by a handler: says what is to become of the job."""

    def __init__(self, verdict: Verdict, why: str) -> None:
        """Is for this module; see the class methods."""
        super().__init__(why)
        self.verdict = verdict

    @classmethod
    def retry(cls, error: object, *, after: Seconds | None = None) -> Failure:
        """The attempt failed; the next comes after so long (30 days at most), or as the policy's
        backoff says."""
        wait = None if after is None else min(max(to_seconds(after), 0.0), _LONGEST_WAIT)
        return cls(Verdict.retry(_kept(str(error)), after=wait), str(error))

    @classmethod
    def dead_letter(cls, error: object) -> Failure:
        """It can never succeed: a dead letter."""
        return cls(Verdict.dead_letter(_kept(str(error))), str(error))

    @classmethod
    def release(cls) -> Failure:
        """Not now and not here: given back without counting as a failed attempt."""
        return cls(Verdict.release(), "released")


@dataclass(slots=True)
class WorkerStats:
    """What a worker has done so far, in jobs."""

    done: int = 0
    failed: int = 0
    """Verdicts of handlers other than done: retries, releases, dead letters."""
    returned: int = 0
    """Given back when the worker ended."""
    lost: int = 0
    """Leases that were over before the verdict took effect, or with an unknown outcome."""


@dataclass(slots=True, frozen=True)
class Options:
    """How to work; see `Queue.worker`."""

    concurrency: int
    client_id: str
    retry_timeout: float
    grace: float


@dataclass(slots=True, eq=False)
class _Held:
    """A job of this worker, from its arrival to the answer to its verdict."""

    job: Job
    expires: float
    """By the loop's clock."""
    renew_at: float
    timer: asyncio.TimerHandle | None = None
    task: asyncio.Task[None] | None = None
    is_lost: bool = False
    verdict: Verdict | None = None
    """What the handler came to, while the broker has not answered."""
    answered: asyncio.Event = field(default_factory=asyncio.Event)


class Worker:
    """A running worker; see `Queue.worker`. Used with `async with`."""

    def __init__(self, queue: Queue, handler: Handler, options: Options) -> None:
        self._queue, self._handler, self._options = queue, handler, options
        self._stats = WorkerStats()
        self._held: set[_Held] = set()
        self._outbox: list[_Held] = []
        self._chores = asyncio.Event()
        self._changed = asyncio.Event()
        self._stopping = False
        self._lease = 30.0
        self._lease_known_at: float | None = None
        self._pulling: asyncio.Task[None] | None = None
        self._helpers: list[asyncio.Task[None]] = []
        self._renewals: set[asyncio.Task[None]] = set()

    @property
    def stats(self) -> WorkerStats:
        """What was done so far."""
        return self._stats

    @property
    def running(self) -> int:
        """Jobs that are held now."""
        return len(self._held)

    async def __aenter__(self) -> Worker:
        if self._pulling is not None:
            raise Closed("a worker is started once")
        self._pulling = asyncio.create_task(self._pull(), name="aqueduct worker")
        self._helpers = [
            asyncio.create_task(self._send_verdicts()),
            asyncio.create_task(self._renew()),
        ]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.shutdown()

    async def ended(self) -> None:
        """Waits until the worker cannot go on, and raises why: the group is gone, or the broker
        for too long. Returns if it was shut down."""
        if self._pulling is None:
            raise Closed("the worker was not started: use it with `async with`")
        await asyncio.shield(self._pulling)

    async def run_until(self, stop: Awaitable[object]) -> None:
        """Works until `stop` is done, then shuts down:

        await queue.worker(handle).run_until(stopped.wait())
        """
        async with self:
            stopped, ended = asyncio.ensure_future(stop), asyncio.ensure_future(self.ended())
            try:
                await asyncio.wait({stopped, ended}, return_when=asyncio.FIRST_COMPLETED)
                if ended.done():
                    ended.result()
            finally:
                stopped.cancel()
                ended.cancel()

    async def shutdown(self, grace: Seconds | None = None) -> None:
        """Takes nothing new, lets running handlers go on for `grace` (that of the options, if none
        is given), gives back the rest, and waits for the last answers. None of it counts as
        failed."""
        if self._stopping or self._pulling is None:
            return
        self._stopping = True
        self._changed.set()
        await asyncio.wait({self._pulling})
        tasks = {held.task for held in self._held if held.task is not None}
        if tasks:
            limit = self._options.grace if grace is None else to_seconds(grace)
            _, late = await asyncio.wait(tasks, timeout=limit)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late)
        # Each ends with its answer, or with its lease. Some tasks were ended before they began.
        for held in list(self._held):
            if held.verdict is None:
                self._say(held, Verdict.release(), "returned")
        for held in list(self._held):
            await held.answered.wait()
        ending = [*self._helpers, *self._renewals]
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)

    # What follows runs in the worker's own tasks.

    async def _pull(self) -> None:
        backoff, failing_since = Backoff(), None
        while not self._stopping:
            free = self._options.concurrency - len(self._held)
            if free <= 0:
                self._changed.clear()
                await self._changed.wait()
                continue
            try:
                await self._look_at_policy()
                jobs = await self._queue.lease(free, wait=_POLL, client_id=self._options.client_id)
            except _PASSING as error:
                now = time.monotonic()
                failing_since = failing_since or now
                if now - failing_since > self._options.retry_timeout:
                    raise
                _log.debug("working in %s: %s; trying again", self._queue.group, error)
                await asyncio.sleep(backoff.next())
                continue
            backoff.reset()
            failing_since = None
            for job in jobs:
                self._begin(job)

    async def _look_at_policy(self) -> None:
        now = time.monotonic()
        if self._lease_known_at is None or now - self._lease_known_at > _POLICY_AGE:
            try:
                known = await self._queue.lease_time()
            except NotFound:
                # Where groups make themselves, leasing does so; elsewhere it says the same.
                return
            if known:
                self._lease = known.total_seconds()
            self._lease_known_at = now

    def _begin(self, job: Job) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        held = _Held(job, now + self._lease, now + self._lease / 3)
        held.timer = loop.call_at(held.expires, self._lose, held)
        self._held.add(held)
        held.task = asyncio.create_task(self._work(held))

    async def _work(self, held: _Held) -> None:
        try:
            if self._stopping:
                raise asyncio.CancelledError
            await self._handler(held.job)
            verdict, counted = Verdict.ack(), "done"
        except Failure as failure:
            verdict, counted = failure.verdict, "failed"
        except asyncio.CancelledError:
            # Of a lost lease there is nothing to say.
            verdict, counted = Verdict.release(), "returned"
        except Exception as error:
            _log.warning("a job of %s failed: %r", self._queue.group, error)
            verdict, counted = Verdict.retry(_told(error)), "failed"
        if held.is_lost:
            return
        self._say(held, verdict, counted)

    def _say(self, held: _Held, verdict: Verdict, counted: str) -> None:
        setattr(self._stats, counted, getattr(self._stats, counted) + 1)
        held.verdict = verdict
        self._outbox.append(held)
        self._chores.set()

    def _lose(self, held: _Held) -> None:
        """The lease is over, or can be as far as is known here."""
        if held not in self._held:
            return
        held.is_lost = True
        self._stats.lost += 1
        _log.warning("a lease of %s is lost: %s", self._queue.group, held.job.record)
        if held.task is not None and held.verdict is None:
            held.task.cancel()
        self._forget(held)

    def _forget(self, held: _Held) -> None:
        if held.timer is not None:
            held.timer.cancel()
        self._held.discard(held)
        held.answered.set()
        self._changed.set()

    async def _send_verdicts(self) -> None:
        backoff = Backoff()
        while True:
            self._chores.clear()
            # Whose lease ended meanwhile is not asked about any more.
            self._outbox = [held for held in self._outbox if held in self._held]
            batch = self._outbox[:_VERDICTS]
            if not batch:
                await self._chores.wait()
                continue
            settlements = [
                Settlement.of(held.job, held.verdict) for held in batch if held.verdict is not None
            ]
            try:
                results = await self._queue.settle(settlements)
            except _PASSING as error:
                _log.debug("verdicts for %s: %s; trying again", self._queue.group, error)
                await asyncio.sleep(backoff.next())
                continue
            except AqueductError as error:
                # Verdicts of handlers are checked when they are made, so the group is gone.
                _log.warning("verdicts for %s: %s", self._queue.group, error)
                results = [error] * len(batch)
            backoff.reset()
            del self._outbox[: len(batch)]
            for held, result in zip(batch, results, strict=True):
                if result is not None and held in self._held:
                    self._lose(held)
                self._forget(held)

    async def _renew(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            now, lease = loop.time(), self._lease
            due = [held for held in self._held if held.renew_at <= now]
            if not due:
                await asyncio.sleep(min(lease / 20, 1.0))
                continue
            for held in due:
                held.renew_at = now + lease / 3
            # A slow answer holds up neither the next attempt nor the leases of others.
            task = asyncio.create_task(self._renew_some(due, lease))
            self._renewals.add(task)
            task.add_done_callback(self._renewals.discard)

    async def _renew_some(self, due: list[_Held], lease: float) -> None:
        loop = asyncio.get_running_loop()
        sent = loop.time()
        extend = [Settlement.of(held.job, Verdict.extend(lease)) for held in due]
        try:
            results = await asyncio.wait_for(self._queue.settle(extend), lease)
        except (AqueductError, asyncio.TimeoutError) as error:
            _log.debug("renewing leases of %s: %r", self._queue.group, error)
            for held in due:
                held.renew_at = min(held.renew_at, loop.time() + min(lease / 20, 1.0))
            return
        for held, result in zip(due, results, strict=True):
            self._renewed(held, result, sent + lease)

    def _renewed(self, held: _Held, result: AqueductError | None, until: float) -> None:
        if held not in self._held:
            return
        if result is None:
            if until <= held.expires:
                return
            held.expires = until
            if held.timer is not None:
                held.timer.cancel()
            held.timer = asyncio.get_running_loop().call_at(until, self._lose, held)
        elif isinstance(result, LeaseLost) and held.verdict is None:
            # With a verdict under way it may be that which ended the lease.
            self._lose(held)


def _told(error: Exception) -> str:
    """What is kept of an exception."""
    text = str(error)
    return _kept(f"{type(error).__name__}: {text}" if text else type(error).__name__)


def _kept(text: str) -> str:
    """As text that can travel, and not much more of it than the broker keeps."""
    return text[:256].encode("utf-8", "replace").decode()
