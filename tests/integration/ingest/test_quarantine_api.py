"""Quarantined events are listed, shown and discarded, for their own tenant only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
import psycopg
import pytest
from grpc import aio
from meterline_protos.common.v1 import types_pb2
from meterline_protos.ingest.v1 import (
    capture_pb2,
    event_types_pb2,
    privacy_pb2,
    privacy_pb2_grpc,
    quarantine_pb2,
)

from tests.support.capture import RunningIngest, Sample, columns, is_known, rows
from tests.support.databases import TestDatabase
from tests.support.polling import eventually
from tests.support.quarantine import (
    BY_ANN,
    QuarantineApi,
    bad,
    counts_are_right,
    refused_events,
)

Form = Callable[..., capture_pb2.ReportRequest]
both_forms = pytest.mark.parametrize("form", [rows, columns])
pytestmark = pytest.mark.req("O2")

DAY = 86_400_000_000
SECRET = "ann@private.example"


VISIT = event_types_pb2.EventType(
    name="visit",
    dimensions=[event_types_pb2.DimensionDefinition(name="region")],
    quantities=[event_types_pb2.QuantityDefinition(name="seconds", scale=0)],
    properties=[
        event_types_pb2.PropertyDefinition(
            name="email", kind=event_types_pb2.PROPERTY_KIND_TEXT, sensitive=True
        ),
        event_types_pb2.PropertyDefinition(name="page", kind=event_types_pb2.PROPERTY_KIND_TEXT),
    ],
)


@pytest.mark.req("T4.1")
async def test_tenants_do_not_see_entries_of_others(
    ingest: RunningIngest, quarantine: QuarantineApi, database: TestDatabase
) -> None:
    await ingest.onboard(2, "bolt")
    await eventually(lambda: is_known(ingest, "bolt"))
    theirs = QuarantineApi(ingest.channel, "bolt")
    await ingest.report(rows(bad()))
    (mine,) = await quarantine.entries()

    assert await theirs.entries() == []
    with pytest.raises(aio.AioRpcError) as refused:
        await theirs.get(mine.quarantine_id)
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND
    ids = quarantine_pb2.QuarantineIds(quarantine_ids=[mine.quarantine_id])
    assert await theirs.discard(ids=ids) == 0
    assert (await theirs.replay(ids=ids)).rejected == 0
    with psycopg.connect(database.app_dsn("ingest")) as connection:
        for scope in ("", "2"):
            connection.execute("SELECT set_config('meterline.tenant_ids', %s, true)", (scope,))
            rows_seen = connection.execute("SELECT tenant_id FROM quarantine WHERE tenant_id = 1").fetchall()
            assert rows_seen == []


@both_forms
@pytest.mark.req("T4.3")
async def test_content_of_quarantined_events_is_sealed_in_the_database(
    ingest: RunningIngest, database: TestDatabase, form: Form
) -> None:
    await ingest.report(form(bad(subject=SECRET, dimensions={"mail": SECRET})))
    with psycopg.connect(database.admin_dsn) as connection:
        ((row,),) = connection.execute("SELECT quarantine::text FROM ingest.quarantine").fetchall()
        ((payload,),) = connection.execute("SELECT payload FROM ingest.quarantine").fetchall()
    assert SECRET not in str(row)
    assert SECRET.encode() not in payload


@pytest.mark.req("T4.3")
async def test_sensitive_fields_are_shown_only_when_unsealed_and_audited(
    ingest: RunningIngest, quarantine: QuarantineApi, database: TestDatabase
) -> None:
    await ingest.types.PutEventType(event_types_pb2.PutEventTypeRequest(event_type=VISIT))
    event = Sample(
        type="visit",
        dimensions={"region": "eu", "mail": SECRET},
        quantities={"seconds": "3", "other": SECRET},
    ).to_row()
    event.properties.update({"email": SECRET, "page": "/", "e-mail": SECRET})
    request = rows()
    request.rows.events.append(event)
    await ingest.report(request)
    (entry,) = await quarantine.entries()

    shown = await quarantine.get(entry.quarantine_id)

    assert SECRET.encode() not in shown.SerializeToString()
    assert dict(shown.event.dimensions) == {"region": "eu"}
    assert dict(shown.event.quantities) == {"seconds": "3"}
    assert dict(shown.event.properties) == {"page": "/"}
    assert sorted(shown.hidden_fields) == [
        "dimensions.mail",
        "properties.e-mail",
        "properties.email",
        "quantities.other",
    ]
    with pytest.raises(aio.AioRpcError) as refused:
        await quarantine.get(entry.quarantine_id, unseal=True)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert (await quarantine.get(entry.quarantine_id, unseal=True, **BY_ANN)).event == event
    with psycopg.connect(database.admin_dsn) as connection:
        noted = connection.execute(
            "SELECT action, principal, reason, subject FROM ingest.audit_log"
        ).fetchall()
    assert noted == [("quarantine.unsealed", *BY_ANN.values(), f"quarantined event {entry.quarantine_id}")]


@pytest.mark.req("T4.3")
async def test_entries_of_shredded_tenant_are_listed_without_content(
    ingest: RunningIngest, quarantine: QuarantineApi
) -> None:
    await ingest.report(rows(bad()))
    await privacy_pb2_grpc.PrivacyServiceStub(ingest.channel).ShredTenant(
        privacy_pb2.ShredTenantRequest(tenant_id="acme", **BY_ANN)
    )
    before = refused_events()

    (entry,) = await quarantine.entries()

    assert entry.state == quarantine_pb2.QUARANTINE_STATE_SHREDDED
    shown = await quarantine.get(entry.quarantine_id)
    assert not shown.HasField("event")
    for call in (quarantine.replay(), quarantine.get(entry.quarantine_id, unseal=True, **BY_ANN)):
        with pytest.raises(aio.AioRpcError) as refused:
            await call
        assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    # Rejected events cannot be sealed any more, but valid events are accepted.
    response = await ingest.report(rows(bad(), Sample()))
    assert (response.accepted, response.outcomes[0].quarantined) == (1, False)
    assert refused_events() == before + 1


async def test_pages_and_filters(ingest: RunningIngest, quarantine: QuarantineApi) -> None:
    await ingest.report(rows(*(bad() for _ in range(5)), source="a"))
    await ingest.report(rows(*(Sample(dimensions={"colour": "red"}) for _ in range(4)), source="b"))
    await ingest.report(rows(*(bad(timed=False, type="other") for _ in range(3)), source="b"))

    async def count(**more: object) -> int:
        chosen = quarantine_pb2.QuarantineFilter(**more)  # type: ignore[arg-type]
        return len(await quarantine.entries(filter=chosen, page_size=2))

    assert await count() == 12
    assert await count(source="b") == 7
    assert await count(event_type="other") == 3
    assert await count(reason="DIMENSION_UNKNOWN") == 4
    assert await count(field="dimensions.colour", source="b") == 4
    assert await count(stage=quarantine_pb2.QUARANTINE_STAGE_READ) == 3
    assert await count(source="nowhere") == 0
    entries = await quarantine.entries(page_size=5)
    assert len({entry.quarantine_id for entry in entries}) == 12
    moments = [entry.received_at.ToMicroseconds() for entry in entries]
    assert moments == sorted(moments)
    later = quarantine_pb2.QuarantineFilter()
    later.received.start_time.FromMicroseconds(moments[5])
    later.received.end_time.FromMicroseconds(moments[-1])
    assert len(await quarantine.entries(filter=later)) == 4


@pytest.mark.parametrize(
    "change",
    [
        {"state": quarantine_pb2.QUARANTINE_STATE_SHREDDED},
        {"filter": quarantine_pb2.QuarantineFilter(source="a\0")},
        {"filter": quarantine_pb2.QuarantineFilter(stage=9)},  # type: ignore[arg-type]
        {"page_token": "nonsense"},
    ],
    ids=str,
)
async def test_invalid_list_requests_are_refused(
    quarantine: QuarantineApi, change: dict[str, object]
) -> None:
    with pytest.raises(aio.AioRpcError) as refused:
        await quarantine.page(**change)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    "wrong",
    [
        BY_ANN,
        {**BY_ANN, "ids": quarantine_pb2.QuarantineIds()},
        {**BY_ANN, "ids": quarantine_pb2.QuarantineIds(quarantine_ids=["x"])},
        {**BY_ANN, "filter": quarantine_pb2.QuarantineFilter()},
        {**BY_ANN, "filter": quarantine_pb2.QuarantineFilter(received=types_pb2.TimeRange())},
        {"everything": quarantine_pb2.EverythingQuarantined()},
    ],
    ids=str,
)
async def test_replay_and_discard_need_explicit_selection(
    quarantine: QuarantineApi, wrong: dict[str, Any]
) -> None:
    calls = (
        quarantine.stub.ReplayQuarantined(quarantine_pb2.ReplayQuarantinedRequest(tenant_id="acme", **wrong)),
        quarantine.stub.DiscardQuarantined(
            quarantine_pb2.DiscardQuarantinedRequest(tenant_id="acme", **wrong)
        ),
    )
    for call in calls:
        with pytest.raises(aio.AioRpcError) as refused:
            await call
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_discard_is_audited_and_repeated_event_reopens_its_entry(
    ingest: RunningIngest, quarantine: QuarantineApi, database: TestDatabase
) -> None:
    request = rows(bad(), bad())
    await ingest.report(request)
    one, other = await quarantine.entries()

    ids = quarantine_pb2.QuarantineIds(quarantine_ids=[one.quarantine_id])
    assert [await quarantine.discard(ids=ids), await quarantine.discard(ids=ids)] == [1, 0]

    (settled,) = await quarantine.entries(state=quarantine_pb2.QUARANTINE_STATE_DISCARDED)
    assert (settled.quarantine_id, settled.settled_by) == (one.quarantine_id, BY_ANN["requested_by"])
    assert settled.HasField("settled_at")
    with psycopg.connect(database.admin_dsn) as connection:
        noted = connection.execute(
            "SELECT action, principal, reason, details FROM ingest.audit_log"
        ).fetchall()
    assert noted == [("quarantine.discarded", *BY_ANN.values(), {"events": 1})]
    assert counts_are_right(database)
    await ingest.report(request)
    again = {entry.quarantine_id: entry for entry in await quarantine.entries()}
    assert again.keys() == {one.quarantine_id, other.quarantine_id}
    assert all(entry.attempts == 2 and not entry.settled_by for entry in again.values())
    assert counts_are_right(database)
