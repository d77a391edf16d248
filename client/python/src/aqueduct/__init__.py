"""The Python client of Aqueduct, for asyncio.

    import asyncio
    import aqueduct

    async def main() -> None:
        async with await aqueduct.Client.connect("127.0.0.1:7320") as client:
            await client.topics.create("orders", partitions=6)
            await client.publish("orders", "three apples", key="customer-7")
            async for record in client.read("orders", start=aqueduct.START):
                print(record.partition, record.offset, record.text)

    asyncio.run(main())

An `Ack` means: on stable storage. Errors are classes, and tell *failed* from *unknown*
(`AqueductError.is_unknown`). Broken connections are made again by themselves. Everything that
waits is bounded in bytes.
"""

from aqueduct.client import Client, Commit, CommitResult, Pulled, Stats
from aqueduct.consumer import Assigned, Assignment, Consumer, Lost, RebalanceEvent, Revoking
from aqueduct.errors import (
    AlreadyExists,
    AqueductError,
    Closed,
    CommitBackwards,
    CommitFenced,
    Conflict,
    DataDamaged,
    DeliveryStopped,
    Denied,
    DiskFull,
    EtagMismatch,
    Exhausted,
    Fenced,
    GroupExists,
    GroupNotEmpty,
    GroupNotFound,
    Internal,
    InvalidArgument,
    LeaseLost,
    LimitReached,
    MemberFenced,
    MemberRemoved,
    MemberUnknown,
    MessageNotFound,
    MessageTooLarge,
    NotAssigned,
    NotFound,
    OffsetMismatch,
    OffsetOutOfRange,
    OutcomeUnknown,
    PartitionDamaged,
    PartitionNotFound,
    ProducerFenced,
    Timeout,
    TopicExists,
    TopicNotFound,
    Unavailable,
)
from aqueduct.groups import (
    Group,
    Groups,
    GroupState,
    Lag,
    Member,
    PartitionLag,
    QueuePolicy,
    SoughtPartition,
    StartPolicy,
)
from aqueduct.jobs import Job, Settlement, Verdict
from aqueduct.messages import (
    END,
    START,
    Ack,
    End,
    Last,
    Message,
    Offset,
    PartitionOffsets,
    Position,
    Record,
    Start,
    Time,
)
from aqueduct.producer import Delivery, Producer
from aqueduct.queue import Queue
from aqueduct.reader import Reader
from aqueduct.topics import (
    PartitionInfo,
    Retain,
    TimestampKind,
    Topic,
    Topics,
    TrimmedPartition,
)
from aqueduct.worker import Failure, Worker, WorkerStats

__version__ = "0.1.0"

__all__ = [
    "END",
    "START",
    "Ack",
    "AlreadyExists",
    "AqueductError",
    "Assigned",
    "Assignment",
    "Client",
    "Closed",
    "Commit",
    "CommitBackwards",
    "CommitFenced",
    "CommitResult",
    "Conflict",
    "Consumer",
    "DataDamaged",
    "Delivery",
    "DeliveryStopped",
    "Denied",
    "DiskFull",
    "End",
    "EtagMismatch",
    "Exhausted",
    "Failure",
    "Fenced",
    "Group",
    "GroupExists",
    "GroupNotEmpty",
    "GroupNotFound",
    "GroupState",
    "Groups",
    "Internal",
    "InvalidArgument",
    "Job",
    "Lag",
    "Last",
    "LeaseLost",
    "LimitReached",
    "Lost",
    "Member",
    "MemberFenced",
    "MemberRemoved",
    "MemberUnknown",
    "Message",
    "MessageNotFound",
    "MessageTooLarge",
    "NotAssigned",
    "NotFound",
    "Offset",
    "OffsetMismatch",
    "OffsetOutOfRange",
    "OutcomeUnknown",
    "PartitionDamaged",
    "PartitionInfo",
    "PartitionLag",
    "PartitionNotFound",
    "PartitionOffsets",
    "Position",
    "Producer",
    "ProducerFenced",
    "Pulled",
    "Queue",
    "QueuePolicy",
    "Reader",
    "RebalanceEvent",
    "Record",
    "Retain",
    "Revoking",
    "Settlement",
    "SoughtPartition",
    "Start",
    "StartPolicy",
    "Stats",
    "Time",
    "Timeout",
    "TimestampKind",
    "Topic",
    "TopicExists",
    "TopicNotFound",
    "Topics",
    "TrimmedPartition",
    "Unavailable",
    "Verdict",
    "Worker",
    "WorkerStats",
]
