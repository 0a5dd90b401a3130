"""Reads the protos for architecture tests: every element that can have a comment, and its comment."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from google.protobuf import descriptor_pb2

from tests.architecture.tree import ROOT

# Field numbers of descriptor.proto, which make up the paths of comments.
_MESSAGES, _ENUMS, _SERVICES = 4, 5, 6
_FIELDS, _NESTED, _NESTED_ENUMS, _ONEOFS = 2, 3, 4, 8
_MEMBERS = 2

_Path = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Element:
    """One message, field, oneof, enum, enum value, service or RPC.

    kind: `message`, `field`, `oneof`, `enum`, `value`, `service` or `rpc`
    name: with its package and what it is in, for example `meterline.common.v1.TimeRange.start_time`
    comment: the lines before it, without `//`; empty when there are none
    """

    kind: str
    name: str
    comment: str


@cache
def elements(source: Path = ROOT) -> tuple[Element, ...]:
    """All elements of the protos of the buf workspace `source`, in the order of files."""
    buf = str(Path(sys.executable).parent / "buf")
    built = subprocess.run([buf, "build", "-o", "-"], cwd=source, check=True, capture_output=True)
    files = descriptor_pb2.FileDescriptorSet.FromString(built.stdout).file
    return tuple(each for file in files if file.package.startswith("meterline.") for each in _of_file(file))


def _of_file(file: descriptor_pb2.FileDescriptorProto) -> Iterator[Element]:
    comments = {
        tuple(location.path): location.leading_comments.strip() for location in file.source_code_info.location
    }
    for kind, name, path in _named(file):
        yield Element(kind, name, comments.get(path, ""))


def _named(file: descriptor_pb2.FileDescriptorProto) -> Iterator[tuple[str, str, _Path]]:
    for at, message in enumerate(file.message_type):
        yield from _of_message(message, file.package, (_MESSAGES, at))
    for at, enum in enumerate(file.enum_type):
        yield from _of_enum(enum, file.package, (_ENUMS, at))
    for at, service in enumerate(file.service):
        name, path = f"{file.package}.{service.name}", (_SERVICES, at)
        yield "service", name, path
        for number, method in enumerate(service.method):
            yield "rpc", f"{name}.{method.name}", (*path, _MEMBERS, number)


def _of_message(
    message: descriptor_pb2.DescriptorProto, within: str, path: _Path
) -> Iterator[tuple[str, str, _Path]]:
    if message.options.map_entry:
        return
    name = f"{within}.{message.name}"
    yield "message", name, path
    for at, field in enumerate(message.field):
        yield "field", f"{name}.{field.name}", (*path, _FIELDS, at)
    # Oneofs that `optional` generates have no source text.
    optional = {field.oneof_index for field in message.field if field.proto3_optional}
    for at, oneof in enumerate(message.oneof_decl):
        if at not in optional:
            yield "oneof", f"{name}.{oneof.name}", (*path, _ONEOFS, at)
    for at, nested in enumerate(message.nested_type):
        yield from _of_message(nested, name, (*path, _NESTED, at))
    for at, enum in enumerate(message.enum_type):
        yield from _of_enum(enum, name, (*path, _NESTED_ENUMS, at))


def _of_enum(
    enum: descriptor_pb2.EnumDescriptorProto, within: str, path: _Path
) -> Iterator[tuple[str, str, _Path]]:
    name = f"{within}.{enum.name}"
    yield "enum", name, path
    for at, value in enumerate(enum.value):
        yield "value", f"{name}.{value.name}", (*path, _MEMBERS, at)
