"""Explaining: all events of an invoice line, and all lines of an event, with their traces."""

from __future__ import annotations

from datetime import UTC, timedelta
from decimal import Decimal

import grpc
import pytest
from grpc import aio
from meterline_protos.common.v1 import types_pb2
from meterline_protos.publisher.v1 import invoices_pb2

from tests.integration.publisher.catalogue import PER_UNIT, Priced
from tests.integration.publisher.world import NOW, SENT, START, Api, World
from tests.support.fake_mesh import Event

pytestmark = pytest.mark.req("X1", "K4")

CAPTURE = types_pb2.TraceContext(trace_id="ab" * 16, span_id="cd" * 8, sampled=True)


async def explain(
    api: Api, line_id: str, page_size: int = 0
) -> tuple[invoices_pb2.ExplainInvoiceLineResponse, list[invoices_pb2.ExplainInvoiceLineResponse]]:
    """Explains a line; returns the first page and all pages."""
    pages: list[invoices_pb2.ExplainInvoiceLineResponse] = []
    token = ""
    while not pages or token:
        request = invoices_pb2.ExplainInvoiceLineRequest(
            tenant_id="acme", line_id=line_id, page_size=page_size, page_token=token
        )
        pages.append(await api.invoices.ExplainInvoiceLine(request))
        token = pages[-1].next_page_token
    return pages[0], pages


async def test_line_is_explained_by_its_events(world: World, api: Api) -> None:
    await world.tenant()
    await world.capture("acme", Event(START, value="1"), Event(NOW, value="2.5"), trace=CAPTURE)
    await world.capture("acme", Event(NOW, type="other", value="9"), Event(NOW, value="3.5"))
    await world.capture("acme", Event(START - timedelta(seconds=1), value="50"))
    invoice = (await api.publish("acme")).invoice
    first, pages = await explain(api, invoice.lines[0].line_id)
    assert len(pages) == 1
    assert first.line == invoice.lines[0]
    assert first.invoice.invoice_id == invoice.invoice_id
    days = [(w.start_time.ToDatetime(tzinfo=UTC).day, w.value, w.event_count) for w in first.windows]
    assert days == [(1, "1", 1), (20, "6.0", 2)]
    events = [event for batch in first.batches for event in batch.events]
    assert sum(Decimal(event.quantities["amount"]) for event in events) == Decimal(first.line.quantity)
    assert len(events) == first.line.event_count == 3
    by_id = {batch.batch.batch_id: batch for batch in first.batches}
    assert all(event.batch_id in by_id for event in events)
    assert {batch.trace_url for batch in first.batches} == {"http://traces.test/" + "ab" * 16, ""}
    assert [(row.value, row.state) for row in first.publications] == [("7", SENT)]


@pytest.mark.parametrize(("page_size", "limit"), [(1, 1_000), (3, 2), (0, 5), (1_000, 1)])
async def test_each_event_is_listed_once_for_any_page_size(
    world: World, api: Api, page_size: int, limit: int
) -> None:
    """Batches span hours, days and pages; the other services limit their pages to `limit`."""
    await world.tenant()
    for batch in range(4):
        await world.capture(
            "acme", *(Event(START + timedelta(minutes=50 * n, days=batch), value="1") for n in range(5))
        )
    world.mesh.page_limit = limit
    line = (await api.publish("acme")).invoice.lines[0]
    first, pages = await explain(api, line.line_id, page_size)
    assert first.windows
    assert not any(page.windows for page in pages[1:])
    found = [event.event_id for page in pages for batch in page.batches for event in batch.events]
    assert sorted(found) == sorted(event.event_id for event in world.mesh.tenants["acme"].events)
    assert {batch.batch.batch_id for page in pages for batch in page.batches} == set(
        world.mesh.tenants["acme"].batches
    )


async def test_batch_of_expired_events_is_still_listed(world: World, api: Api) -> None:
    """Raw events expire; the batches and lines calculated from them do not."""
    await world.tenant()
    await world.use("acme", "5")
    line = (await api.publish("acme")).invoice.lines[0]
    (before,) = (await api.invoices.ExplainInvoiceLine(_request(line.line_id))).batches
    assert len(before.events) == 1
    world.mesh.expire("acme")
    (after,) = (await api.invoices.ExplainInvoiceLine(_request(line.line_id))).batches
    assert after.batch == before.batch
    assert list(after.events) == []


def _request(line_id: str) -> invoices_pb2.ExplainInvoiceLineRequest:
    return invoices_pb2.ExplainInvoiceLineRequest(tenant_id="acme", line_id=line_id)


async def test_event_is_explained_by_its_lines(world: World, api: Api) -> None:
    await world.tenant(prices=[Priced("calls", PER_UNIT), Priced("from_berlin", PER_UNIT)])
    world.mesh.meters["from_berlin"].filter["city"] = "Berlin"
    world.mesh.add_meter("unpriced", aggregation=types_pb2.AGGREGATION_COUNT, quantity="")
    world.mesh.add_meter("others", "other")
    await world.capture(
        "acme",
        Event(NOW, value="2", dimensions={"city": "Berlin"}),
        Event(NOW, value="3", dimensions={"city": "Paris"}),
        Event(NOW, type="other", value="4"),
        trace=CAPTURE,
    )
    berlin, paris, _ = world.mesh.tenants["acme"].events
    before = await _explain_event(api, berlin.event_id)
    assert {use.meter: use.invoice_id for use in before.uses} == {
        "calls": "",
        "from_berlin": "",
        "unpriced": "",
    }
    invoice = (await api.publish("acme")).invoice
    lines = {line.meter: line for line in invoice.lines}
    found = await _explain_event(api, berlin.event_id)
    assert (found.event, found.batch.trace) == (berlin, CAPTURE)
    assert found.trace_url == "http://traces.test/" + "ab" * 16
    uses = {use.meter: use for use in found.uses}
    assert set(uses) == {"calls", "from_berlin", "unpriced"}
    assert uses["calls"].line == lines["calls"]
    assert uses["calls"].invoice_id == uses["from_berlin"].invoice_id == invoice.invoice_id
    assert uses["calls"].window_id == f"calls/month/{int(START.timestamp())}/"
    assert [row.value for row in uses["from_berlin"].publications] == ["2"]
    assert (uses["unpriced"].invoice_id, uses["unpriced"].HasField("line")) == ("", False)
    assert {use.meter for use in (await _explain_event(api, paris.event_id)).uses} == {"calls", "unpriced"}


async def test_explained_event_lists_new_meter_immediately(world: World, api: Api) -> None:
    await world.tenant()
    await world.use("acme", "1")
    (first,) = world.mesh.tenants["acme"].events
    assert [use.meter for use in (await _explain_event(api, first.event_id)).uses] == ["calls"]
    world.mesh.add_meter("new")
    await world.use("acme", "1")
    second = world.mesh.tenants["acme"].events[1]
    assert [use.meter for use in (await _explain_event(api, second.event_id)).uses] == ["calls", "new"]


async def _explain_event(api: Api, event_id: str) -> invoices_pb2.ExplainEventResponse:
    request = invoices_pb2.ExplainEventRequest(tenant_id="acme", event_id=event_id)
    return await api.invoices.ExplainEvent(request)


@pytest.mark.req("T4.1")
async def test_unknown_objects_and_those_of_other_tenants_are_not_found(world: World, api: Api) -> None:
    await world.tenant()
    await world.tenant("other", number=2)
    await world.use("other", "5")
    theirs = (await api.publish("other")).invoice
    event_id = world.mesh.tenants["other"].events[0].event_id
    for call in (
        api.invoices.ExplainInvoiceLine(_request(theirs.lines[0].line_id)),
        _explain_event(api, event_id),
        api.invoices.GetInvoice(
            invoices_pb2.GetInvoiceRequest(tenant_id="acme", invoice_id=theirs.invoice_id)
        ),
    ):
        with pytest.raises(aio.AioRpcError) as failure:
            await call
        assert failure.value.code() == grpc.StatusCode.NOT_FOUND
