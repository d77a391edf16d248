from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class GetStatsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetStatsResponse(_message.Message):
    __slots__ = ("version", "uptime_ms", "cpu_us", "rss_bytes", "rss_peak_bytes", "connections", "topics", "partitions", "messages_in", "bytes_in", "messages_out", "bytes_out", "syncs", "sync_p50_us", "sync_p99_us", "disk_free_bytes", "durability")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    UPTIME_MS_FIELD_NUMBER: _ClassVar[int]
    CPU_US_FIELD_NUMBER: _ClassVar[int]
    RSS_BYTES_FIELD_NUMBER: _ClassVar[int]
    RSS_PEAK_BYTES_FIELD_NUMBER: _ClassVar[int]
    CONNECTIONS_FIELD_NUMBER: _ClassVar[int]
    TOPICS_FIELD_NUMBER: _ClassVar[int]
    PARTITIONS_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_IN_FIELD_NUMBER: _ClassVar[int]
    BYTES_IN_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_OUT_FIELD_NUMBER: _ClassVar[int]
    BYTES_OUT_FIELD_NUMBER: _ClassVar[int]
    SYNCS_FIELD_NUMBER: _ClassVar[int]
    SYNC_P50_US_FIELD_NUMBER: _ClassVar[int]
    SYNC_P99_US_FIELD_NUMBER: _ClassVar[int]
    DISK_FREE_BYTES_FIELD_NUMBER: _ClassVar[int]
    DURABILITY_FIELD_NUMBER: _ClassVar[int]
    version: str
    uptime_ms: int
    cpu_us: int
    rss_bytes: int
    rss_peak_bytes: int
    connections: int
    topics: int
    partitions: int
    messages_in: int
    bytes_in: int
    messages_out: int
    bytes_out: int
    syncs: int
    sync_p50_us: int
    sync_p99_us: int
    disk_free_bytes: int
    durability: str
    def __init__(self, version: _Optional[str] = ..., uptime_ms: _Optional[int] = ..., cpu_us: _Optional[int] = ..., rss_bytes: _Optional[int] = ..., rss_peak_bytes: _Optional[int] = ..., connections: _Optional[int] = ..., topics: _Optional[int] = ..., partitions: _Optional[int] = ..., messages_in: _Optional[int] = ..., bytes_in: _Optional[int] = ..., messages_out: _Optional[int] = ..., bytes_out: _Optional[int] = ..., syncs: _Optional[int] = ..., sync_p50_us: _Optional[int] = ..., sync_p99_us: _Optional[int] = ..., disk_free_bytes: _Optional[int] = ..., durability: _Optional[str] = ...) -> None: ...
