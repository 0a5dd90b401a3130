"""Corrections up to the invoice: rated again, sent as a difference, explained, and previewed."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import grpc
import pytest
from grpc import aio
from meterline_protos.common.v1 import types_pb2
from meterline_protos.publisher.v1 import invoices_pb2

from tests.integration.publisher.catalogue import GRADUATED, PER_UNIT, Priced
from tests.integration.publisher.world import FINALIZED, NOW, PUBLISHED, Api, World
from tests.support.fake_mesh import Event

pytestmark = pytest.mark.req("T3.4")

OPERATOR = types_pb2.TraceContext(trace_id="12" * 16, span_id="34" * 8, sampled=True)


async def test_correction_lowers_invoice_line_and_provider_usage(world: World, api: Api) -> None:
    acme = await world.tenant()
    await world.capture("acme", Event(NOW, value="10"), Event(NOW, value="900"), Event(NOW, value="4"))
    before = await api.publish("acme")
    assert (before.invoice.total, world.at_provider(acme)) == ("9.14", 914)
    ten, mistake, four = world.mesh.tenants["acme"].events
    await world.capture("acme", Event(NOW, value="90"), retracted=[mistake])
    amended = await api.publish("acme")
    assert (amended.invoice.total, amended.invoice.state) == ("1.04", PUBLISHED)
    await world.capture("acme", retracted=[ten, four])
    retracted = await api.publish("acme")
    assert (retracted.invoice.total, retracted.invoice.lines[0].event_count) == ("0.90", 1)
    assert [row.value for row in retracted.publications] == ["914", "-810", "-14"]
    assert world.at_provider(acme) == 90
    assert retracted.invoice.lines[0].line_id == before.invoice.lines[0].line_id
    # Every calculation stays on record, including the one with the mistake.
    assert len(world.rows("SELECT FROM calculations")) == 3
    world.end_month(acme)
    assert (await api.reconcile("acme")).invoice.state == FINALIZED


@pytest.mark.req("X1")
async def test_explained_line_names_correcting_batches(world: World, api: Api) -> None:
    await world.tenant()
    await world.capture("acme", Event(NOW, value="10"), Event(NOW + timedelta(hours=3), value="900"))
    mistake = world.mesh.tenants["acme"].events[1]
    await world.capture("acme", Event(NOW, value="90"), retracted=[mistake], trace=OPERATOR)
    line = (await api.publish("acme")).invoice.lines[0]
    request = invoices_pb2.ExplainInvoiceLineRequest(tenant_id="acme", line_id=line.line_id)
    found = await api.invoices.ExplainInvoiceLine(request)
    captured, corrected = found.batches
    assert [(event.quantities["amount"], event.retracted) for event in captured.events] == [
        ("10", False),
        ("900", False),
    ]
    assert [(event.quantities["amount"], event.retracted) for event in corrected.events] == [
        ("90", False),
        ("900", True),
    ]
    assert corrected.batch.trace == OPERATOR
    assert corrected.trace_url == "http://traces.test/" + "12" * 16
    signed = [
        -Decimal(event.quantities["amount"]) if event.retracted else Decimal(event.quantities["amount"])
        for batch in found.batches
        for event in batch.events
    ]
    assert sum(signed) == Decimal(line.quantity) == 100


@pytest.mark.req("X1")
async def test_explained_event_shows_its_current_state(world: World, api: Api) -> None:
    await world.tenant()
    await world.capture("acme", Event(NOW, value="10"), Event(NOW, value="900"))
    kept, mistake = world.mesh.tenants["acme"].events
    await world.capture("acme", retracted=[mistake])
    await api.publish("acme")
    found = await explain_event(api, kept.event_id)
    assert [use.meter for use in found.uses] == ["calls"]
    gone = await explain_event(api, mistake.event_id)
    assert gone.event.retracted
    assert (gone.batch.batch_id, list(gone.uses)) == (gone.event.batch_id, [])


async def explain_event(api: Api, event_id: str) -> invoices_pb2.ExplainEventResponse:
    request = invoices_pb2.ExplainEventRequest(tenant_id="acme", event_id=event_id)
    return await api.invoices.ExplainEvent(request)


async def test_invoice_is_previewed_with_changed_usage(world: World, api: Api) -> None:
    acme = await world.tenant(prices=[Priced("calls", PER_UNIT), Priced("graded", GRADUATED)])
    await world.use("acme", "150")
    published = await api.publish("acme")
    answer = await api.preview_with("acme", {"calls": "-50", "graded": "-49.5", "unpriced": "7"})
    lines = {line.meter: (line.quantity, line.amount) for line in answer.invoice.lines}
    # 100 x 0.05 + 2, and half a unit of the second tier: the changed quantity is priced through all tiers.
    assert lines == {"calls": ("100", "1.00"), "graded": ("100.5", "7.02")}
    assert (answer.invoice.total, answer.final_invoice_id) == ("8.02", "")
    assert (await api.preview_with("acme", {"calls": "-151"})).invoice.lines[0].amount == "0.00"
    assert (await api.preview("acme")).total == "10.03"
    assert (await api.publish("acme")) == published
    assert world.at_provider(acme) == 150


async def test_preview_names_final_invoice_that_does_not_change(world: World, api: Api) -> None:
    acme = await world.tenant()
    await world.use("acme", "10")
    invoice = (await api.publish("acme")).invoice
    world.end_month(acme)
    assert (await api.reconcile("acme")).invoice.state == FINALIZED
    answer = await api.preview_with("acme", {"calls": "-4"})
    assert answer.final_invoice_id == invoice.invoice_id
    assert answer.invoice.total == "0.06"
    request = invoices_pb2.GetInvoiceRequest(tenant_id="acme", invoice_id=invoice.invoice_id)
    assert (await api.invoices.GetInvoice(request)).invoice.total == "0.10"


# Deltas by meter, and a part of the refusal.
INVALID_CHANGES: list[tuple[list[tuple[str, str]], str]] = [
    ([("calls", "1,5")], r"changes\[0\].delta"),
    ([("calls", "1"), ("graded", "1e5")], r"changes\[1\].delta"),
    ([("calls", "")], r"changes\[0\].delta"),
    ([("calls", "٣")], r"changes\[0\].delta"),
    ([("calls", "9" * 41)], r"changes\[0\].delta"),
    ([("calls", "9" * 40)], "digits"),
    ([("", "1")], r"changes\[0\].meter"),
    ([("calls", "1"), ("calls", "1")], "at most one change a meter"),
]


async def test_invalid_usage_change_is_refused(world: World, api: Api) -> None:
    await world.tenant()
    await world.use("acme", "10")
    for changes, rule in INVALID_CHANGES:
        request = invoices_pb2.PreviewInvoiceRequest(
            tenant_id="acme",
            changes=[invoices_pb2.UsageChange(meter=one, delta=delta) for one, delta in changes],
        )
        request.at.FromDatetime(NOW)
        with pytest.raises(aio.AioRpcError, match=rule) as raised:
            await api.invoices.PreviewInvoice(request)
        assert raised.value.code() == grpc.StatusCode.INVALID_ARGUMENT, changes
