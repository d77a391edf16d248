from aqueduct._proto import groups_pb2 as _groups_pb2
from aqueduct._proto import reader_pb2 as _reader_pb2
from aqueduct._proto import types_pb2 as _types_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from aqueduct._proto import status_pb2 as _status_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ConsumeRequest(_message.Message):
    __slots__ = ("open", "credit", "commit", "released", "heartbeat")
    OPEN_FIELD_NUMBER: _ClassVar[int]
    CREDIT_FIELD_NUMBER: _ClassVar[int]
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    RELEASED_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    open: ConsumeOpen
    credit: _reader_pb2.Credit
    commit: Commits
    released: Released
    heartbeat: Heartbeat
    def __init__(self, open: _Optional[_Union[ConsumeOpen, _Mapping]] = ..., credit: _Optional[_Union[_reader_pb2.Credit, _Mapping]] = ..., commit: _Optional[_Union[Commits, _Mapping]] = ..., released: _Optional[_Union[Released, _Mapping]] = ..., heartbeat: _Optional[_Union[Heartbeat, _Mapping]] = ...) -> None: ...

class ConsumeOpen(_message.Message):
    __slots__ = ("topic", "group", "member_id", "instance_id", "client_id", "raw", "start", "must_exist")
    TOPIC_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    MEMBER_ID_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_ID_FIELD_NUMBER: _ClassVar[int]
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    RAW_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    MUST_EXIST_FIELD_NUMBER: _ClassVar[int]
    topic: str
    group: str
    member_id: str
    instance_id: str
    client_id: str
    raw: bool
    start: _groups_pb2.StartPolicy
    must_exist: bool
    def __init__(self, topic: _Optional[str] = ..., group: _Optional[str] = ..., member_id: _Optional[str] = ..., instance_id: _Optional[str] = ..., client_id: _Optional[str] = ..., raw: bool = ..., start: _Optional[_Union[_groups_pb2.StartPolicy, str]] = ..., must_exist: bool = ...) -> None: ...

class Commits(_message.Message):
    __slots__ = ("commits",)
    COMMITS_FIELD_NUMBER: _ClassVar[int]
    commits: _containers.RepeatedCompositeFieldContainer[PartitionCommit]
    def __init__(self, commits: _Optional[_Iterable[_Union[PartitionCommit, _Mapping]]] = ...) -> None: ...

class PartitionCommit(_message.Message):
    __slots__ = ("partition", "epoch", "offset")
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    partition: int
    epoch: int
    offset: int
    def __init__(self, partition: _Optional[int] = ..., epoch: _Optional[int] = ..., offset: _Optional[int] = ...) -> None: ...

class Released(_message.Message):
    __slots__ = ("partitions",)
    PARTITIONS_FIELD_NUMBER: _ClassVar[int]
    partitions: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, partitions: _Optional[_Iterable[int]] = ...) -> None: ...

class Heartbeat(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ConsumeResponse(_message.Message):
    __slots__ = ("opened", "assigned", "revoking", "lost", "records", "batches", "caught_up", "commit_results")
    OPENED_FIELD_NUMBER: _ClassVar[int]
    ASSIGNED_FIELD_NUMBER: _ClassVar[int]
    REVOKING_FIELD_NUMBER: _ClassVar[int]
    LOST_FIELD_NUMBER: _ClassVar[int]
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    BATCHES_FIELD_NUMBER: _ClassVar[int]
    CAUGHT_UP_FIELD_NUMBER: _ClassVar[int]
    COMMIT_RESULTS_FIELD_NUMBER: _ClassVar[int]
    opened: ConsumeOpened
    assigned: Assigned
    revoking: Revoking
    lost: Lost
    records: _reader_pb2.Records
    batches: _reader_pb2.Batches
    caught_up: _reader_pb2.CaughtUp
    commit_results: CommitResults
    def __init__(self, opened: _Optional[_Union[ConsumeOpened, _Mapping]] = ..., assigned: _Optional[_Union[Assigned, _Mapping]] = ..., revoking: _Optional[_Union[Revoking, _Mapping]] = ..., lost: _Optional[_Union[Lost, _Mapping]] = ..., records: _Optional[_Union[_reader_pb2.Records, _Mapping]] = ..., batches: _Optional[_Union[_reader_pb2.Batches, _Mapping]] = ..., caught_up: _Optional[_Union[_reader_pb2.CaughtUp, _Mapping]] = ..., commit_results: _Optional[_Union[CommitResults, _Mapping]] = ...) -> None: ...

class ConsumeOpened(_message.Message):
    __slots__ = ("member_id", "created", "heartbeat_interval", "session_timeout")
    MEMBER_ID_FIELD_NUMBER: _ClassVar[int]
    CREATED_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_INTERVAL_FIELD_NUMBER: _ClassVar[int]
    SESSION_TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    member_id: str
    created: bool
    heartbeat_interval: _duration_pb2.Duration
    session_timeout: _duration_pb2.Duration
    def __init__(self, member_id: _Optional[str] = ..., created: bool = ..., heartbeat_interval: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., session_timeout: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class Assigned(_message.Message):
    __slots__ = ("assignments",)
    ASSIGNMENTS_FIELD_NUMBER: _ClassVar[int]
    assignments: _containers.RepeatedCompositeFieldContainer[Assignment]
    def __init__(self, assignments: _Optional[_Iterable[_Union[Assignment, _Mapping]]] = ...) -> None: ...

class Assignment(_message.Message):
    __slots__ = ("partition", "epoch", "position", "skipped")
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    SKIPPED_FIELD_NUMBER: _ClassVar[int]
    partition: int
    epoch: int
    position: int
    skipped: SkippedRange
    def __init__(self, partition: _Optional[int] = ..., epoch: _Optional[int] = ..., position: _Optional[int] = ..., skipped: _Optional[_Union[SkippedRange, _Mapping]] = ...) -> None: ...

class SkippedRange(_message.Message):
    __slots__ = ("to",)
    FROM_FIELD_NUMBER: _ClassVar[int]
    TO_FIELD_NUMBER: _ClassVar[int]
    to: int
    def __init__(self, to: _Optional[int] = ..., **kwargs) -> None: ...

class Revoking(_message.Message):
    __slots__ = ("partitions", "deadline")
    PARTITIONS_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_FIELD_NUMBER: _ClassVar[int]
    partitions: _containers.RepeatedScalarFieldContainer[int]
    deadline: _duration_pb2.Duration
    def __init__(self, partitions: _Optional[_Iterable[int]] = ..., deadline: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class Lost(_message.Message):
    __slots__ = ("partitions", "reason")
    PARTITIONS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    partitions: _containers.RepeatedScalarFieldContainer[int]
    reason: str
    def __init__(self, partitions: _Optional[_Iterable[int]] = ..., reason: _Optional[str] = ...) -> None: ...

class CommitResults(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[CommitResult]
    def __init__(self, results: _Optional[_Iterable[_Union[CommitResult, _Mapping]]] = ...) -> None: ...

class CommitResult(_message.Message):
    __slots__ = ("partition", "position", "error")
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    partition: int
    position: int
    error: _status_pb2.Status
    def __init__(self, partition: _Optional[int] = ..., position: _Optional[int] = ..., error: _Optional[_Union[_status_pb2.Status, _Mapping]] = ...) -> None: ...

class PullRequest(_message.Message):
    __slots__ = ("topic", "group", "member_id", "instance_id", "client_id", "max_messages", "max_bytes", "wait", "start", "must_exist", "commits", "received")
    TOPIC_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    MEMBER_ID_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_ID_FIELD_NUMBER: _ClassVar[int]
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    MAX_MESSAGES_FIELD_NUMBER: _ClassVar[int]
    MAX_BYTES_FIELD_NUMBER: _ClassVar[int]
    WAIT_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    MUST_EXIST_FIELD_NUMBER: _ClassVar[int]
    COMMITS_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_FIELD_NUMBER: _ClassVar[int]
    topic: str
    group: str
    member_id: str
    instance_id: str
    client_id: str
    max_messages: int
    max_bytes: int
    wait: _duration_pb2.Duration
    start: _groups_pb2.StartPolicy
    must_exist: bool
    commits: _containers.RepeatedCompositeFieldContainer[PartitionCommit]
    received: int
    def __init__(self, topic: _Optional[str] = ..., group: _Optional[str] = ..., member_id: _Optional[str] = ..., instance_id: _Optional[str] = ..., client_id: _Optional[str] = ..., max_messages: _Optional[int] = ..., max_bytes: _Optional[int] = ..., wait: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., start: _Optional[_Union[_groups_pb2.StartPolicy, str]] = ..., must_exist: bool = ..., commits: _Optional[_Iterable[_Union[PartitionCommit, _Mapping]]] = ..., received: _Optional[int] = ...) -> None: ...

class PullResponse(_message.Message):
    __slots__ = ("member_id", "records", "assignments", "commit_results", "answer")
    MEMBER_ID_FIELD_NUMBER: _ClassVar[int]
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    ASSIGNMENTS_FIELD_NUMBER: _ClassVar[int]
    COMMIT_RESULTS_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    member_id: str
    records: _containers.RepeatedCompositeFieldContainer[_types_pb2.Record]
    assignments: _containers.RepeatedCompositeFieldContainer[Assignment]
    commit_results: _containers.RepeatedCompositeFieldContainer[CommitResult]
    answer: int
    def __init__(self, member_id: _Optional[str] = ..., records: _Optional[_Iterable[_Union[_types_pb2.Record, _Mapping]]] = ..., assignments: _Optional[_Iterable[_Union[Assignment, _Mapping]]] = ..., commit_results: _Optional[_Iterable[_Union[CommitResult, _Mapping]]] = ..., answer: _Optional[int] = ...) -> None: ...

class CommitRequest(_message.Message):
    __slots__ = ("topic", "group", "member_id", "commits")
    TOPIC_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    MEMBER_ID_FIELD_NUMBER: _ClassVar[int]
    COMMITS_FIELD_NUMBER: _ClassVar[int]
    topic: str
    group: str
    member_id: str
    commits: _containers.RepeatedCompositeFieldContainer[PartitionCommit]
    def __init__(self, topic: _Optional[str] = ..., group: _Optional[str] = ..., member_id: _Optional[str] = ..., commits: _Optional[_Iterable[_Union[PartitionCommit, _Mapping]]] = ...) -> None: ...

class CommitResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[CommitResult]
    def __init__(self, results: _Optional[_Iterable[_Union[CommitResult, _Mapping]]] = ...) -> None: ...

class LeaveRequest(_message.Message):
    __slots__ = ("topic", "group", "member_id")
    TOPIC_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    MEMBER_ID_FIELD_NUMBER: _ClassVar[int]
    topic: str
    group: str
    member_id: str
    def __init__(self, topic: _Optional[str] = ..., group: _Optional[str] = ..., member_id: _Optional[str] = ...) -> None: ...

class LeaveResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
