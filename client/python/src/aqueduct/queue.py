"""Working through a queue group: each message is leased to one consumer at a time, until it is
done or becomes a dead letter."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from aqueduct._connection import Connection, Seconds, request, to_duration, to_seconds
from aqueduct._proto import groups_pb2, queues_pb2
from aqueduct.errors import AqueductError, Internal, from_status
from aqueduct.jobs import Handler, Job, Settlement, Verdict
from aqueduct.topics import to_delta
from aqueduct.worker import Options, Worker


class Queue:
    """A queue group of a topic; see `Client.queue`."""

    def __init__(self, connection: Connection, topic: str, group: str) -> None:
        self._connection, self.topic, self.group = connection, topic, group

    async def lease(
        self,
        max_messages: int = 1,
        *,
        wait: Seconds = 0.0,
        max_bytes: int = 0,
        client_id: str = "",
    ) -> list[Job]:
        """Leases up to `max_messages` (10,000), and waits up to `wait` (60 s) for the first.

        Whoever leases has to say a verdict on each before its lease ends, or the attempt counts as
        failed; a message whose lease was on its way when the connection broke waits for the end of
        that, too. `max_bytes` (16 MiB; 1 MiB if it is 0) is not a bound for the first message.
        """
        seconds = to_seconds(wait)
        wanted = request(
            lambda: queues_pb2.LeaseRequest(
                topic=self.topic,
                group=self.group,
                max_messages=max_messages,
                max_bytes=max_bytes,
                wait=to_duration(seconds),
                client_id=client_id,
            )
        )
        answer = await self._connection.call(
            "Queues/Lease", wanted, queues_pb2.LeaseResponse, patience=seconds
        )
        return [Job.from_proto(delivery) for delivery in answer.deliveries]

    async def settle(self, settlements: Sequence[Settlement]) -> list[AqueductError | None]:
        """Gives verdicts (10,000 at most) and waits until they are on stable storage. What came of
        each, in order: None, or why it changed nothing, such as `LeaseLost`."""
        wanted = request(
            lambda: queues_pb2.SettleRequest(
                topic=self.topic,
                group=self.group,
                settlements=[s.verdict.about(s.partition, s.offset, s.lease) for s in settlements],
            )
        )
        answer = await self._connection.call("Queues/Settle", wanted, queues_pb2.SettleResponse)
        if len(answer.results) != len(settlements):
            raise Internal(f"{len(answer.results)} results for {len(settlements)} verdicts")
        return [from_status(r.error) if r.HasField("error") else None for r in answer.results]

    async def ack(self, job: Job) -> None:
        """Done. Raises `LeaseLost` if the lease was over: then somebody else may have it."""
        await self._settle_one(job, Verdict.ack())

    async def retry(self, job: Job, error: str = "", *, after: Seconds | None = None) -> None:
        """The attempt failed; see `Verdict.retry`. Raises `LeaseLost`."""
        await self._settle_one(job, Verdict.retry(error, after=after))

    async def release(self, job: Job) -> None:
        """Given back: not a failed attempt, and ready at once. Raises `LeaseLost`."""
        await self._settle_one(job, Verdict.release())

    async def extend(self, job: Job, by: Seconds) -> None:
        """The lease lasts so long from now. Raises `LeaseLost`."""
        await self._settle_one(job, Verdict.extend(by))

    async def dead_letter(self, job: Job, error: str = "") -> None:
        """It can never succeed: a dead letter. Raises `LeaseLost`."""
        await self._settle_one(job, Verdict.dead_letter(error))

    def worker(
        self,
        handler: Handler,
        *,
        concurrency: int = 8,
        client_id: str = "",
        retry_timeout: Seconds = 60.0,
        grace: Seconds = 30.0,
    ) -> Worker:
        """Calls `handler` with each job, `concurrency` at a time:

            async with queue.worker(handle, concurrency=8) as worker:
                await worker.ended()

        Returns: the job is done. Raises: the attempt failed, and comes back by the policy's
        backoff; `Failure` says otherwise. Leases are renewed while the handler runs, and it is
        cancelled when its lease is lost, so it must not block the event loop. Leaving the block
        takes nothing new, lets handlers run for `grace`, and gives the rest back. Without a
        connection for `retry_timeout`, `ended` raises `Unavailable`.
        """
        options = Options(
            concurrency=max(1, concurrency),
            client_id=client_id,
            retry_timeout=to_seconds(retry_timeout),
            grace=to_seconds(grace),
        )
        return Worker(self, handler, options)

    async def lease_time(self) -> timedelta:
        """How long a lease lasts by the present policy."""
        wanted = request(lambda: groups_pb2.GetGroupRequest(topic=self.topic, group=self.group))
        group = await self._connection.call("Groups/GetGroup", wanted, groups_pb2.Group)
        return to_delta(group.queue.lease)

    async def _settle_one(self, job: Job, verdict: Verdict) -> None:
        (error,) = await self.settle([Settlement.of(job, verdict)])
        if error is not None:
            raise error
