"""Events as bytes of requests, made before the clock starts.

Rows are assembled from pieces that the protobuf library has serialised: serialised messages concatenate, and
an event created as an object would cost nine microseconds.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from meterline_protos.ingest.v1 import capture_pb2

from tests.bench.ids import Int64s, texts
from tests.bench.workload import (
    DIMENSION,
    EVENT_TYPE,
    QUANTITY,
    REGIONS,
    SCALE,
    Events,
    Workload,
    region_name,
    subject_name,
    tenant_name,
)

SOURCE = "bench"
_EVENTS_TAG = bytes([capture_pb2.EventRows.EVENTS_FIELD_NUMBER << 3 | 2])
_ROWS_TAG = bytes([capture_pb2.ReportRequest.ROWS_FIELD_NUMBER << 3 | 2])
_STREAM_EVENT_TAG = bytes([capture_pb2.StreamRequest.EVENT_FIELD_NUMBER << 3 | 2])


def column_request(events: Events, workload: Workload) -> bytes:
    """A `ReportRequest` with columns. The dictionaries contain all subjects and regions."""
    request = capture_pb2.ReportRequest()
    request.CopyFrom(_column_template(workload))
    columns = request.columns
    if workload.mixed:
        columns.tenants.extend(tenant_name(number) for number in range(workload.tenants))
        columns.tenant_index = _uint32(events.tenants)
    else:
        request.tenant_id = tenant_name(int(events.tenants[0]))
    if workload.subjects > 1:
        columns.subject_index = _uint32(events.subjects)
    columns.dimension_set_index = _uint32(events.regions)
    columns.event_ids = events.ids.tobytes()
    columns.times_us = (events.occurred_at_ms * 1000).astype("<i8").tobytes()
    columns.quantities[0].units = events.units.astype("<i8").tobytes()
    return request.SerializeToString()


@cache
def _column_template(workload: Workload) -> capture_pb2.ReportRequest:
    return capture_pb2.ReportRequest(
        source=SOURCE,
        columns=capture_pb2.EventColumns(
            types=[EVENT_TYPE],
            subjects=[subject_name(number) for number in range(workload.subjects)],
            dimension_sets=[
                capture_pb2.DimensionSet(values={DIMENSION: region_name(number)}) for number in range(REGIONS)
            ],
            quantities=[capture_pb2.QuantityColumn(name=QUANTITY, scale=SCALE)],
        ),
    )


def _uint32(values: Int64s) -> bytes:
    return values.astype("<u4").tobytes()


def row_request(events: Events, workload: Workload) -> bytes:
    """A `ReportRequest` with rows."""
    tenants: list[int] = events.tenants.tolist()
    if workload.mixed:
        rows = [
            each + capture_pb2.Event(tenant_id=tenant_name(tenant)).SerializeToString()
            for each, tenant in zip(event_messages(events), tenants, strict=True)
        ]
        head = capture_pb2.ReportRequest(source=SOURCE)
    else:
        rows = list(event_messages(events))
        head = capture_pb2.ReportRequest(source=SOURCE, tenant_id=tenant_name(tenants[0]))
    body = b"".join([_delimited(_EVENTS_TAG, row) for row in rows])
    return head.SerializeToString() + _delimited(_ROWS_TAG, body)


def stream_requests(events: Events) -> Iterator[bytes]:
    """One `StreamRequest` for each event."""
    for tenant, event in zip(events.tenants.tolist(), event_messages(events), strict=True):
        yield _stream_head(tenant) + _delimited(_STREAM_EVENT_TAG, event)


@cache
def _stream_head(tenant: int) -> bytes:
    return capture_pb2.StreamRequest(source=SOURCE, tenant_id=tenant_name(tenant)).SerializeToString()


def event_messages(events: Events) -> Iterator[bytes]:
    """One `Event` for each row, without its tenant."""
    columns = (events.subjects, events.regions, events.units, events.occurred_at_ms)
    for id_text, subject, region, units, occurred_at_ms in zip(
        texts(events.ids), *(column.tolist() for column in columns), strict=True
    ):
        # Field 1, and always 36 characters.
        yield (
            b"\x0a\x24" + id_text.encode() + _labels(subject, region) + _units(units) + _time(occurred_at_ms)
        )


@cache
def _labels(subject: int, region: int) -> bytes:
    event = capture_pb2.Event(
        type=EVENT_TYPE, subject=subject_name(subject), dimensions={DIMENSION: region_name(region)}
    )
    return event.SerializeToString()


@cache
def _units(units: int) -> bytes:
    text = f"{units // 10**SCALE}.{units % 10**SCALE:0{SCALE}d}"
    return capture_pb2.Event(quantities={QUANTITY: text}).SerializeToString()


@cache
def _time(occurred_at_ms: int) -> bytes:
    event = capture_pb2.Event()
    event.time.FromMilliseconds(occurred_at_ms)
    return event.SerializeToString()


def _delimited(tag: bytes, message: bytes) -> bytes:
    """A length-delimited field with `message`."""
    length = len(message)
    prefix = bytearray(tag)
    while length > 0x7F:
        prefix.append(length & 0x7F | 0x80)
        length >>= 7
    prefix.append(length)
    return bytes(prefix) + message
