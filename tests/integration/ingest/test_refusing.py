"""Invalid events and calls are refused with their field and rule, and do not affect others."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc import aio
from grpc_status import rpc_status
from meterline_protos.ingest.v1 import capture_pb2, event_types_pb2, events_pb2

from tests.support.capture import RunningIngest, Sample, columns, now_us, rows, stored

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture
def ingest(own_tenant: RunningIngest) -> RunningIngest:
    """The tests share a service; each has a tenant of its own."""
    return own_tenant


@pytest.mark.req("T1.5", "T2.4")
async def test_each_invalid_event_is_reported_and_valid_ones_are_accepted(ingest: RunningIngest) -> None:
    await ingest.put_type(
        "strict",
        quantities=[event_types_pb2.QuantityDefinition(name="whole", scale=0, required=True)],
        dimensions=["region"],
        required=["region"],
        subject_required=True,
    )
    day = 86_400_000_000

    def bad(**changes: object) -> Sample:
        usual = Sample("strict", quantities={"whole": "1"}, dimensions={"region": "eu"})
        return replace(usual, **({"id": str(uuid.uuid4())} | changes))  # type: ignore[arg-type]

    cases = [
        (bad(type="nope"), "UNKNOWN_EVENT_TYPE", "type"),
        (bad(id=""), "ID_MISSING", "id"),
        (bad(id="x" * 129), "ID_TOO_LONG", "id"),
        (bad(id="a\0b"), "TEXT_INVALID", "id"),
        (bad(subject=""), "SUBJECT_REQUIRED", "subject"),
        (bad(subject="s" * 257), "SUBJECT_TOO_LONG", "subject"),
        (bad(subject="a\0"), "TEXT_INVALID", "subject"),
        (bad(timed=False), "TIME_MISSING", "time"),
        (bad(time_us=now_us() - 36 * day), "TIME_TOO_OLD", "time"),
        (bad(time_us=now_us() + day), "TIME_IN_FUTURE", "time"),
        (bad(dimensions={}), "DIMENSION_REQUIRED", "dimensions.region"),
        (bad(dimensions={"region": ""}), "DIMENSION_REQUIRED", "dimensions.region"),
        (bad(dimensions={"colour": "red"}), "DIMENSION_UNKNOWN", "dimensions.colour"),
        (bad(dimensions={"region": "r" * 257}), "DIMENSION_TOO_LONG", "dimensions.region"),
        (bad(dimensions={"region": "\0"}), "TEXT_INVALID", "dimensions.region"),
        (bad(quantities={}), "QUANTITY_REQUIRED", "quantities.whole"),
        (bad(quantities={"whole": "1", "x": "1"}), "QUANTITY_UNKNOWN", "quantities.x"),
        (bad(quantities={"whole": "many"}), "QUANTITY_NOT_A_DECIMAL", "quantities.whole"),
        (bad(quantities={"whole": "NaN"}), "QUANTITY_NOT_FINITE", "quantities.whole"),
        (bad(quantities={"whole": "-Infinity"}), "QUANTITY_NOT_FINITE", "quantities.whole"),
        (bad(quantities={"whole": "1.5"}), "QUANTITY_TOO_PRECISE", "quantities.whole"),
        (bad(quantities={"whole": "1e-12"}), "QUANTITY_TOO_PRECISE", "quantities.whole"),
        (bad(quantities={"whole": str(2**63)}), "QUANTITY_OUT_OF_RANGE", "quantities.whole"),
        (bad(quantities={"whole": "1e999999"}), "QUANTITY_OUT_OF_RANGE", "quantities.whole"),
        (bad(quantities={"whole": "-1"}), "QUANTITY_NEGATIVE", "quantities.whole"),
    ]
    good = [bad() for _ in cases]

    response = await ingest.report(
        ingest.rows(*(s for pair in zip((c[0] for c in cases), good, strict=True) for s in pair))
    )

    assert (response.accepted, response.rejected) == (len(good), len(cases))
    assert [(o.reason, o.field) for o in response.outcomes] == [case[1:] for case in cases]
    assert [o.index for o in response.outcomes] == list(range(0, 2 * len(cases), 2))
    assert all(o.message for o in response.outcomes)
    assert await stored(ingest) == len(good)


@pytest.mark.req("T1.5", "T2.4")
async def test_missing_tenant_and_missing_event_are_reported(ingest: RunningIngest) -> None:
    for form in (rows, columns):
        answer = await ingest.report(form(Sample(), tenant_id=""))
        assert [(o.reason, o.field) for o in answer.outcomes] == [("TENANT_MISSING", "tenant_id")]

    async def requests() -> AsyncIterator[capture_pb2.StreamRequest]:
        yield capture_pb2.StreamRequest(tenant_id=ingest.tenant, source="test")
        yield capture_pb2.StreamRequest(tenant_id=ingest.tenant, source="test", event=Sample().to_row())

    answers = [answer async for answer in ingest.capture.Stream(requests(), timeout=20)]
    found = {o.sequence: (o.outcome.reason, o.outcome.field) for each in answers for o in each.outcomes}
    assert found == {0: ("EVENT_MISSING", "event")}
    assert await stored(ingest) == 1


@pytest.mark.req("T1.5", "T2.4")
async def test_wrong_sending_time_is_reported_instead_of_the_event_time(ingest: RunningIngest) -> None:
    """The event's time is out of bounds only after the correction by the wrong sending time."""
    for form in (rows, columns):
        request = form(Sample(), Sample(time_us=now_us() - 40 * 86_400_000_000), tenant_id=ingest.tenant)
        request.sent_at.FromDatetime(datetime(8999, 12, 31, tzinfo=UTC))
        answer = await ingest.report(request)
        assert [(o.reason, o.field) for o in answer.outcomes] == [
            ("SENT_AT_WRONG", "sent_at"),
            ("SENT_AT_WRONG", "sent_at"),
        ]
        request.sent_at.FromMicroseconds(now_us())
        answer = await ingest.report(request)
        assert [(o.reason, o.field) for o in answer.outcomes] == [("TIME_TOO_OLD", "time")]


@pytest.mark.req("T2.4")
async def test_query_by_text_id_needs_the_source(
    ingest: RunningIngest,
) -> None:
    await ingest.report(ingest.rows(Sample(id="order-17"), source="shop"))
    with pytest.raises(aio.AioRpcError, match="source is needed for an id that is no UUID"):
        await ingest.events.GetEvent(events_pb2.GetEventRequest(tenant_id=ingest.tenant, event_id="order-17"))
    known = events_pb2.GetEventRequest(tenant_id=ingest.tenant, event_id="order-18", source="shop")
    with pytest.raises(aio.AioRpcError, match="no event 'order-18'\""):
        await ingest.events.GetEvent(known)


def _broken(**changes: object) -> capture_pb2.ReportRequest:
    request = columns(Sample(), Sample(subject="u2"))
    for name, value in changes.items():
        if name == "source":
            request.source = str(value)
        else:
            setattr(request.columns, name, value)
    return request


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (capture_pb2.ReportRequest(source="x"), "batch"),
        (_broken(source=""), "source"),
        (_broken(source="x" * 129), "source"),
        (_broken(times_us=b"123"), "columns.times_us"),
        (_broken(event_ids=b"short"), "columns.event_ids"),
        (_broken(subject_index=b"\1\0\0\0"), "columns.subject_index"),
        (_broken(subject_index=b"\0\0\0\0\7\0\0\0"), "columns.subject_index"),
        (_broken(subject_index=b""), "columns.subject_index"),
        (rows(*(Sample() for _ in range(1_001))), "rows.events"),
    ],
)
@pytest.mark.req("T2.4")
async def test_malformed_batch_is_refused_with_its_field(
    ingest: RunningIngest, request_: capture_pb2.ReportRequest, field: str
) -> None:
    request_.tenant_id = ingest.tenant
    with pytest.raises(aio.AioRpcError) as caught:
        await ingest.report(request_)

    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    status = rpc_status.from_call(caught.value)  # type: ignore[arg-type]
    details = error_details_pb2.BadRequest()
    assert any(detail.Unpack(details) for detail in status.details)
    assert details.field_violations[0].field == field
    assert details.field_violations[0].description
    assert await stored(ingest) == 0
