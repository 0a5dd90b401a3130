"""Reads `ReportRequest` with the entries of maps as bytes, and refuses what is no valid request.

On the wire a map is a repeated message, and a message has the form of a bytes field. Read that way, a set
of dimensions is a tuple of bytes, which is looked up undecoded: only its first occurrence in a batch is
decoded. This makes reading rows a third cheaper. Everything else is as in capture.proto, from which the
view is derived at start-up.

An empty event takes two bytes on the wire and 350 once it is read. So the parts of large requests are
counted first: a request with more than capture takes is not parsed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, timestamp_pb2
from google.protobuf.message import DecodeError
from meterline.errors import InvalidArgumentError
from meterline_protos.ingest.v1 import capture_pb2, corrections_pb2

from meterline_ingest.event.bounds import MAX_COLUMN_ROWS, MAX_ROWS

M = TypeVar("M")

# Parsing a smaller request takes 25 MB for a moment at worst. Counting a thousand rows takes 0.3 ms.
_SMALL_REQUEST: Final = 128 << 10
_SMALL_EVENT: Final = 2 << 10
# An event has 5 fields and at most 52 entries of maps.
_MAX_FIELDS: Final = 64
# Six columns may have an entry for each row.
_MAX_ENTRIES: Final = 7 * MAX_COLUMN_ROWS

# The shift of a varint's tenth byte, the last that 64 bits can need.
_LONGEST_SHIFT: Final = 63

_FIELD = descriptor_pb2.FieldDescriptorProto
_PACKAGE = "meterline.ingest.wire"


def _derive() -> dict[str, Any]:
    """Message classes by name, of a copy of capture.proto under another package."""
    file = descriptor_pb2.FileDescriptorProto()
    capture_pb2.DESCRIPTOR.CopyToProto(file)
    original = file.package
    file.name, file.package = "meterline/ingest/wire.proto", _PACKAGE
    del file.service[:]
    # The services are dropped, and the imports for their options with them.
    del file.dependency[:]
    file.dependency.append(timestamp_pb2.DESCRIPTOR.name)
    for message in file.message_type:
        entries = {each.name for each in message.nested_type if each.options.map_entry}
        for field in message.field:
            kind = field.type_name.rpartition(".")[2]
            if kind in entries:
                field.type = _FIELD.TYPE_BYTES
                field.ClearField("type_name")
            elif kind:
                field.type_name = field.type_name.replace(f".{original}.", f".{_PACKAGE}.")
        kept = [each for each in message.nested_type if each.name not in entries]
        del message.nested_type[:]
        message.nested_type.extend(kept)
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(timestamp_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    return message_factory.GetMessageClassesForFiles([file.name], pool)


_CLASSES = _derive()

if TYPE_CHECKING:
    Event = capture_pb2.Event
    ReportRequest = capture_pb2.ReportRequest
    StreamRequest = capture_pb2.StreamRequest
else:
    Event = _CLASSES[f"{_PACKAGE}.Event"]
    ReportRequest = _CLASSES[f"{_PACKAGE}.ReportRequest"]
    StreamRequest = _CLASSES[f"{_PACKAGE}.StreamRequest"]


def events(messages: Iterable[capture_pb2.Event]) -> list[capture_pb2.Event]:
    """Events that this process made, in the form in which they would have been received."""
    rows = capture_pb2.EventRows(events=messages)
    read = ReportRequest.FromString(capture_pb2.ReportRequest(rows=rows).SerializeToString())
    return list(read.rows.events)


@dataclass(frozen=True, slots=True)
class Received(Generic[M]):
    """A request and its size in bytes, which its message would have to compute again."""

    message: M
    size: int


def read_report(data: bytes) -> Received[capture_pb2.ReportRequest]:
    """Raises InvalidArgumentError, as the other readers do."""
    return _read(data, ReportRequest.FromString, _count_report)


def read_stream(data: bytes) -> Received[capture_pb2.StreamRequest]:
    return _read(data, StreamRequest.FromString, _count_stream)


def read_import(data: bytes) -> corrections_pb2.ImportEventsRequest:
    """Parses the proto's own message, but counts its parts first as well."""
    return _read(data, corrections_pb2.ImportEventsRequest.FromString, _count_import).message


def _read(data: bytes, parse: Callable[[bytes], M], count: Callable[[bytes], None]) -> Received[M]:
    try:
        if len(data) > _SMALL_REQUEST:
            count(data)
        return Received(parse(data), len(data))
    except (DecodeError, IndexError):
        rule = "must be a message of the proto"
        raise InvalidArgumentError("request", rule, "REQUEST_INVALID") from None


def _count_report(data: bytes) -> None:
    _count_events(
        data, capture_pb2.ReportRequest.ROWS_FIELD_NUMBER, capture_pb2.ReportRequest.COLUMNS_FIELD_NUMBER
    )


def _count_import(data: bytes) -> None:
    message = corrections_pb2.ImportEventsRequest
    _count_events(data, message.ROWS_FIELD_NUMBER, message.COLUMNS_FIELD_NUMBER)


def _count_events(data: bytes, rows: int, columns: int) -> None:
    """`rows` and `columns` are the numbers of the fields that have the events."""
    events = entries = 0
    for field, start, end in _parts(data, 0, len(data)):
        if field == rows:
            for _, first, last in _parts(data, start, end):
                events += 1
                if events > MAX_ROWS:
                    raise InvalidArgumentError("rows.events", f"at most {MAX_ROWS}", "TOO_MANY_EVENTS")
                if last - first > _SMALL_EVENT:
                    _count_fields(data, first, last, f"rows.events[{events - 1}]")
        elif field == columns:
            for column, first, last in _parts(data, start, end):
                entries += 1
                if entries > _MAX_ENTRIES:
                    raise InvalidArgumentError("columns", f"at most {_MAX_ENTRIES} entries of dictionaries")
                sets = _SETS.get(column)
                if sets and last - first > _SMALL_EVENT:
                    _count_fields(data, first, last, f"columns.{sets}")


_SETS: Final = {
    capture_pb2.EventColumns.DIMENSION_SETS_FIELD_NUMBER: "dimension_sets",
    capture_pb2.EventColumns.PROPERTY_SETS_FIELD_NUMBER: "property_sets",
}


def _count_stream(data: bytes) -> None:
    for field, start, end in _parts(data, 0, len(data)):
        if field == capture_pb2.StreamRequest.EVENT_FIELD_NUMBER:
            _count_fields(data, start, end, "event")


def _count_fields(data: bytes, start: int, end: int, name: str) -> None:
    for count, _ in enumerate(_parts(data, start, end), start=1):
        if count > _MAX_FIELDS:
            raise InvalidArgumentError(name, f"at most {_MAX_FIELDS} fields and entries of maps")


def _parts(data: bytes, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """(field, start, end) of a message's length-delimited fields. Raises IndexError past the end."""
    while at < end:
        tag = data[at]
        at += 1
        if tag > 0x7F:
            tag, at = _number(data, at - 1)
        kind = tag & 7
        if kind == 2:
            # Nearly all lengths have one or two bytes; a call for each would take half of the time.
            size = data[at]
            at += 1
            if size > 0x7F:
                more = data[at]
                if more > 0x7F:
                    size, at = _number(data, at - 1)
                else:
                    size, at = (size & 0x7F) | more << 7, at + 1
            yield tag >> 3, at, at + size
            at += size
        elif kind == 0:
            _, at = _number(data, at)
        elif kind == 1:
            at += 8
        elif kind == 5:
            at += 4
        # Otherwise a group begins or ends; its fields count as the message's own.


def _number(data: bytes, at: int) -> tuple[int, int]:
    """A varint, and where it ends.

    Raises IndexError beyond ten bytes: a number that grows with the request would make reading it quadratic.
    """
    byte = data[at]
    value, shift = byte & 0x7F, 0
    while byte > 0x7F:
        at += 1
        shift += 7
        if shift > _LONGEST_SHIFT:
            raise IndexError("a varint of more than ten bytes")
        byte = data[at]
        value |= (byte & 0x7F) << shift
    return value, at + 1


def read_map(entries: Iterable[bytes]) -> dict[str, str]:
    """The map of `entries`. A repeated key has its last value, as in protobuf.

    Raises google.protobuf.message.DecodeError.
    """
    values: dict[str, str] = {}
    for entry in entries:
        # What every encoder writes for short texts: key, then value, each with a length of one byte.
        size = len(entry)
        split = entry[1] + 2 if size > 3 else size
        if (
            split + 1 < size < 128
            and entry[0] == 0x0A
            and entry[split] == 0x12
            and size == split + 2 + entry[split + 1]
        ):
            try:
                values[entry[2:split].decode()] = entry[split + 2 :].decode()
            except UnicodeDecodeError as error:
                raise DecodeError(str(error)) from error
        else:
            values.update(_read_any(entry))
    return values


def _read_any(entry: bytes) -> Mapping[str, str]:
    """Reads one entry in any valid encoding, as the only entry of a map."""
    size = len(entry)
    length = bytearray()
    while size > 0x7F:
        length.append(size & 0x7F | 0x80)
        size >>= 7
    length.append(size)
    return capture_pb2.DimensionSet.FromString(b"\x0a" + bytes(length) + entry).values
