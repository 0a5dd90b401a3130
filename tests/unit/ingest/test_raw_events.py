"""An event received in columns and stored as a row is read like an event sent as a row."""

from __future__ import annotations

import struct
import uuid
from collections.abc import Sequence

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st
from meterline_ingest.capture.call import Origin, Submission
from meterline_ingest.capture.parse import columns as translate
from meterline_ingest.capture.parse import to_event, wire
from meterline_ingest.capture.parse.rows import RowReader
from meterline_ingest.capture.rules.quantities import MAX_SENT_SCALE
from meterline_ingest.event.columns import Columns
from meterline_protos.ingest.v1 import capture_pb2
from opentelemetry.trace import INVALID_SPAN_CONTEXT

pytestmark = pytest.mark.req("O2")

ORIGIN = Origin("test", 0, None, INVALID_SPAN_CONTEXT)
SECONDS_MAX = 253_402_300_799

texts = st.text(max_size=20)
maps = st.dictionaries(texts, texts, max_size=3)
# Values that both forms can hold; further values are tried below.
times = st.integers(1, SECONDS_MAX * 1_000_000)
units = st.integers(-(10**18) + 1, 10**18 - 1)
events = st.builds(
    lambda text_id, tenant, kind, subject, time_us, dimensions, properties, quantities: {
        "text_id": text_id,
        "tenant": tenant,
        "type": kind,
        "subject": subject,
        "time_us": time_us,
        "dimensions": dimensions,
        "properties": properties,
        "quantities": quantities,
    },
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=30),
    st.sampled_from(["acme", "bolt"]),
    texts,
    texts,
    times,
    maps,
    maps,
    st.dictionaries(st.sampled_from(["a", "b", "c"]), units),
)
SCALES = {"a": 0, "b": 2, "c": 9}


def to_columns(made: Sequence[dict[str, object]], *, text_ids: bool) -> Columns:
    """Columns with one dictionary entry for each row."""
    count = len(made)
    index = struct.pack(f"<{count}I", *range(count))
    uuids = [uuid.UUID(int=at).bytes for at in range(count)]
    message = capture_pb2.EventColumns(
        tenants=[each["tenant"] for each in made],  # type: ignore[misc]
        tenant_index=index,
        types=[each["type"] for each in made],  # type: ignore[misc]
        type_index=index,
        subjects=[each["subject"] for each in made],  # type: ignore[misc]
        subject_index=index,
        dimension_sets=[capture_pb2.DimensionSet(values=each["dimensions"]) for each in made],  # type: ignore[arg-type]
        dimension_set_index=index,
        property_sets=[capture_pb2.PropertySet(values=each["properties"]) for each in made],  # type: ignore[arg-type]
        property_set_index=index,
        text_ids=[str(each["text_id"]) for each in made] if text_ids else (),
        event_ids=b"" if text_ids else b"".join(uuids),
        times_us=struct.pack(f"<{count}q", *(each["time_us"] for each in made)),
    )
    for name, scale in SCALES.items():
        values = [each["quantities"].get(name) for each in made]  # type: ignore[attr-defined]
        message.quantities.add(
            name=name,
            scale=scale,
            units=struct.pack(f"<{count}q", *(value or 0 for value in values)),
            present=bytes(value is not None for value in values),
        )
    return read_columns(message)


def read_columns(message: capture_pb2.EventColumns) -> Columns:
    """Parses columns as capture does."""
    request = capture_pb2.ReportRequest(columns=message)
    received = wire.ReportRequest.FromString(request.SerializeToString())
    return translate.from_columns(received.columns, "acme", "test")


def reread(submission: Submission) -> Columns:
    """Stores all rows of a call and reads them as a replay does."""
    kept = [to_event.to_bytes(to_event.event(submission, row)) for row in range(len(submission))]
    reader = RowReader(frozenset())
    reader.add([wire.Event.FromString(each) for each in kept], "acme", "test")
    return reader.finish()


def plain(columns: Columns, row: int) -> dict[str, object]:
    """The content of a row, independent of its form. Quantities are compared by value."""
    return {
        "id": columns.ids[row].tobytes(),
        "text_id": None if columns.text_ids is None else columns.text_ids[row],
        "tenant": columns.tenants[columns.tenant_index[row]],
        "type": columns.types[columns.type_index[row]],
        "subject": columns.subjects[columns.subject_index[row]],
        "time": int(columns.times_us[row]),
        "dimensions": columns.dimension_sets[columns.dimension_index[row]],
        "properties": columns.property_sets[columns.property_index[row]],
        "quantities": {
            each.name: int(each.units[row]) * 10 ** (9 - each.scale)
            for each in columns.quantities
            if each.present is None or each.present[row]
        },
    }


async def submission_of(columns: Columns) -> Submission:
    return Submission(ORIGIN, "acme", columns=columns)


@given(st.lists(events, min_size=1, max_size=5), st.booleans())
@settings(max_examples=80, deadline=None)
async def test_stored_columns_are_reread_as_rows(made: list[dict[str, object]], text_ids: bool) -> None:
    columns, rows = to_columns(made, text_ids=text_ids), range(len(made))
    again = reread(await submission_of(columns))
    assert again.misread == {}
    assert [plain(again, row) for row in rows] == [plain(columns, row) for row in rows]


@given(st.integers(-(2**63), 2**63 - 1), st.integers(-(2**63), 2**63 - 1), st.integers(0, 300))
@settings(max_examples=80, deadline=None)
async def test_out_of_range_numbers_are_kept_unchanged(time_us: int, units: int, scale: int) -> None:
    message = capture_pb2.EventColumns(
        types=["t"],
        event_ids=bytes(16),
        times_us=struct.pack("<q", time_us),
        quantities=[capture_pb2.QuantityColumn(name="a", scale=scale, units=struct.pack("<q", units))],
    )
    event = to_event.event(await submission_of(read_columns(message)), 0)
    assert event.time.seconds * 1_000_000 + event.time.nanos // 1_000 == time_us
    text = event.quantities["a"]
    whole, _, decimals = text.partition(".")
    # At such a scale every value except 0 has too many decimals, so a larger scale tests nothing new.
    assert len(decimals) == min(scale, MAX_SENT_SCALE)
    assert int(whole + decimals) == units


@given(st.lists(st.binary(max_size=100), max_size=3))
@settings(max_examples=300, deadline=None)
async def test_stored_event_is_stable_over_repeated_rereads(garbage: list[bytes]) -> None:
    """A call is parsed, or refused as a whole. A parsed event is written, read and written again."""
    batch = b"".join(b"\x0a" + bytes([len(each)]) + each for each in garbage)
    try:
        events = wire.ReportRequest.FromString(b"\x22" + _length(batch) + batch).rows.events
    except DecodeError:
        return
    submission = Submission(ORIGIN, "acme", rows=events)
    for row in range(len(events)):
        kept = to_event.to_bytes(to_event.event(submission, row))
        assert wire.Event.FromString(kept) == events[row]
        assert to_event.to_bytes(wire.Event.FromString(kept)) == kept


def _length(data: bytes) -> bytes:
    """A length of up to 16 KiB as a varint."""
    return bytes([len(data) & 0x7F | 0x80, len(data) >> 7])
