from aqueduct._proto import reader_pb2 as _reader_pb2
from aqueduct._proto import types_pb2 as _types_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import field_mask_pb2 as _field_mask_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class StartPolicy(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    START_POLICY_UNSPECIFIED: _ClassVar[StartPolicy]
    START_POLICY_EARLIEST: _ClassVar[StartPolicy]
    START_POLICY_LATEST: _ClassVar[StartPolicy]
    START_POLICY_ERROR: _ClassVar[StartPolicy]
    START_POLICY_PINNED: _ClassVar[StartPolicy]

class QueueOrder(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    QUEUE_ORDER_UNSPECIFIED: _ClassVar[QueueOrder]
    QUEUE_ORDER_PER_KEY: _ClassVar[QueueOrder]

class OnKeyFailure(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ON_KEY_FAILURE_UNSPECIFIED: _ClassVar[OnKeyFailure]
    ON_KEY_FAILURE_BLOCK: _ClassVar[OnKeyFailure]
    ON_KEY_FAILURE_PARK: _ClassVar[OnKeyFailure]

class QueuePriorities(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    QUEUE_PRIORITIES_UNSPECIFIED: _ClassVar[QueuePriorities]
    QUEUE_PRIORITIES_STRICT: _ClassVar[QueuePriorities]
    QUEUE_PRIORITIES_WEIGHTED: _ClassVar[QueuePriorities]

class GroupState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    GROUP_STATE_UNSPECIFIED: _ClassVar[GroupState]
    GROUP_STATE_EMPTY: _ClassVar[GroupState]
    GROUP_STATE_STABLE: _ClassVar[GroupState]
    GROUP_STATE_REBALANCING: _ClassVar[GroupState]
    GROUP_STATE_PAUSED: _ClassVar[GroupState]

class MessageState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MESSAGE_STATE_UNSPECIFIED: _ClassVar[MessageState]
    MESSAGE_STATE_DELAYED: _ClassVar[MessageState]
    MESSAGE_STATE_READY: _ClassVar[MessageState]
    MESSAGE_STATE_LEASED: _ClassVar[MessageState]
    MESSAGE_STATE_DONE: _ClassVar[MessageState]
    MESSAGE_STATE_DEAD: _ClassVar[MessageState]
START_POLICY_UNSPECIFIED: StartPolicy
START_POLICY_EARLIEST: StartPolicy
START_POLICY_LATEST: StartPolicy
START_POLICY_ERROR: StartPolicy
START_POLICY_PINNED: StartPolicy
QUEUE_ORDER_UNSPECIFIED: QueueOrder
QUEUE_ORDER_PER_KEY: QueueOrder
ON_KEY_FAILURE_UNSPECIFIED: OnKeyFailure
ON_KEY_FAILURE_BLOCK: OnKeyFailure
ON_KEY_FAILURE_PARK: OnKeyFailure
QUEUE_PRIORITIES_UNSPECIFIED: QueuePriorities
QUEUE_PRIORITIES_STRICT: QueuePriorities
QUEUE_PRIORITIES_WEIGHTED: QueuePriorities
GROUP_STATE_UNSPECIFIED: GroupState
GROUP_STATE_EMPTY: GroupState
GROUP_STATE_STABLE: GroupState
GROUP_STATE_REBALANCING: GroupState
GROUP_STATE_PAUSED: GroupState
MESSAGE_STATE_UNSPECIFIED: MessageState
MESSAGE_STATE_DELAYED: MessageState
MESSAGE_STATE_READY: MessageState
MESSAGE_STATE_LEASED: MessageState
MESSAGE_STATE_DONE: MessageState
MESSAGE_STATE_DEAD: MessageState

class Group(_message.Message):
    __slots__ = ("name", "id", "start", "overrun", "session_timeout", "labels", "state", "members", "paused_until", "create_time", "update_time", "etag", "queue", "start_position", "start_offsets")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    OVERRUN_FIELD_NUMBER: _ClassVar[int]
    SESSION_TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    PAUSED_UNTIL_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    UPDATE_TIME_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    START_POSITION_FIELD_NUMBER: _ClassVar[int]
    START_OFFSETS_FIELD_NUMBER: _ClassVar[int]
    name: str
    id: int
    start: StartPolicy
    overrun: StartPolicy
    session_timeout: _duration_pb2.Duration
    labels: _containers.ScalarMap[str, str]
    state: GroupState
    members: int
    paused_until: _timestamp_pb2.Timestamp
    create_time: _timestamp_pb2.Timestamp
    update_time: _timestamp_pb2.Timestamp
    etag: str
    queue: QueuePolicy
    start_position: _reader_pb2.Position
    start_offsets: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, name: _Optional[str] = ..., id: _Optional[int] = ..., start: _Optional[_Union[StartPolicy, str]] = ..., overrun: _Optional[_Union[StartPolicy, str]] = ..., session_timeout: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., labels: _Optional[_Mapping[str, str]] = ..., state: _Optional[_Union[GroupState, str]] = ..., members: _Optional[int] = ..., paused_until: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., update_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., etag: _Optional[str] = ..., queue: _Optional[_Union[QueuePolicy, _Mapping]] = ..., start_position: _Optional[_Union[_reader_pb2.Position, _Mapping]] = ..., start_offsets: _Optional[_Iterable[int]] = ...) -> None: ...

class QueuePolicy(_message.Message):
    __slots__ = ("lease", "max_attempts", "max_hand_outs", "backoff", "backoff_factor_percent", "backoff_max", "backoff_jitter_percent", "dead_letters", "dead_letters_for_expired", "order", "on_key_failure", "priorities", "max_in_flight", "max_in_flight_per_consumer", "max_in_flight_per_key", "messages_per_second", "filter", "retain_done")
    LEASE_FIELD_NUMBER: _ClassVar[int]
    MAX_ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    MAX_HAND_OUTS_FIELD_NUMBER: _ClassVar[int]
    BACKOFF_FIELD_NUMBER: _ClassVar[int]
    BACKOFF_FACTOR_PERCENT_FIELD_NUMBER: _ClassVar[int]
    BACKOFF_MAX_FIELD_NUMBER: _ClassVar[int]
    BACKOFF_JITTER_PERCENT_FIELD_NUMBER: _ClassVar[int]
    DEAD_LETTERS_FIELD_NUMBER: _ClassVar[int]
    DEAD_LETTERS_FOR_EXPIRED_FIELD_NUMBER: _ClassVar[int]
    ORDER_FIELD_NUMBER: _ClassVar[int]
    ON_KEY_FAILURE_FIELD_NUMBER: _ClassVar[int]
    PRIORITIES_FIELD_NUMBER: _ClassVar[int]
    MAX_IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    MAX_IN_FLIGHT_PER_CONSUMER_FIELD_NUMBER: _ClassVar[int]
    MAX_IN_FLIGHT_PER_KEY_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    RETAIN_DONE_FIELD_NUMBER: _ClassVar[int]
    lease: _duration_pb2.Duration
    max_attempts: int
    max_hand_outs: int
    backoff: _duration_pb2.Duration
    backoff_factor_percent: int
    backoff_max: _duration_pb2.Duration
    backoff_jitter_percent: int
    dead_letters: bool
    dead_letters_for_expired: bool
    order: QueueOrder
    on_key_failure: OnKeyFailure
    priorities: QueuePriorities
    max_in_flight: int
    max_in_flight_per_consumer: int
    max_in_flight_per_key: int
    messages_per_second: int
    filter: _containers.RepeatedCompositeFieldContainer[HeaderCondition]
    retain_done: _duration_pb2.Duration
    def __init__(self, lease: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., max_attempts: _Optional[int] = ..., max_hand_outs: _Optional[int] = ..., backoff: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., backoff_factor_percent: _Optional[int] = ..., backoff_max: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., backoff_jitter_percent: _Optional[int] = ..., dead_letters: bool = ..., dead_letters_for_expired: bool = ..., order: _Optional[_Union[QueueOrder, str]] = ..., on_key_failure: _Optional[_Union[OnKeyFailure, str]] = ..., priorities: _Optional[_Union[QueuePriorities, str]] = ..., max_in_flight: _Optional[int] = ..., max_in_flight_per_consumer: _Optional[int] = ..., max_in_flight_per_key: _Optional[int] = ..., messages_per_second: _Optional[int] = ..., filter: _Optional[_Iterable[_Union[HeaderCondition, _Mapping]]] = ..., retain_done: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class HeaderCondition(_message.Message):
    __slots__ = ("header", "exists", "equals", "prefix")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    EXISTS_FIELD_NUMBER: _ClassVar[int]
    EQUALS_FIELD_NUMBER: _ClassVar[int]
    PREFIX_FIELD_NUMBER: _ClassVar[int]
    header: str
    exists: bool
    equals: bytes
    prefix: bytes
    def __init__(self, header: _Optional[str] = ..., exists: bool = ..., equals: _Optional[bytes] = ..., prefix: _Optional[bytes] = ...) -> None: ...

class CreateGroupRequest(_message.Message):
    __slots__ = ("topic", "group", "validate_only")
    TOPIC_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    topic: str
    group: Group
    validate_only: bool
    def __init__(self, topic: _Optional[str] = ..., group: _Optional[_Union[Group, _Mapping]] = ..., validate_only: bool = ...) -> None: ...

class GetGroupRequest(_message.Message):
    __slots__ = ("topic", "group")
    TOPIC_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    topic: str
    group: str
    def __init__(self, topic: _Optional[str] = ..., group: _Optional[str] = ...) -> None: ...

class ListGroupsRequest(_message.Message):
    __slots__ = ("topic", "page_size", "page_token")
    TOPIC_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    topic: str
    page_size: int
    page_token: str
    def __init__(self, topic: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListGroupsResponse(_message.Message):
    __slots__ = ("groups", "next_page_token")
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    groups: _containers.RepeatedCompositeFieldContainer[Group]
    next_page_token: str
    def __init__(self, groups: _Optional[_Iterable[_Union[Group, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class UpdateGroupRequest(_message.Message):
    __slots__ = ("topic", "group", "update_mask", "validate_only")
    TOPIC_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    UPDATE_MASK_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    topic: str
    group: Group
    update_mask: _field_mask_pb2.FieldMask
    validate_only: bool
    def __init__(self, topic: _Optional[str] = ..., group: _Optional[_Union[Group, _Mapping]] = ..., update_mask: _Optional[_Union[_field_mask_pb2.FieldMask, _Mapping]] = ..., validate_only: bool = ...) -> None: ...

class DeleteGroupRequest(_message.Message):
    __slots__ = ("topic", "group", "validate_only")
    TOPIC_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    topic: str
    group: str
    validate_only: bool
    def __init__(self, topic: _Optional[str] = ..., group: _Optional[str] = ..., validate_only: bool = ...) -> None: ...

class DeleteGroupResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetLagRequest(_message.Message):
    __slots__ = ("topic", "group")
    TOPIC_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    topic: str
    group: str
    def __init__(self, topic: _Optional[str] = ..., group: _Optional[str] = ...) -> None: ...

class GetLagResponse(_message.Message):
    __slots__ = ("partitions", "messages", "seconds")
    PARTITIONS_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    partitions: _containers.RepeatedCompositeFieldContainer[PartitionLag]
    messages: int
    seconds: float
    def __init__(self, partitions: _Optional[_Iterable[_Union[PartitionLag, _Mapping]]] = ..., messages: _Optional[int] = ..., seconds: _Optional[float] = ...) -> None: ...

class PartitionLag(_message.Message):
    __slots__ = ("partition", "position", "log_start_offset", "high_watermark", "messages", "seconds", "member", "commit_time")
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    LOG_START_OFFSET_FIELD_NUMBER: _ClassVar[int]
    HIGH_WATERMARK_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    MEMBER_FIELD_NUMBER: _ClassVar[int]
    COMMIT_TIME_FIELD_NUMBER: _ClassVar[int]
    partition: int
    position: int
    log_start_offset: int
    high_watermark: int
    messages: int
    seconds: float
    member: str
    commit_time: _timestamp_pb2.Timestamp
    def __init__(self, partition: _Optional[int] = ..., position: _Optional[int] = ..., log_start_offset: _Optional[int] = ..., high_watermark: _Optional[int] = ..., messages: _Optional[int] = ..., seconds: _Optional[float] = ..., member: _Optional[str] = ..., commit_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class ListMembersRequest(_message.Message):
    __slots__ = ("topic", "group")
    TOPIC_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    topic: str
    group: str
    def __init__(self, topic: _Optional[str] = ..., group: _Optional[str] = ...) -> None: ...

class ListMembersResponse(_message.Message):
    __slots__ = ("members",)
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    members: _containers.RepeatedCompositeFieldContainer[Member]
    def __init__(self, members: _Optional[_Iterable[_Union[Member, _Mapping]]] = ...) -> None: ...

class Member(_message.Message):
    __slots__ = ("member_id", "instance_id", "client_id", "address", "partitions", "pulls", "idle_ms")
    MEMBER_ID_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_ID_FIELD_NUMBER: _ClassVar[int]
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    PARTITIONS_FIELD_NUMBER: _ClassVar[int]
    PULLS_FIELD_NUMBER: _ClassVar[int]
    IDLE_MS_FIELD_NUMBER: _ClassVar[int]
    member_id: str
    instance_id: str
    client_id: str
    address: str
    partitions: _containers.RepeatedScalarFieldContainer[int]
    pulls: bool
    idle_ms: int
    def __init__(self, member_id: _Optional[str] = ..., instance_id: _Optional[str] = ..., client_id: _Optional[str] = ..., address: _Optional[str] = ..., partitions: _Optional[_Iterable[int]] = ..., pulls: bool = ..., idle_ms: _Optional[int] = ...) -> None: ...

class SeekGroupRequest(_message.Message):
    __slots__ = ("topic", "group", "partitions", "to", "shift", "from_group", "validate_only")
    TOPIC_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    PARTITIONS_FIELD_NUMBER: _ClassVar[int]
    TO_FIELD_NUMBER: _ClassVar[int]
    SHIFT_FIELD_NUMBER: _ClassVar[int]
    FROM_GROUP_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    topic: str
    group: str
    partitions: _containers.RepeatedScalarFieldContainer[int]
    to: _reader_pb2.Position
    shift: int
    from_group: str
    validate_only: bool
    def __init__(self, topic: _Optional[str] = ..., group: _Optional[str] = ..., partitions: _Optional[_Iterable[int]] = ..., to: _Optional[_Union[_reader_pb2.Position, _Mapping]] = ..., shift: _Optional[int] = ..., from_group: _Optional[str] = ..., validate_only: bool = ...) -> None: ...

class SeekGroupResponse(_message.Message):
    __slots__ = ("partitions",)
    PARTITIONS_FIELD_NUMBER: _ClassVar[int]
    partitions: _containers.RepeatedCompositeFieldContainer[SoughtPartition]
    def __init__(self, partitions: _Optional[_Iterable[_Union[SoughtPartition, _Mapping]]] = ...) -> None: ...

class SoughtPartition(_message.Message):
    __slots__ = ("partition", "old_position", "new_position", "log_start_offset", "high_watermark")
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    OLD_POSITION_FIELD_NUMBER: _ClassVar[int]
    NEW_POSITION_FIELD_NUMBER: _ClassVar[int]
    LOG_START_OFFSET_FIELD_NUMBER: _ClassVar[int]
    HIGH_WATERMARK_FIELD_NUMBER: _ClassVar[int]
    partition: int
    old_position: int
    new_position: int
    log_start_offset: int
    high_watermark: int
    def __init__(self, partition: _Optional[int] = ..., old_position: _Optional[int] = ..., new_position: _Optional[int] = ..., log_start_offset: _Optional[int] = ..., high_watermark: _Optional[int] = ...) -> None: ...

class PauseGroupRequest(_message.Message):
    __slots__ = ("topic", "group", "duration", "validate_only")
    TOPIC_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    DURATION_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    topic: str
    group: str
    duration: _duration_pb2.Duration
    validate_only: bool
    def __init__(self, topic: _Optional[str] = ..., group: _Optional[str] = ..., duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., validate_only: bool = ...) -> None: ...

class ResumeGroupRequest(_message.Message):
    __slots__ = ("topic", "group", "validate_only")
    TOPIC_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    topic: str
    group: str
    validate_only: bool
    def __init__(self, topic: _Optional[str] = ..., group: _Optional[str] = ..., validate_only: bool = ...) -> None: ...

class MessageCounts(_message.Message):
    __slots__ = ("delayed", "ready", "leased", "done", "dead")
    DELAYED_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    LEASED_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    DEAD_FIELD_NUMBER: _ClassVar[int]
    delayed: int
    ready: int
    leased: int
    done: int
    dead: int
    def __init__(self, delayed: _Optional[int] = ..., ready: _Optional[int] = ..., leased: _Optional[int] = ..., done: _Optional[int] = ..., dead: _Optional[int] = ...) -> None: ...

class QueueTotals(_message.Message):
    __slots__ = ("acked", "retried", "released", "expired", "lost", "dead_attempts", "dead_hand_outs", "dead_rejected", "dead_expired", "dead_parked", "discarded", "cancelled", "unmatched", "trimmed", "unparkable", "results_published", "results_dropped")
    ACKED_FIELD_NUMBER: _ClassVar[int]
    RETRIED_FIELD_NUMBER: _ClassVar[int]
    RELEASED_FIELD_NUMBER: _ClassVar[int]
    EXPIRED_FIELD_NUMBER: _ClassVar[int]
    LOST_FIELD_NUMBER: _ClassVar[int]
    DEAD_ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    DEAD_HAND_OUTS_FIELD_NUMBER: _ClassVar[int]
    DEAD_REJECTED_FIELD_NUMBER: _ClassVar[int]
    DEAD_EXPIRED_FIELD_NUMBER: _ClassVar[int]
    DEAD_PARKED_FIELD_NUMBER: _ClassVar[int]
    DISCARDED_FIELD_NUMBER: _ClassVar[int]
    CANCELLED_FIELD_NUMBER: _ClassVar[int]
    UNMATCHED_FIELD_NUMBER: _ClassVar[int]
    TRIMMED_FIELD_NUMBER: _ClassVar[int]
    UNPARKABLE_FIELD_NUMBER: _ClassVar[int]
    RESULTS_PUBLISHED_FIELD_NUMBER: _ClassVar[int]
    RESULTS_DROPPED_FIELD_NUMBER: _ClassVar[int]
    acked: int
    retried: int
    released: int
    expired: int
    lost: int
    dead_attempts: int
    dead_hand_outs: int
    dead_rejected: int
    dead_expired: int
    dead_parked: int
    discarded: int
    cancelled: int
    unmatched: int
    trimmed: int
    unparkable: int
    results_published: int
    results_dropped: int
    def __init__(self, acked: _Optional[int] = ..., retried: _Optional[int] = ..., released: _Optional[int] = ..., expired: _Optional[int] = ..., lost: _Optional[int] = ..., dead_attempts: _Optional[int] = ..., dead_hand_outs: _Optional[int] = ..., dead_rejected: _Optional[int] = ..., dead_expired: _Optional[int] = ..., dead_parked: _Optional[int] = ..., discarded: _Optional[int] = ..., cancelled: _Optional[int] = ..., unmatched: _Optional[int] = ..., trimmed: _Optional[int] = ..., unparkable: _Optional[int] = ..., results_published: _Optional[int] = ..., results_dropped: _Optional[int] = ...) -> None: ...

class DescribeQueueRequest(_message.Message):
    __slots__ = ("topic", "group")
    TOPIC_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    topic: str
    group: str
    def __init__(self, topic: _Optional[str] = ..., group: _Optional[str] = ...) -> None: ...

class DescribeQueueResponse(_message.Message):
    __slots__ = ("counts", "totals", "oldest_seconds", "parked_keys", "failed", "partitions")
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    TOTALS_FIELD_NUMBER: _ClassVar[int]
    OLDEST_SECONDS_FIELD_NUMBER: _ClassVar[int]
    PARKED_KEYS_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    PARTITIONS_FIELD_NUMBER: _ClassVar[int]
    counts: MessageCounts
    totals: QueueTotals
    oldest_seconds: float
    parked_keys: int
    failed: _containers.RepeatedCompositeFieldContainer[FailedCount]
    partitions: _containers.RepeatedCompositeFieldContainer[QueuePartition]
    def __init__(self, counts: _Optional[_Union[MessageCounts, _Mapping]] = ..., totals: _Optional[_Union[QueueTotals, _Mapping]] = ..., oldest_seconds: _Optional[float] = ..., parked_keys: _Optional[int] = ..., failed: _Optional[_Iterable[_Union[FailedCount, _Mapping]]] = ..., partitions: _Optional[_Iterable[_Union[QueuePartition, _Mapping]]] = ...) -> None: ...

class FailedCount(_message.Message):
    __slots__ = ("failed_attempts", "messages")
    FAILED_ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    failed_attempts: int
    messages: int
    def __init__(self, failed_attempts: _Optional[int] = ..., messages: _Optional[int] = ...) -> None: ...

class QueuePartition(_message.Message):
    __slots__ = ("partition", "counts", "totals", "oldest_offset", "oldest_seconds", "parked_keys", "dead_letters_written", "results_waiting", "result_bytes_waiting")
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    TOTALS_FIELD_NUMBER: _ClassVar[int]
    OLDEST_OFFSET_FIELD_NUMBER: _ClassVar[int]
    OLDEST_SECONDS_FIELD_NUMBER: _ClassVar[int]
    PARKED_KEYS_FIELD_NUMBER: _ClassVar[int]
    DEAD_LETTERS_WRITTEN_FIELD_NUMBER: _ClassVar[int]
    RESULTS_WAITING_FIELD_NUMBER: _ClassVar[int]
    RESULT_BYTES_WAITING_FIELD_NUMBER: _ClassVar[int]
    partition: int
    counts: MessageCounts
    totals: QueueTotals
    oldest_offset: int
    oldest_seconds: float
    parked_keys: int
    dead_letters_written: int
    results_waiting: int
    result_bytes_waiting: int
    def __init__(self, partition: _Optional[int] = ..., counts: _Optional[_Union[MessageCounts, _Mapping]] = ..., totals: _Optional[_Union[QueueTotals, _Mapping]] = ..., oldest_offset: _Optional[int] = ..., oldest_seconds: _Optional[float] = ..., parked_keys: _Optional[int] = ..., dead_letters_written: _Optional[int] = ..., results_waiting: _Optional[int] = ..., result_bytes_waiting: _Optional[int] = ...) -> None: ...

class ListInFlightRequest(_message.Message):
    __slots__ = ("topic", "group", "page_size", "page_token")
    TOPIC_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    topic: str
    group: str
    page_size: int
    page_token: str
    def __init__(self, topic: _Optional[str] = ..., group: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListInFlightResponse(_message.Message):
    __slots__ = ("messages", "next_page_token")
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    messages: _containers.RepeatedCompositeFieldContainer[InFlight]
    next_page_token: str
    def __init__(self, messages: _Optional[_Iterable[_Union[InFlight, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class InFlight(_message.Message):
    __slots__ = ("partition", "offset", "lease", "attempt", "hand_outs", "lease_deadline", "consumer", "client_id", "address", "last_error")
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    LEASE_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    HAND_OUTS_FIELD_NUMBER: _ClassVar[int]
    LEASE_DEADLINE_FIELD_NUMBER: _ClassVar[int]
    CONSUMER_FIELD_NUMBER: _ClassVar[int]
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    LAST_ERROR_FIELD_NUMBER: _ClassVar[int]
    partition: int
    offset: int
    lease: int
    attempt: int
    hand_outs: int
    lease_deadline: _timestamp_pb2.Timestamp
    consumer: int
    client_id: str
    address: str
    last_error: str
    def __init__(self, partition: _Optional[int] = ..., offset: _Optional[int] = ..., lease: _Optional[int] = ..., attempt: _Optional[int] = ..., hand_outs: _Optional[int] = ..., lease_deadline: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., consumer: _Optional[int] = ..., client_id: _Optional[str] = ..., address: _Optional[str] = ..., last_error: _Optional[str] = ...) -> None: ...

class UnparkKeysRequest(_message.Message):
    __slots__ = ("topic", "group", "key", "all", "validate_only")
    TOPIC_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    ALL_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    topic: str
    group: str
    key: bytes
    all: bool
    validate_only: bool
    def __init__(self, topic: _Optional[str] = ..., group: _Optional[str] = ..., key: _Optional[bytes] = ..., all: bool = ..., validate_only: bool = ...) -> None: ...

class UnparkKeysResponse(_message.Message):
    __slots__ = ("unparked",)
    UNPARKED_FIELD_NUMBER: _ClassVar[int]
    unparked: int
    def __init__(self, unparked: _Optional[int] = ...) -> None: ...

class GetStandingsRequest(_message.Message):
    __slots__ = ("topic", "partition", "offset")
    TOPIC_FIELD_NUMBER: _ClassVar[int]
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    topic: str
    partition: int
    offset: int
    def __init__(self, topic: _Optional[str] = ..., partition: _Optional[int] = ..., offset: _Optional[int] = ...) -> None: ...

class GetStandingsResponse(_message.Message):
    __slots__ = ("standings",)
    STANDINGS_FIELD_NUMBER: _ClassVar[int]
    standings: _containers.RepeatedCompositeFieldContainer[MessageStanding]
    def __init__(self, standings: _Optional[_Iterable[_Union[MessageStanding, _Mapping]]] = ...) -> None: ...

class MessageStanding(_message.Message):
    __slots__ = ("group", "is_queue", "state", "failed_attempts", "hand_outs", "first_failure", "last_error", "ready_time", "lease", "history")
    GROUP_FIELD_NUMBER: _ClassVar[int]
    IS_QUEUE_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    FAILED_ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    HAND_OUTS_FIELD_NUMBER: _ClassVar[int]
    FIRST_FAILURE_FIELD_NUMBER: _ClassVar[int]
    LAST_ERROR_FIELD_NUMBER: _ClassVar[int]
    READY_TIME_FIELD_NUMBER: _ClassVar[int]
    LEASE_FIELD_NUMBER: _ClassVar[int]
    HISTORY_FIELD_NUMBER: _ClassVar[int]
    group: str
    is_queue: bool
    state: MessageState
    failed_attempts: int
    hand_outs: int
    first_failure: _timestamp_pb2.Timestamp
    last_error: str
    ready_time: _timestamp_pb2.Timestamp
    lease: InFlight
    history: _containers.RepeatedCompositeFieldContainer[_types_pb2.FailedAttempt]
    def __init__(self, group: _Optional[str] = ..., is_queue: bool = ..., state: _Optional[_Union[MessageState, str]] = ..., failed_attempts: _Optional[int] = ..., hand_outs: _Optional[int] = ..., first_failure: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., last_error: _Optional[str] = ..., ready_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., lease: _Optional[_Union[InFlight, _Mapping]] = ..., history: _Optional[_Iterable[_Union[_types_pb2.FailedAttempt, _Mapping]]] = ...) -> None: ...
