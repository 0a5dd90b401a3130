"""Capture with real Postgres and NATS: answered events are stored and published once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import grpc
import psycopg
import pytest
from grpc import aio
from meterline.db import provision
from meterline.packing import unpack_signed
from meterline_protos.ingest.v1 import capture_pb2, event_types_pb2, events_pb2

from tests.support.capture import RunningIngest, Sample, columns, new_tenant, now_us, published, rows, stored
from tests.support.polling import eventually

Form = Callable[..., capture_pb2.ReportRequest]
pytestmark = pytest.mark.asyncio(loop_scope="module")
both_forms = pytest.mark.parametrize("form", [rows, columns])


@pytest.fixture
def ingest(own_tenant: RunningIngest) -> RunningIngest:
    """The tests share a service; each has a tenant of its own."""
    return own_tenant


@both_forms
@pytest.mark.req("K1", "T1.2", "T2.1")
async def test_accepted_event_is_stored_and_published(ingest: RunningIngest, form: Form) -> None:
    sample = Sample(subject="plane", quantities={"units": "12"}, dimensions={"region": "us"})

    response = await ingest.report(form(sample, tenant_id=ingest.tenant))

    assert (response.accepted, list(response.outcomes)) == (1, [])
    found = await ingest.events.GetEvent(
        events_pb2.GetEventRequest(tenant_id=ingest.tenant, event_id=sample.id)
    )
    assert (found.event.subject, dict(found.event.dimensions)) == ("plane", {"region": "us"})
    assert dict(found.event.quantities) == {"units": "12"}
    assert found.event.time.ToMicroseconds() == sample.time_us
    assert found.batch.batch_id == response.batch_id
    assert found.batch.event_count == 1
    assert len(found.batch.trace.trace_id) == 32
    (fact,) = await published(ingest, 1)
    assert fact.batches[0].rows == 1
    assert fact.batches[0].trace == found.batch.trace
    assert (fact.series[0].tenant_id, fact.series[0].event_type) == (ingest.number, "api.request")
    (quantity,) = fact.quantities
    assert (quantity.name, quantity.scale) == ("units", 2)
    assert unpack_signed(quantity.units, 1).tolist() == [1200]


@both_forms
@pytest.mark.req("T1.2")
async def test_repeated_event_counts_once(ingest: RunningIngest, form: Form) -> None:
    samples = [Sample() for _ in range(5)]

    first = await ingest.report(form(*samples, samples[0], tenant_id=ingest.tenant))
    second = await ingest.report(form(*samples, tenant_id=ingest.tenant))

    assert (first.accepted, first.duplicate) == (5, 1)
    assert (second.accepted, second.duplicate, second.batch_id) == (0, 5, "")
    assert await stored(ingest) == 5


@both_forms
@pytest.mark.parametrize(
    "change",
    [
        {"subject": "other"},
        {"dimensions": {"region": "us"}},
        {"quantities": {"units": "2"}},
        {"quantities": {}},
        {"time_us": now_us() - 1_000_000},
    ],
    ids=lambda change: next(iter(change)),
)
@pytest.mark.req("T1.2")
async def test_same_id_with_another_body_is_a_conflict(
    ingest: RunningIngest, form: Form, change: dict[str, object]
) -> None:
    original = Sample(quantities={"units": "1"})
    await ingest.report(form(original, tenant_id=ingest.tenant))

    response = await ingest.report(form(replace(original, **change), tenant_id=ingest.tenant))  # type: ignore[arg-type]

    assert (response.accepted, response.conflict) == (0, 1)
    assert response.outcomes[0].event_id == original.id
    found = await ingest.events.GetEvent(
        events_pb2.GetEventRequest(tenant_id=ingest.tenant, event_id=original.id)
    )
    assert (found.event.subject, dict(found.event.quantities)) == ("u1", {"units": "1"})


@both_forms
@pytest.mark.req("T1.5")
async def test_impossible_sending_time_is_refused(ingest: RunningIngest, form: Form) -> None:
    request = form(Sample(), tenant_id=ingest.tenant)
    request.sent_at.seconds = 2**62
    with pytest.raises(aio.AioRpcError) as caught:
        await ingest.report(request)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.req("T1.2")
async def test_repeats_within_and_between_large_batches_count_once(ingest: RunningIngest) -> None:
    """Covers COPY, the lookup of suspected repeats, and the second COPY after an unsuspected repeat."""
    first = [Sample() for _ in range(400)]
    second = [Sample() for _ in range(396)] + first[:3] + [first[0]]

    answers = [await ingest.report(ingest.columns(*first)), await ingest.report(ingest.columns(*second))]
    again = [Sample() for _ in range(300)]
    again_response = await ingest.report(ingest.columns(*again, *again[:2]))

    assert [(a.accepted, a.duplicate) for a in answers] == [(400, 0), (396, 4)]
    assert (again_response.accepted, again_response.duplicate) == (300, 2)
    assert await stored(ingest) == 1_096


@pytest.mark.req("T1.2", "T1.6")
async def test_concurrent_repeats_count_once(ingest: RunningIngest) -> None:
    samples = [Sample() for _ in range(600)]
    forward, backward = ingest.columns(*samples), ingest.columns(*reversed(samples))

    responses = await asyncio.gather(*(ingest.report(r) for r in [forward, backward] * 4))

    assert sum(response.accepted for response in responses) == 600
    assert sum(response.duplicate for response in responses) == 7 * 600
    assert await stored(ingest) == 600


@pytest.mark.req("T1.2")
async def test_text_ids_are_unique_within_their_source(ingest: RunningIngest) -> None:
    sample = Sample(id="order-17")

    one = await ingest.report(ingest.rows(sample, source="shop"))
    same = await ingest.report(ingest.rows(sample, source="shop"))
    other = await ingest.report(ingest.rows(sample, source="app"))

    assert (one.accepted, same.duplicate, other.accepted) == (1, 1, 1)
    request = events_pb2.GetEventRequest(tenant_id=ingest.tenant, event_id="order-17", source="app")
    assert (await ingest.events.GetEvent(request)).event.event_id == "order-17"


@pytest.mark.req("T4.1")
async def test_tenants_do_not_see_events_of_others(ingest: RunningIngest) -> None:
    sample, other = Sample(), await new_tenant(ingest)

    mine = await ingest.report(ingest.rows(sample))
    theirs = await ingest.report(ingest.rows(sample, tenant_id=other.tenant))

    assert (mine.accepted, theirs.accepted) == (1, 1)
    request = events_pb2.ListEventsRequest(tenant_id=other.tenant, batch_ids=[mine.batch_id])
    assert list((await ingest.events.ListEvents(request)).events) == []


@pytest.mark.req("T1.1", "T2.1")
async def test_stream_answers_every_message_in_order(ingest: RunningIngest) -> None:
    samples = [Sample() for _ in range(300)]
    samples[7].type = "nope"
    samples.append(samples[0])

    async def messages() -> AsyncIterator[capture_pb2.StreamRequest]:
        for position, sample in enumerate(samples):
            tenant, source = (ingest.tenant, "stream") if position == 0 else ("", "")
            yield capture_pb2.StreamRequest(tenant_id=tenant, source=source, event=sample.to_row())

    responses = [response async for response in ingest.capture.Stream(messages())]

    acknowledged = [response.acknowledged for response in responses]
    assert acknowledged == sorted(acknowledged)
    assert acknowledged[-1] == 301
    assert sum(response.accepted for response in responses) == 299
    outcomes = {o.sequence: o.outcome.reason for response in responses for o in response.outcomes}
    assert outcomes == {7: "UNKNOWN_EVENT_TYPE", 300: "DUPLICATE"}
    assert await stored(ingest) == 299


@pytest.mark.req("T4.1")
async def test_events_of_inactive_tenant_are_refused(ingest: RunningIngest) -> None:
    await ingest.onboard(ingest.number, ingest.tenant, version=2, active=False)

    async def refused() -> bool:
        response = await ingest.report(ingest.rows(Sample()))
        return [o.reason for o in response.outcomes] == ["TENANT_INACTIVE"]

    await eventually(refused)


@pytest.mark.req("T1.1")
async def test_events_of_a_batch_are_listed_by_time_in_pages(ingest: RunningIngest) -> None:
    start = now_us()
    samples = [Sample(time_us=start - at * 1_000) for at in range(25)]
    response = await ingest.report(ingest.rows(*samples))
    found: list[str] = []
    token = ""
    while True:
        page = await ingest.events.ListEvents(
            events_pb2.ListEventsRequest(
                tenant_id=ingest.tenant, batch_ids=[response.batch_id], page_size=10, page_token=token
            )
        )
        found += [event.event_id for event in page.events]
        token = page.next_page_token
        if not token:
            break

    assert found == [sample.id for sample in reversed(samples)]


@pytest.mark.req("T3.4")
async def test_event_type_can_grow_but_not_change(ingest: RunningIngest) -> None:
    definition = event_types_pb2.QuantityDefinition
    with pytest.raises(aio.AioRpcError) as caught:
        await ingest.put_type(quantities=[definition(name="units", scale=3)])
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION

    with pytest.raises(aio.AioRpcError, match="has scale 2 in"):
        await ingest.put_type("other", quantities=[definition(name="units", scale=0)])

    await ingest.put_type(
        quantities=[definition(name="units", scale=2), definition(name="bytes", scale=0)],
        dimensions=["region", "tier"],
    )
    listed = await ingest.types.ListEventTypes(event_types_pb2.ListEventTypesRequest())
    assert [q.name for q in listed.event_types[0].quantities] == ["units", "bytes"]


@pytest.mark.req("K3")
async def test_application_role_cannot_change_the_schema(ingest: RunningIngest) -> None:
    with (
        psycopg.connect(ingest.database.app_dsn("ingest")) as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        connection.execute("CREATE TABLE mine (a int)")
    assert provision.app_role("ingest") in ingest.database.app_dsn("ingest")
