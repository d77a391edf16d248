"""Writes the stubs of src/aqueduct/_proto from the protos of the repository.

Run it after a change of proto/aqueduct/v1, in an environment of its own:

    python3 -m venv /tmp/generate && /tmp/generate/bin/pip install grpcio-tools==1.73.1
    /tmp/generate/bin/python generate.py

The version is pinned because it decides the oldest protobuf that can load the stubs
(pyproject.toml has the same floor). Users never run this: the stubs are checked in, and a test
compares them with the descriptors that the broker was built from.

The stubs are not quite what protoc would write of the files as they are:

- Annotations for HTTP are left out, and google.rpc.Status with its details is a message of our
  own package with the same fields. Otherwise this package would need googleapis-common-protos, or
  quarrel with it over who registers these files in the process.
- Files are called aqueduct/_proto/*.proto, so that the stubs find each other by their imports.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from google.protobuf import descriptor_pb2
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto

HERE = Path(__file__).resolve().parent
PROTOS = HERE.parent.parent / "proto"
STUBS = HERE / "src" / "aqueduct" / "_proto"
OURS = "aqueduct/v1/"
STUB_PATH = "aqueduct/_proto/"
STATUS_FILE = STUB_PATH + "status.proto"
DROPPED_IMPORTS = ("google/api/annotations.proto",)
MOVED_FILES = {"google/rpc/status.proto": STATUS_FILE}
MOVED_TYPES = {".google.rpc.Status": ".aqueduct.v1.Status"}


def status_file() -> FileDescriptorProto:
    """google.rpc.Status, ErrorInfo and RetryInfo, field for field, in our own package."""
    file = FileDescriptorProto(name=STATUS_FILE, package="aqueduct.v1", syntax="proto3")
    file.dependency[:] = ["google/protobuf/any.proto", "google/protobuf/duration.proto"]
    string, optional, repeated = (
        FieldDescriptorProto.TYPE_STRING,
        FieldDescriptorProto.LABEL_OPTIONAL,
        FieldDescriptorProto.LABEL_REPEATED,
    )
    message = FieldDescriptorProto.TYPE_MESSAGE

    status = file.message_type.add(name="Status")
    status.field.add(name="code", number=1, type=FieldDescriptorProto.TYPE_INT32, label=optional)
    status.field.add(name="message", number=2, type=string, label=optional)
    status.field.add(
        name="details",
        number=3,
        type=message,
        label=repeated,
        type_name=".google.protobuf.Any",
    )

    info = file.message_type.add(name="ErrorInfo")
    info.field.add(name="reason", number=1, type=string, label=optional)
    info.field.add(name="domain", number=2, type=string, label=optional)
    info.field.add(
        name="metadata",
        number=3,
        type=message,
        label=repeated,
        type_name=".aqueduct.v1.ErrorInfo.MetadataEntry",
    )
    entry = info.nested_type.add(name="MetadataEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=string, label=optional)
    entry.field.add(name="value", number=2, type=string, label=optional)

    retry = file.message_type.add(name="RetryInfo")
    retry.field.add(
        name="retry_delay",
        number=1,
        type=message,
        label=optional,
        type_name=".google.protobuf.Duration",
    )
    return file


def adapt(file: FileDescriptorProto) -> FileDescriptorProto:
    """A file of the API as the stubs have it (see the head of this script)."""
    adapted = FileDescriptorProto()
    adapted.CopyFrom(file)
    adapted.name = STUB_PATH + adapted.name.removeprefix(OURS)
    adapted.ClearField("source_code_info")
    imports = [
        MOVED_FILES.get(name, name.replace(OURS, STUB_PATH))
        for name in adapted.dependency
        if name not in DROPPED_IMPORTS
    ]
    adapted.dependency[:] = imports
    for service in adapted.service:
        for method in service.method:
            method.ClearField("options")
    for message in adapted.message_type:
        _adapt_message(message)
    return adapted


def _adapt_message(message: descriptor_pb2.DescriptorProto) -> None:
    for nested in message.nested_type:
        _adapt_message(nested)
    for field in message.field:
        field.ClearField("json_name")
        field.type_name = MOVED_TYPES.get(field.type_name, field.type_name)
        if not field.type_name:
            field.ClearField("type_name")


def adapted_files(descriptors: descriptor_pb2.FileDescriptorSet) -> list[FileDescriptorProto]:
    """Every file that has a stub, in the order of their dependencies."""
    return [status_file()] + [
        adapt(file) for file in descriptors.file if file.name.startswith(OURS)
    ]


def main() -> None:
    from grpc_tools import protoc  # noqa: PLC0415

    well_known = str(Path(protoc.__file__).parent / "_proto")
    sources = sorted(str(path.relative_to(PROTOS)) for path in (PROTOS / OURS).glob("*.proto"))
    with tempfile.TemporaryDirectory() as directory:
        compiled = Path(directory) / "compiled.bin"
        adapted = Path(directory) / "adapted.bin"
        out = f"--descriptor_set_out={compiled}"
        include = [f"-I{PROTOS}", f"-I{well_known}"]
        if protoc.main(["protoc", *include, "--include_imports", out, *sources]):
            sys.exit("the protos do not compile")
        descriptors = descriptor_pb2.FileDescriptorSet.FromString(compiled.read_bytes())
        files = adapted_files(descriptors)
        known = [file for file in descriptors.file if file.name.startswith("google/protobuf/")]
        staged = descriptor_pb2.FileDescriptorSet(file=known + files)
        adapted.write_bytes(staged.SerializeToString())
        for stub in STUBS.glob("*_pb2.py*"):
            stub.unlink()
        names = [file.name for file in files]
        outputs = [f"--python_out={HERE / 'src'}", f"--pyi_out={HERE / 'src'}"]
        if protoc.main(["protoc", f"--descriptor_set_in={adapted}", *outputs, *names]):
            sys.exit("the stubs could not be written")
    print(f"{len(names)} stubs in {STUBS}")


if __name__ == "__main__":
    main()
