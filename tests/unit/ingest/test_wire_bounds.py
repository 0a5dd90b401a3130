"""Requests with too many parts are refused by a scan of their bytes; malformed requests are refused."""

from __future__ import annotations

import contextlib

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st
from meterline.errors import InvalidArgumentError
from meterline_ingest.capture.parse import wire
from meterline_ingest.event.bounds import MAX_ROWS
from meterline_protos.ingest.v1 import capture_pb2, corrections_pb2

from tests.support.capture import Sample, columns, rows
from tests.support.wire_format import part, varint

pytestmark = pytest.mark.req("T2.4", "T8.3")

# Long enough that the request is scanned before it is parsed.
LONG = "s" * (600 << 10)


EMPTY_EVENT = part(1, b"")
EMPTY_ENTRY = part(6, b"")


@pytest.mark.parametrize(
    ("data", "field"),
    [
        (part(4, EMPTY_EVENT * 1_000_000), "rows.events"),
        (part(4, EMPTY_EVENT * 600) * 600, "rows.events"),
        (part(4, EMPTY_EVENT * 3 + part(1, EMPTY_ENTRY * 1_000_000)), "rows.events[3]"),
        (part(5, part(7, b"") * 1_000_000), "columns"),
        (part(5, part(12, b"") * 1_000_000), "columns"),
        (part(5, part(7, part(1, b"") * 1_000_000)), "columns.dimension_sets"),
        (part(1, LONG.encode())[:-1], "request"),
        (b"\x0b" * 1_000_000, "request"),
        (b"\x22", "request"),
        (b"\xff" * 30, "request"),
    ],
)
def test_bomb_is_refused_by_field_without_parsing(data: bytes, field: str) -> None:
    with pytest.raises(InvalidArgumentError) as refused:
        wire.read_report(data)
    assert refused.value.field == field


def test_bomb_on_a_stream_is_refused() -> None:
    with pytest.raises(InvalidArgumentError) as refused:
        wire.read_stream(part(3, EMPTY_ENTRY * 1_000_000))
    assert refused.value.field == "event"


def test_bomb_in_an_import_is_refused() -> None:
    rows_field = corrections_pb2.ImportEventsRequest.ROWS_FIELD_NUMBER
    with pytest.raises(InvalidArgumentError) as refused:
        wire.read_import(part(rows_field, EMPTY_EVENT * 1_000_000))
    assert refused.value.field == "rows.events"


def test_overlong_length_is_refused_quickly() -> None:
    """Decoding it would take minutes, since each byte lengthens the number that all earlier bytes form."""
    with pytest.raises(InvalidArgumentError) as refused:
        wire.read_report(b"\x0a" + b"\xff" * 4_000_000)
    assert refused.value.field == "request"


@pytest.mark.parametrize("form", [rows, columns])
def test_largest_valid_request_is_parsed(form: object) -> None:
    assert callable(form)
    samples = [Sample(subject=f"{at}-{LONG[:600]}") for at in range(MAX_ROWS)]
    request = form(*samples)
    read = wire.read_report(request.SerializeToString())
    assert read.message.SerializeToString() == request.SerializeToString()
    assert read.size == request.ByteSize()


@given(st.lists(st.integers(0, 2**64 - 1), max_size=5), st.lists(st.binary(max_size=300), max_size=5))
def test_parts_are_counted_between_fields_of_any_type(numbers: list[int], texts: list[bytes]) -> None:
    data = b""
    for value in numbers:
        data += b"\x08" + varint(value) + b"\x09" + value.to_bytes(8, "little") + b"\x0d" + b"\xff" * 4
    for text in texts:
        data += b"\x08\x01" + part(2, text)
    found = [data[start:end] for _, start, end in wire._parts(data, 0, len(data))]
    assert found == texts


PADDING = part(2, LONG.encode())


@settings(deadline=None, max_examples=50)
@given(st.binary(max_size=200))
def test_any_bytes_are_parsed_or_refused(data: bytes) -> None:
    for padded in (data, data + PADDING, PADDING + data):
        try:
            expected = capture_pb2.ReportRequest.FromString(padded)
        except DecodeError:
            # Map entries are parsed lazily.
            with contextlib.suppress(InvalidArgumentError):
                assert wire.read_report(padded).message.HasField("batch")
        else:
            assert wire.read_report(padded).message.source == expected.source
