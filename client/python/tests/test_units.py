"""Rules that need no broker."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import ModuleType

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool

import aqueduct
from aqueduct import Message, errors
from aqueduct._connection import Backoff, parse_address, to_duration
from aqueduct._ownership import Ownership, Position
from aqueduct._proto.status_pb2 import ErrorInfo, RetryInfo, Status
from aqueduct.messages import Record, position_to_proto, to_ms, to_time

PACKAGE = Path(__file__).resolve().parent.parent


def record(partition: int, offset: int, epoch: int) -> Record:
    return Record(partition, offset, 0, None, b"", (), epoch)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("localhost", "localhost:7320"),
        ("127.0.0.1:1", "127.0.0.1:1"),
        ("http://host:80/", "host:80"),
        ("aqueduct://host", "host:7320"),
        ("[::1]:5", "[::1]:5"),
        ("[::1]", "[::1]:7320"),
    ],
)
def test_addresses(text: str, address: str) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize("text", ["", ":5", "a:0", "a:65536", "a:b", "a/b:5", "https://a:1", "a b"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(aqueduct.InvalidArgument):
        parse_address(text)


def test_messages_become_bytes() -> None:
    time = datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=timezone.utc)
    sent = Message("é", key=b"k", headers=[("a", "1"), ("a", b"2")], partition=3, time=time)
    proto = sent.to_proto()
    assert (proto.value, proto.key, proto.partition) == ("é".encode(), b"k", 3)
    assert [(h.name, h.value) for h in proto.headers] == [("a", b"1"), ("a", b"2")]
    assert to_time(proto.timestamp_ms) == time
    tombstone = Message(None, headers={"a": "1"}).to_proto()
    assert not tombstone.HasField("value") and not tombstone.HasField("key")
    assert Message("").to_proto().HasField("value")
    assert to_ms(datetime(1969, 12, 31, 23, 59, 59, 999_000, tzinfo=timezone.utc)) == -1


@pytest.mark.parametrize(
    "message",
    [
        Message("v", partition=-1),
        Message("v", partition=1 << 40),
        Message(5),  # type: ignore[arg-type]
        Message("v", headers=[("only a name",)]),  # type: ignore[list-item]
        Message("v", headers={"a": 1.5}),  # type: ignore[arg-type]
    ],
)
def test_what_is_no_message(message: Message) -> None:
    with pytest.raises(aqueduct.InvalidArgument):
        message.to_proto()


def test_what_is_no_position() -> None:
    for position in (aqueduct.Offset(-1), aqueduct.Last(1 << 70), "start"):
        with pytest.raises(aqueduct.InvalidArgument):
            position_to_proto(position)  # type: ignore[arg-type]


def test_durations() -> None:
    assert to_duration(1.5).nanos == 500_000_000
    assert to_duration(timedelta(days=7)).seconds == 604_800
    with pytest.raises(aqueduct.InvalidArgument):
        to_duration(float("inf"))


def test_backoff_grows_to_a_ceiling_and_starts_over() -> None:
    backoff = Backoff(1, 4)
    assert all(backoff.next() <= ceiling for ceiling in (1, 2, 4, 4, 4))
    backoff.reset()
    assert backoff.next() <= 1


def test_every_class_has_a_reason_that_the_broker_gives() -> None:
    """A reason without a class of its own is an error of its gRPC code's class."""
    page = (PACKAGE.parent.parent / "docs" / "errors.md").read_text()
    reasons = {line.split("`")[1] for line in page.splitlines() if line.startswith("| `")}
    assert "TOPIC_NOT_FOUND" in reasons
    assert set(errors.BY_REASON) <= reasons


def test_errors_tell_failed_from_unknown() -> None:
    info = ErrorInfo(reason="OFFSET_OUT_OF_RANGE", metadata={"earliest": "3", "latest": "9"})
    delay = RetryInfo()
    delay.retry_delay.nanos = 250_000_000
    status = Status(code=11, message="no")
    for name, detail in (("ErrorInfo", info), ("RetryInfo", delay), ("Help", delay)):
        any_detail = status.details.add()
        any_detail.type_url = f"type.googleapis.com/google.rpc.{name}"
        any_detail.value = detail.SerializeToString()
    error = errors.from_status(status)
    assert isinstance(error, aqueduct.OffsetOutOfRange)
    assert (error.earliest, error.latest, error.retry_after) == (3, 9, 0.25)
    assert not error.is_unknown
    assert errors.from_status(Status(code=14)).is_unknown
    assert errors.from_status(Status(code=4)).is_unknown
    assert errors.from_status(Status(code=13)).is_unknown
    assert errors.from_status(Status(code=99)).code == "UNKNOWN"
    # A reason that this version does not know falls back to the class of its code.
    status.details[0].value = ErrorInfo(reason="NEW").SerializeToString()
    assert errors.from_status(status).reason == "NEW"


def test_every_public_name_is_exported() -> None:
    exported = set(aqueduct.__all__)
    assert all(hasattr(aqueduct, name) for name in exported)
    kinds = {name for name, value in vars(errors).items() if isinstance(value, type)}
    ours = {name for name in kinds if issubclass(getattr(errors, name), Exception)}
    assert ours - {"DecodeError"} <= exported


def test_what_is_done_is_committed_once() -> None:
    owned = Ownership(auto_commit=True)
    owned.assign(0, 7, 10)
    assert owned.hand_out(record(0, 10, 7)) and owned.hand_out(record(0, 11, 7))
    assert owned.due() == []
    owned.finish()
    assert owned.due() == [Position(0, 7, 12)]
    assert owned.due() == []
    owned.not_committed(Position(0, 7, 12))
    assert owned.due() == [Position(0, 7, 12)]
    owned.committed(Position(0, 7, 12))
    owned.not_committed(Position(0, 7, 12))
    assert owned.due() == []


def test_a_partition_is_given_back_when_its_record_is_done() -> None:
    owned = Ownership(auto_commit=True)
    owned.assign(0, 7, 0)
    owned.assign(1, 8, 0)
    owned.hand_out(record(0, 0, 7))
    assert owned.ask_back([0, 5], 100.0, told=True) == [0]
    assert not owned.hand_out(record(0, 1, 7)), "nothing more of it"
    assert owned.release(1.0) == []
    owned.finish()
    (position,) = owned.due()
    assert owned.release(1.0) == [], "its commit is on the way"
    owned.committed(position)
    assert owned.release(1.0) == [0]
    assert owned.partitions() == [1]


def test_without_automatic_commit_it_waits_for_the_caller_until_the_deadline() -> None:
    owned = Ownership(auto_commit=False)
    owned.assign(0, 7, 0)
    owned.hand_out(record(0, 4, 7))
    owned.finish()
    owned.ask_back([0], 100.0, told=False)
    owned.committed(Position(0, 7, 3))
    assert owned.release(1.0) == []
    owned.committed(Position(0, 7, 5))
    assert owned.release(1.0) == [], "the caller has not been told yet"
    owned.told([0])
    assert owned.release(1.0) == [0]
    owned.assign(1, 8, 0)
    owned.hand_out(record(1, 0, 8))
    owned.ask_back([1], 100.0, told=True)
    assert owned.release(99.0) == []
    assert owned.release(100.0) == [1]


def test_records_of_an_earlier_assignment_count_for_nothing() -> None:
    owned = Ownership(auto_commit=True)
    owned.assign(0, 7, 0)
    owned.hand_out(record(0, 0, 7))
    assert owned.take_away([0, 1]) == [0]
    owned.assign(0, 9, 0)
    owned.finish()
    assert owned.due() == []
    assert not owned.hand_out(record(0, 1, 7))
    owned.committed(Position(0, 7, 5))
    assert owned.hand_out(record(0, 0, 9))


def test_the_installed_package_is_whole() -> None:
    """What pip installed holds everything that the sources hold."""
    installed = {str(file) for file in importlib.metadata.files("aqueduct") or ()}
    if not any(name.startswith("aqueduct/") for name in installed):
        pytest.skip("installed in place")
    sources = (PACKAGE / "src" / "aqueduct").rglob("*.py*")
    named = {str(path.relative_to(PACKAGE / "src")) for path in sources if path.suffix != ".pyc"}
    assert "aqueduct/_proto/consumer_pb2.pyi" in named
    assert named | {"aqueduct/py.typed"} <= installed


def load_generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", PACKAGE / "generate.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_stubs_are_what_the_protos_give() -> None:
    """Compares the checked-in stubs with the descriptors that the broker was built from."""
    path = os.environ.get("BROKER_DESCRIPTORS")
    if path is None:
        pytest.skip("BROKER_DESCRIPTORS names no descriptors")
    built = descriptor_pb2.FileDescriptorSet.FromString(Path(path).read_bytes())
    expected = load_generate().adapted_files(built)
    assert len(expected) > 5
    for file in expected:
        importlib.import_module(file.name.removesuffix(".proto").replace("/", ".") + "_pb2")
        stub = descriptor_pb2.FileDescriptorProto()
        descriptor_pool.Default().FindFileByName(file.name).CopyToProto(stub)
        assert stub == file, f"{file.name} has changed: run generate.py"
