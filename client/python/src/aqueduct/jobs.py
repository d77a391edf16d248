"""A leased message, and what may become of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime

from aqueduct._connection import Seconds, request, to_duration
from aqueduct._proto import queues_pb2
from aqueduct.messages import Record
from aqueduct.topics import to_datetime


@dataclass(slots=True, frozen=True)
class Job:
    """A message that was leased to this consumer."""

    record: Record
    attempt: int
    """1 for the first: one more than the attempts that failed."""
    hand_outs: int
    """How often it was handed out, this time included."""
    lease: int
    """Only grows, per partition and group: fit as a fencing token."""
    lease_deadline: datetime
    """The end of the lease as it was given, by the broker's clock."""
    first_failure: datetime | None
    """When the first attempt failed."""
    last_error: str
    """Why the last attempt failed; empty if none did."""

    @classmethod
    def from_proto(cls, delivery: queues_pb2.Delivery) -> Job:
        """As it was received."""
        failed = delivery.HasField("first_failure")
        return cls(
            Record.from_proto(delivery.record),
            delivery.attempt,
            delivery.hand_outs,
            delivery.lease,
            to_datetime(delivery.lease_deadline),
            to_datetime(delivery.first_failure) if failed else None,
            delivery.last_error,
        )


class Verdict:
    """What becomes of a leased message."""

    def __init__(self, settlement: queues_pb2.Settlement) -> None:
        """Is for this module; see the class methods."""
        self._settlement = settlement

    def __repr__(self) -> str:
        return f"Verdict({self._settlement.WhichOneof('verdict')})"

    @classmethod
    def ack(cls) -> Verdict:
        """Done: it never comes back."""
        return cls(queues_pb2.Settlement(ack=True))

    @classmethod
    def retry(cls, error: str = "", *, after: Seconds | None = None) -> Verdict:
        """The attempt failed. It comes back, or is a dead letter if it was the last attempt: after
        so long (30 days at most), or as the policy's backoff says. Of the text 256 bytes are
        kept."""
        wait = None if after is None else to_duration(after)
        verdict = request(lambda: queues_pb2.RetryVerdict(after=wait, error=error))
        return cls(queues_pb2.Settlement(retry=verdict))

    @classmethod
    def release(cls) -> Verdict:
        """Given back: not a failed attempt, and ready at once."""
        return cls(queues_pb2.Settlement(release=True))

    @classmethod
    def extend(cls, by: Seconds) -> Verdict:
        """The lease lasts so long from now (1 ms to 1 day); it is never made shorter."""
        return cls(queues_pb2.Settlement(extend=queues_pb2.ExtendVerdict(by=to_duration(by))))

    @classmethod
    def dead_letter(cls, error: str = "") -> Verdict:
        """Never handed out again: a dead letter. Of the text 256 bytes are kept."""
        verdict = request(lambda: queues_pb2.DeadLetterVerdict(error=error))
        return cls(queues_pb2.Settlement(dead_letter=verdict))

    def about(self, partition: int, offset: int, lease: int) -> queues_pb2.Settlement:
        """As it travels."""
        settlement = queues_pb2.Settlement()
        settlement.CopyFrom(self._settlement)
        settlement.partition, settlement.offset, settlement.lease = partition, offset, lease
        return settlement


@dataclass(slots=True, frozen=True)
class Settlement:
    """A verdict on one leased message."""

    partition: int
    offset: int
    lease: int
    verdict: Verdict

    @classmethod
    def of(cls, job: Job, verdict: Verdict) -> Settlement:
        """A verdict on this job."""
        return cls(job.record.partition, job.record.offset, job.lease, verdict)


Handler = Callable[[Job], Awaitable[None]]
