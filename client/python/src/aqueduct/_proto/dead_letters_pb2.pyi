from aqueduct._proto import groups_pb2 as _groups_pb2
from aqueduct._proto import types_pb2 as _types_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DeadReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DEAD_REASON_UNSPECIFIED: _ClassVar[DeadReason]
    DEAD_REASON_ATTEMPTS: _ClassVar[DeadReason]
    DEAD_REASON_HAND_OUTS: _ClassVar[DeadReason]
    DEAD_REASON_REJECTED: _ClassVar[DeadReason]
    DEAD_REASON_EXPIRED: _ClassVar[DeadReason]
    DEAD_REASON_PARKED: _ClassVar[DeadReason]
DEAD_REASON_UNSPECIFIED: DeadReason
DEAD_REASON_ATTEMPTS: DeadReason
DEAD_REASON_HAND_OUTS: DeadReason
DEAD_REASON_REJECTED: DeadReason
DEAD_REASON_EXPIRED: DeadReason
DEAD_REASON_PARKED: DeadReason

class DeadLetter(_message.Message):
    __slots__ = ("record", "reason", "error", "source_topic", "source_partition", "source_offset", "group", "number", "attempts", "hand_outs", "first_failure", "death_time", "publish_time", "history")
    RECORD_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    SOURCE_TOPIC_FIELD_NUMBER: _ClassVar[int]
    SOURCE_PARTITION_FIELD_NUMBER: _ClassVar[int]
    SOURCE_OFFSET_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    HAND_OUTS_FIELD_NUMBER: _ClassVar[int]
    FIRST_FAILURE_FIELD_NUMBER: _ClassVar[int]
    DEATH_TIME_FIELD_NUMBER: _ClassVar[int]
    PUBLISH_TIME_FIELD_NUMBER: _ClassVar[int]
    HISTORY_FIELD_NUMBER: _ClassVar[int]
    record: _types_pb2.Record
    reason: DeadReason
    error: str
    source_topic: str
    source_partition: int
    source_offset: int
    group: str
    number: int
    attempts: int
    hand_outs: int
    first_failure: _timestamp_pb2.Timestamp
    death_time: _timestamp_pb2.Timestamp
    publish_time: _timestamp_pb2.Timestamp
    history: _containers.RepeatedCompositeFieldContainer[_types_pb2.FailedAttempt]
    def __init__(self, record: _Optional[_Union[_types_pb2.Record, _Mapping]] = ..., reason: _Optional[_Union[DeadReason, str]] = ..., error: _Optional[str] = ..., source_topic: _Optional[str] = ..., source_partition: _Optional[int] = ..., source_offset: _Optional[int] = ..., group: _Optional[str] = ..., number: _Optional[int] = ..., attempts: _Optional[int] = ..., hand_outs: _Optional[int] = ..., first_failure: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., death_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., publish_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., history: _Optional[_Iterable[_Union[_types_pb2.FailedAttempt, _Mapping]]] = ...) -> None: ...

class DeadLetterFilter(_message.Message):
    __slots__ = ("reasons", "key", "headers", "died_from", "died_until", "error_contains", "source_partition", "ids")
    REASONS_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    HEADERS_FIELD_NUMBER: _ClassVar[int]
    DIED_FROM_FIELD_NUMBER: _ClassVar[int]
    DIED_UNTIL_FIELD_NUMBER: _ClassVar[int]
    ERROR_CONTAINS_FIELD_NUMBER: _ClassVar[int]
    SOURCE_PARTITION_FIELD_NUMBER: _ClassVar[int]
    IDS_FIELD_NUMBER: _ClassVar[int]
    reasons: _containers.RepeatedScalarFieldContainer[DeadReason]
    key: bytes
    headers: _containers.RepeatedCompositeFieldContainer[_groups_pb2.HeaderCondition]
    died_from: _timestamp_pb2.Timestamp
    died_until: _timestamp_pb2.Timestamp
    error_contains: str
    source_partition: int
    ids: _containers.RepeatedCompositeFieldContainer[DeadLetterId]
    def __init__(self, reasons: _Optional[_Iterable[_Union[DeadReason, str]]] = ..., key: _Optional[bytes] = ..., headers: _Optional[_Iterable[_Union[_groups_pb2.HeaderCondition, _Mapping]]] = ..., died_from: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., died_until: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., error_contains: _Optional[str] = ..., source_partition: _Optional[int] = ..., ids: _Optional[_Iterable[_Union[DeadLetterId, _Mapping]]] = ...) -> None: ...

class DeadLetterId(_message.Message):
    __slots__ = ("partition", "offset")
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    partition: int
    offset: int
    def __init__(self, partition: _Optional[int] = ..., offset: _Optional[int] = ...) -> None: ...

class ListDeadLettersRequest(_message.Message):
    __slots__ = ("topic", "group", "filter", "page_size", "page_token")
    TOPIC_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    topic: str
    group: str
    filter: DeadLetterFilter
    page_size: int
    page_token: str
    def __init__(self, topic: _Optional[str] = ..., group: _Optional[str] = ..., filter: _Optional[_Union[DeadLetterFilter, _Mapping]] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListDeadLettersResponse(_message.Message):
    __slots__ = ("dead_letters", "next_page_token")
    DEAD_LETTERS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    dead_letters: _containers.RepeatedCompositeFieldContainer[DeadLetter]
    next_page_token: str
    def __init__(self, dead_letters: _Optional[_Iterable[_Union[DeadLetter, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class GetDeadLetterRequest(_message.Message):
    __slots__ = ("topic", "group", "partition", "offset")
    TOPIC_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    topic: str
    group: str
    partition: int
    offset: int
    def __init__(self, topic: _Optional[str] = ..., group: _Optional[str] = ..., partition: _Optional[int] = ..., offset: _Optional[int] = ...) -> None: ...

class RedriveRequest(_message.Message):
    __slots__ = ("topic", "group", "filter", "to_topic", "set_headers", "remove_headers", "messages_per_second", "max_messages", "validate_only")
    TOPIC_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    TO_TOPIC_FIELD_NUMBER: _ClassVar[int]
    SET_HEADERS_FIELD_NUMBER: _ClassVar[int]
    REMOVE_HEADERS_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    MAX_MESSAGES_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    topic: str
    group: str
    filter: DeadLetterFilter
    to_topic: str
    set_headers: _containers.RepeatedCompositeFieldContainer[_types_pb2.Header]
    remove_headers: _containers.RepeatedScalarFieldContainer[str]
    messages_per_second: int
    max_messages: int
    validate_only: bool
    def __init__(self, topic: _Optional[str] = ..., group: _Optional[str] = ..., filter: _Optional[_Union[DeadLetterFilter, _Mapping]] = ..., to_topic: _Optional[str] = ..., set_headers: _Optional[_Iterable[_Union[_types_pb2.Header, _Mapping]]] = ..., remove_headers: _Optional[_Iterable[str]] = ..., messages_per_second: _Optional[int] = ..., max_messages: _Optional[int] = ..., validate_only: bool = ...) -> None: ...

class DiscardRequest(_message.Message):
    __slots__ = ("topic", "group", "filter", "max_messages", "validate_only")
    TOPIC_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    MAX_MESSAGES_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    topic: str
    group: str
    filter: DeadLetterFilter
    max_messages: int
    validate_only: bool
    def __init__(self, topic: _Optional[str] = ..., group: _Optional[str] = ..., filter: _Optional[_Union[DeadLetterFilter, _Mapping]] = ..., max_messages: _Optional[int] = ..., validate_only: bool = ...) -> None: ...

class DeadLettersProgress(_message.Message):
    __slots__ = ("total", "examined", "matched", "moved", "failed", "done", "reasons")
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    EXAMINED_FIELD_NUMBER: _ClassVar[int]
    MATCHED_FIELD_NUMBER: _ClassVar[int]
    MOVED_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    REASONS_FIELD_NUMBER: _ClassVar[int]
    total: int
    examined: int
    matched: int
    moved: int
    failed: int
    done: bool
    reasons: _containers.RepeatedCompositeFieldContainer[DeadReasonCount]
    def __init__(self, total: _Optional[int] = ..., examined: _Optional[int] = ..., matched: _Optional[int] = ..., moved: _Optional[int] = ..., failed: _Optional[int] = ..., done: bool = ..., reasons: _Optional[_Iterable[_Union[DeadReasonCount, _Mapping]]] = ...) -> None: ...

class DeadReasonCount(_message.Message):
    __slots__ = ("reason", "messages")
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    reason: DeadReason
    messages: int
    def __init__(self, reason: _Optional[_Union[DeadReason, str]] = ..., messages: _Optional[int] = ...) -> None: ...
