"""What can go wrong, as a caller sees it.

The broker names each refusal by a stable reason (docs/errors.md of the broker); each reason that
a program may want to catch is a class here, and the classes of one kind have a common parent.
*Failed* and *unknown* are kept apart: `AqueductError.is_unknown`. No type of the transport is
part of the interface; the cause of an error may be one.
"""

from __future__ import annotations

from collections.abc import Mapping

import grpc
from google.protobuf.message import DecodeError

from aqueduct._proto.status_pb2 import ErrorInfo, RetryInfo, Status

DETAILS_KEY = "grpc-status-details-bin"


class AqueductError(Exception):
    """Every failure of this package.

    `reason` is the broker's stable word for it, such as "TOPIC_NOT_FOUND", or empty; `code` the
    gRPC code, such as "NOT_FOUND"; `facts` what the broker named beside the reason;
    `retry_after` after how many seconds another attempt makes sense, if the broker said so.
    """

    unknown = False

    def __init__(
        self,
        message: str,
        *,
        reason: str = "",
        code: str = "",
        facts: Mapping[str, str] | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason
        self.code = code
        self.facts = dict(facts or {})
        self.retry_after = retry_after

    @property
    def is_unknown(self) -> bool:
        """True if a change that was asked for may have been made nevertheless."""
        return self.unknown

    def _number(self, fact: str) -> int:
        text = self.facts.get(fact, "")
        return int(text) if text.isdecimal() else 0


class NotFound(AqueductError):
    """No such topic, partition, message, group or producer."""

    @property
    def did_you_mean(self) -> str | None:
        """A name that exists and is much like the one that was asked for."""
        return self.facts.get("did_you_mean") or None


class TopicNotFound(NotFound):
    """No topic of this name."""


class PartitionNotFound(NotFound):
    """The topic has fewer partitions."""


class MessageNotFound(NotFound):
    """Nothing at this offset."""


class GroupNotFound(NotFound):
    """The topic has no group of this name."""


class MemberUnknown(NotFound):
    """The group does not know this member (any more): join again."""


class AlreadyExists(AqueductError):
    """The name is taken."""


class TopicExists(AlreadyExists):
    """There is a topic of this name."""


class GroupExists(AlreadyExists):
    """The topic has a group of this name."""


class InvalidArgument(AqueductError):
    """The request cannot be right, whatever the state of the broker."""

    @property
    def field(self) -> str | None:
        """Which field of the request, if the broker said."""
        return self.facts.get("field") or None


class MessageTooLarge(InvalidArgument):
    """A message or request above a limit."""

    @property
    def limit(self) -> int:
        """The limit in bytes; 0 if the broker did not say."""
        return self._number("limit")


class OffsetOutOfRange(AqueductError):
    """The offset is trimmed away, or not written yet: readable is `earliest` to `latest`."""

    @property
    def earliest(self) -> int:
        """First readable offset."""
        return self._number("earliest")

    @property
    def latest(self) -> int:
        """One past the last readable offset."""
        return self._number("latest")


class Conflict(AqueductError):
    """What the request assumes is not so (any more)."""


class OffsetMismatch(Conflict):
    """The expected offset is not the next one: somebody else has written."""

    @property
    def expected(self) -> int:
        """The offset that was expected."""
        return self._number("expected")

    @property
    def actual(self) -> int:
        """The next offset of the partition."""
        return self._number("actual")


class EtagMismatch(Conflict):
    """The topic or group changed since its etag was read."""


class GroupNotEmpty(Conflict):
    """The group has members."""


class LeaseLost(Conflict):
    """The lease was over, or the message done: nothing was changed, and somebody else may have
    it."""


class CommitBackwards(Conflict):
    """The group's position is beyond the offset already. Only a seek moves it back."""

    @property
    def position(self) -> int:
        """The group's position."""
        return self._number("position")


class Fenced(AqueductError):
    """Somebody else has taken over. Not to be tried again."""


class ProducerFenced(Fenced):
    """The producer's name was taken over."""


class MemberFenced(Fenced):
    """Another member has come with this instance id."""


class MemberRemoved(Fenced):
    """Somebody called `leave` for this member while it was in the group."""


class CommitFenced(Fenced):
    """The partition was given to somebody else (or moved by a seek) since the message was
    delivered; if the position was not committed before, the message is delivered again."""


class NotAssigned(Fenced):
    """The partition does not belong to this member."""


class DeliveryStopped(AqueductError):
    """Nothing more of these partitions is delivered to the group for now; of the others it is.

    `reason` says why: "OVERRUN" (retention has overtaken the position, and the group's policy is
    to stop there) and "NO_POSITION" (there is none, and the policy is to stop) until a seek
    decides, "DAMAGED" (what comes next cannot be read).
    """

    def __init__(self, topic: str, partitions: tuple[int, ...], reason: str) -> None:
        numbers = ", ".join(str(number) for number in partitions)
        super().__init__(
            f'nothing more of partition {numbers} of "{topic}" is delivered: {reason}',
            reason=reason,
            facts={"topic": topic, "partitions": numbers},
        )
        self.partitions = partitions


class Exhausted(AqueductError):
    """Out of some resource. Nothing was done; trying again later may work."""


class LimitReached(Exhausted):
    """A bound of the broker; `facts` name it."""


class DiskFull(Exhausted):
    """The broker's disk is full: reading goes on, publishing resumes when there is room."""


class Unavailable(AqueductError):
    """The broker cannot be reached or does not serve. Of a change: outcome unknown."""

    unknown = True


class Timeout(AqueductError):
    """No answer in time. The outcome of a change is unknown."""

    unknown = True


class OutcomeUnknown(AqueductError):
    """It cannot be told whether the message was stored."""

    unknown = True


class DataDamaged(AqueductError):
    """Stored data is damaged; `facts` say where."""


class PartitionDamaged(DataDamaged):
    """The log of the partition is damaged: what is sound can be read, publishing is refused."""


class Denied(AqueductError):
    """Not allowed, or not known who asks."""


class Closed(AqueductError):
    """This client, producer or consumer was closed."""


class Internal(AqueductError):
    """A fault of the broker or of this package. The outcome of a change is unknown."""

    unknown = True


BY_REASON: dict[str, type[AqueductError]] = {
    "TOPIC_NOT_FOUND": TopicNotFound,
    "PARTITION_NOT_FOUND": PartitionNotFound,
    "MESSAGE_NOT_FOUND": MessageNotFound,
    "GROUP_NOT_FOUND": GroupNotFound,
    "MEMBER_UNKNOWN": MemberUnknown,
    "TOPIC_EXISTS": TopicExists,
    "GROUP_EXISTS": GroupExists,
    "MESSAGE_TOO_LARGE": MessageTooLarge,
    "OFFSET_OUT_OF_RANGE": OffsetOutOfRange,
    "OFFSET_MISMATCH": OffsetMismatch,
    "ETAG_MISMATCH": EtagMismatch,
    "GROUP_NOT_EMPTY": GroupNotEmpty,
    "LEASE_LOST": LeaseLost,
    "COMMIT_BACKWARDS": CommitBackwards,
    "PRODUCER_FENCED": ProducerFenced,
    "MEMBER_FENCED": MemberFenced,
    "MEMBER_REMOVED": MemberRemoved,
    "COMMIT_FENCED": CommitFenced,
    "NOT_ASSIGNED": NotAssigned,
    "LIMIT_REACHED": LimitReached,
    "DISK_FULL": DiskFull,
    "PARTITION_DAMAGED": PartitionDamaged,
    "DATA_DAMAGED": DataDamaged,
    "OUTCOME_UNKNOWN": OutcomeUnknown,
}

BY_CODE: dict[str, type[AqueductError]] = {
    "NOT_FOUND": NotFound,
    "ALREADY_EXISTS": AlreadyExists,
    "INVALID_ARGUMENT": InvalidArgument,
    "OUT_OF_RANGE": OffsetOutOfRange,
    "FAILED_PRECONDITION": Conflict,
    "ABORTED": Conflict,
    "RESOURCE_EXHAUSTED": Exhausted,
    "UNAVAILABLE": Unavailable,
    "DEADLINE_EXCEEDED": Timeout,
    "CANCELLED": Unavailable,
    "DATA_LOSS": DataDamaged,
    "PERMISSION_DENIED": Denied,
    "UNAUTHENTICATED": Denied,
}

_CODES: dict[int, str] = {code.value[0]: code.name for code in grpc.StatusCode}


def from_status(status: Status) -> AqueductError:
    """The error that a google.rpc.Status tells of, of a call or of one message."""
    info, retry_after = ErrorInfo(), None
    for detail in status.details:
        if detail.type_url.endswith("/google.rpc.ErrorInfo"):
            info = ErrorInfo.FromString(detail.value)
        elif detail.type_url.endswith("/google.rpc.RetryInfo"):
            delay = RetryInfo.FromString(detail.value).retry_delay
            retry_after = delay.seconds + delay.nanos / 1e9
    code = _CODES.get(status.code, "UNKNOWN")
    kind = BY_REASON.get(info.reason) or BY_CODE.get(code, Internal)
    return kind(
        status.message or code,
        reason=info.reason,
        code=code,
        facts=info.metadata,
        retry_after=retry_after,
    )


def from_rpc(error: grpc.aio.AioRpcError) -> AqueductError:
    """The error of a call that failed."""
    code = error.code()
    status = Status(code=code.value[0], message=error.details() or "")
    for key, value in error.trailing_metadata() or ():
        if key == DETAILS_KEY and isinstance(value, bytes):
            try:
                status = Status.FromString(value)
            except DecodeError:
                break
    return from_status(status)
