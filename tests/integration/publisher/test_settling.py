"""Settling: our total equals the provider's to the cent, for every price model."""

from __future__ import annotations

import grpc
import pytest
from grpc import aio
from meterline_protos.events.v1 import events_pb2
from nats.js.api import RawStreamMsg

from tests.integration.publisher.catalogue import GRADUATED, PACKAGE, PER_UNIT, VOLUME, Priced
from tests.integration.publisher.conftest import StartPublisher
from tests.integration.publisher.world import DISPUTED, FINALIZED, NOW, OPEN, PUBLISHED, START, Api, World
from tests.support.fake_mesh import Event
from tests.support.polling import eventually

MODELS = [
    Priced("per_unit", PER_UNIT | {"unit": "0.0005"}),
    Priced("graduated", GRADUATED),
    Priced("volume", VOLUME, scale=2),
    Priced("package", PACKAGE, scale=1),
]


async def facts(world: World) -> list[events_pb2.InvoiceChanged]:
    """All messages published on invoices.changed so far, in order."""
    jetstream = world.bus.jetstream()
    last = (await jetstream.stream_info("INVOICES")).state.last_seq
    found: list[RawStreamMsg] = [await jetstream.get_msg("INVOICES", seq) for seq in range(1, last + 1)]
    return [events_pb2.InvoiceChanged.FromString(message.data or b"") for message in found]


@pytest.mark.req("T3.5", "S9", "X2")
@pytest.mark.parametrize("value", ["0", "333", "100.5", "1000", "12345.6"])
async def test_provider_total_equals_ours_for_every_price_model(world: World, api: Api, value: str) -> None:
    whole = value.partition(".")[0]
    acme = await world.tenant(prices=MODELS)
    for meter in ("per_unit", "graduated"):
        world.mesh.meters[meter].filter["kind"] = "whole"
    for meter in ("volume", "package"):
        world.mesh.meters[meter].filter["kind"] = "part"
    await _use(world, "whole", whole)
    await _use(world, "part", value)
    await api.publish("acme")
    world.end_month(acme)
    answer = await api.reconcile("acme")
    assert all(meter.agrees for meter in answer.meters), answer.meters
    assert answer.invoice.external_total == answer.invoice.total
    assert answer.invoice.state == FINALIZED
    (external,) = world.lab.invoices(acme.subscription)
    assert answer.invoice.external_invoice_id == external.id


async def _use(world: World, kind: str, value: str) -> None:
    await world.capture("acme", Event(NOW, value=value, dimensions={"kind": kind}))


@pytest.mark.req("T3.5", "X3")
async def test_differing_total_is_disputed(world: World, api: Api) -> None:
    acme = await world.tenant()
    await world.use("acme", "100")
    await api.publish("acme")
    world.lab.send(world.stripe_meter(acme), acme.customer, 11, at=int(START.timestamp()) + 60)
    world.end_month(acme)
    answer = await api.reconcile("acme")
    (calls,) = answer.meters
    assert (calls.usage, calls.sent, calls.provider, calls.agrees) == ("100", "100", "111", False)
    assert (answer.invoice.total, answer.invoice.external_total) == ("1.00", "1.11")
    assert answer.invoice.state == DISPUTED


@pytest.mark.req("K3")
async def test_invoice_changes_are_published_with_increasing_versions(world: World, api: Api) -> None:
    acme = await world.tenant()
    await world.use("acme", "100")
    published = await api.publish("acme")
    world.end_month(acme, final=False)
    await api.reconcile("acme")
    world.lab.advance(acme.test_clock, int(START.timestamp()) + 32 * 86_400)
    await api.reconcile("acme")
    await api.reconcile("acme")
    found = await eventually(lambda: facts(world), until=lambda all_: len(all_) >= 4)
    assert [(fact.version, fact.state) for fact in found] == [
        (1, "open"),
        (2, "published"),
        (3, "published"),  # the provider's draft has a name now
        (4, "finalized"),
    ]
    assert {fact.invoice_id for fact in found} == {published.invoice.invoice_id}
    assert {(fact.total, fact.currency, fact.tenant_id) for fact in found} == {("1.00", "USD", 1)}


@pytest.mark.req("S9", "T3.5")
async def test_settling_job_settles_ended_periods(world: World, start: StartPublisher) -> None:
    settler = await start(settle_seconds=0.05)
    acme = await world.tenant()
    await world.use("acme", "100")
    assert (await settler.publish("acme")).invoice.state == PUBLISHED
    end = world.end_month(acme)
    world.clock.advance(end - START)
    invoice = await eventually(
        lambda: settler.invoice_list("acme"), until=lambda found: found[0].state == FINALIZED
    )
    assert invoice[0].external_total == "1.00"


async def test_reconcile_accepts_period_that_was_never_rated(world: World, api: Api) -> None:
    await world.tenant()
    await world.use("acme", "3")
    answer = await api.reconcile("acme")
    (calls,) = answer.meters
    assert (calls.usage, calls.sent, calls.provider, calls.agrees) == ("3", "0", "0", False)
    assert not answer.HasField("invoice")


async def test_meter_unknown_to_provider_does_not_agree(world: World, api: Api) -> None:
    await world.tenant()
    await api.put("plan-acme", Priced("more", PER_UNIT), "nobody_made_this")
    world.mesh.add_meter("more")
    await world.use("acme", "3")
    answer = await api.publish("acme")
    assert answer.invoice.state == OPEN
    meters = {meter.meter: meter for meter in (await api.reconcile("acme")).meters}
    assert (meters["calls"].provider, meters["calls"].agrees) == ("3", True)
    assert (meters["more"].provider, meters["more"].agrees) == ("", False)


@pytest.mark.parametrize("call", ["publish", "reconcile"])
async def test_tenant_without_customer_is_not_billed(world: World, api: Api, call: str) -> None:
    world.mesh.add_tenant("free", 9, "UTC")
    world.mesh.add_meter("calls")
    await api.put("plan-free", Priced("calls", PER_UNIT), "whatever")
    await world.announce("free", 9)
    with pytest.raises(aio.AioRpcError) as failure:
        await getattr(api, call)("free")
    assert failure.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert (await api.preview("free")).total == "0.00"
