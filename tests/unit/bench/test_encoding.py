"""Requests that the benchmark assembles from pieces equal those of the protobuf library."""

from __future__ import annotations

import uuid
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from meterline_protos.ingest.v1 import capture_pb2

from tests.bench.encoding import SOURCE, column_request, row_request, stream_requests
from tests.bench.usage import units
from tests.bench.workload import (
    DIMENSION,
    EVENT_TYPE,
    QUANTITY,
    SCALE,
    Events,
    Workload,
    generate,
    region_name,
    subject_name,
    tenant_name,
)

pytestmark = pytest.mark.req("T8.3")

NOW_MS = 1_750_000_000_123


def expected_event(events: Events, row: int, *, tenant_id: str = "") -> capture_pb2.Event:
    event = capture_pb2.Event(
        id=str(uuid.UUID(bytes=events.ids[row].tobytes())),
        tenant_id=tenant_id,
        type=EVENT_TYPE,
        subject=subject_name(int(events.subjects[row])),
        dimensions={DIMENSION: region_name(int(events.regions[row]))},
        quantities={QUANTITY: str(Decimal(int(events.units[row])).scaleb(-SCALE))},
    )
    event.time.FromMilliseconds(int(events.occurred_at_ms[row]))
    return event


@given(st.integers(1, 300), st.booleans(), st.sampled_from([0, 30]))
def test_row_requests_equal_protobuf_encoding(batch: int, mixed: bool, days: int) -> None:
    workload = Workload(tenants=4, mixed=mixed, days=days)
    events = generate(workload, 1, batch, NOW_MS, seed=1)
    request = capture_pb2.ReportRequest.FromString(row_request(events, workload))
    names = [tenant_name(number) for number in events.tenants.tolist()]
    wanted = [expected_event(events, row, tenant_id=names[row] if mixed else "") for row in range(batch)]
    assert list(request.rows.events) == wanted
    assert (request.source, request.tenant_id) == (SOURCE, "" if mixed else names[0])


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("subjects", [1, 7])
def test_column_requests_equal_protobuf_encoding(mixed: bool, subjects: int) -> None:
    workload = Workload(tenants=4, subjects=subjects, mixed=mixed, days=30)
    events = generate(workload, 1, 60, NOW_MS, seed=2)
    request = capture_pb2.ReportRequest.FromString(column_request(events, workload))
    columns = request.columns

    def indexes(data: bytes) -> list[int]:
        return np.frombuffer(data, "<u4").tolist() if data else [0] * 60

    tenants = columns.tenants or [request.tenant_id]
    assert [tenants[at] for at in indexes(columns.tenant_index)] == [
        tenant_name(number) for number in events.tenants.tolist()
    ]
    assert list(columns.types) == [EVENT_TYPE]
    assert [columns.subjects[at] for at in indexes(columns.subject_index)] == [
        subject_name(number) for number in events.subjects.tolist()
    ]
    assert [dict(columns.dimension_sets[at].values) for at in indexes(columns.dimension_set_index)] == [
        {DIMENSION: region_name(number)} for number in events.regions.tolist()
    ]
    assert columns.event_ids == events.ids.tobytes()
    assert np.frombuffer(columns.times_us, "<i8").tolist() == (events.occurred_at_ms * 1_000).tolist()
    (quantity,) = columns.quantities
    assert (quantity.name, quantity.scale, quantity.present) == (QUANTITY, SCALE, b"")
    assert np.frombuffer(quantity.units, "<i8").tolist() == events.units.tolist()


def test_stream_messages_equal_protobuf_encoding() -> None:
    events = generate(Workload(tenants=3), 2, 20, NOW_MS, seed=3)
    requests = [capture_pb2.StreamRequest.FromString(data) for data in stream_requests(events)]
    assert [request.event for request in requests] == [expected_event(events, row) for row in range(40)]
    assert [request.tenant_id for request in requests] == [
        tenant_name(number) for number in events.tenants.tolist()
    ]
    assert {request.source for request in requests} == {SOURCE}


@given(st.integers(0, 10**15))
def test_value_is_parsed_into_units(amount: int) -> None:
    assert units(Decimal(amount).scaleb(-SCALE)) == amount
    assert units(Decimal(str(Decimal(amount).scaleb(-SCALE)) + "0")) == amount


def test_value_finer_than_the_scale_is_refused() -> None:
    with pytest.raises(ValueError, match="decimals"):
        units(Decimal("1.005"))
