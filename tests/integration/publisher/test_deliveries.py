"""Delivery settings: how usage is sent is set separately from the price, and can be changed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

import grpc
import psycopg
import pytest
from google.rpc import error_details_pb2
from grpc import aio
from meterline_protos.publisher.v1 import prices_pb2

from tests.integration.publisher.catalogue import PER_UNIT, Priced
from tests.integration.publisher.world import PUBLISHED, REJECTED, SENT, Api, World
from tests.support.calls import status_of

CALLS = Priced("calls", PER_UNIT)


async def put(api: Api, version: int, event_name: str, scale: int = 0, **more: Any) -> prices_pb2.Delivery:
    fields: dict[str, Any] = {"plan": "plan-acme", "meter": "calls"} | more
    delivery = prices_pb2.Delivery(
        version=version, billing_event_name=event_name, billing_scale=scale, **fields
    )
    return (await api.prices.PutDelivery(prices_pb2.PutDeliveryRequest(delivery=delivery))).delivery


async def refusal(call: Awaitable[Any]) -> tuple[grpc.StatusCode, str]:
    """The status code, and the reason in its details."""
    with pytest.raises(aio.AioRpcError) as failure:
        await call
    info = error_details_pb2.ErrorInfo()
    assert any(detail.Unpack(info) for detail in status_of(failure.value).details)
    return failure.value.code(), info.reason


@pytest.mark.req("S6", "S8")
async def test_usage_rejected_for_its_scale_is_sent_after_scale_change(world: World, api: Api) -> None:
    acme = await world.tenant()
    await world.use("acme", "10.5")
    refused = await api.publish("acme")
    assert [row.state for row in refused.publications] == [REJECTED]
    await put(api, 2, acme.events["calls"], scale=3)
    resent = await api.publish("acme")
    assert [(row.state, row.value) for row in resent.publications] == [(REJECTED, "10.5"), (SENT, "10500")]
    assert (resent.invoice.state, resent.invoice.lines) == (PUBLISHED, refused.invoice.lines)
    assert world.at_provider(acme) == 10_500
    (meter,) = (await api.reconcile("acme")).meters
    assert (meter.sent, meter.agrees) == ("10.5", True)
    assert world.rows("SELECT count(*) FROM calculations") == [(1,)]


@pytest.mark.req("S6", "S8")
async def test_usage_without_provider_meter_is_sent_after_event_name_change(world: World, api: Api) -> None:
    acme = await world.tenant()
    await put(api, 2, "no_such_meter")
    await world.use("acme", "7")
    assert [row.state for row in (await api.publish("acme")).publications] == [REJECTED]
    await put(api, 3, acme.events["calls"])
    answer = await api.publish("acme")
    assert [row.state for row in answer.publications] == [REJECTED, SENT]
    assert world.at_provider(acme) == 7


@pytest.mark.req("S6")
async def test_period_keeps_delivery_settings_of_its_sent_usage(world: World, api: Api) -> None:
    acme = await world.tenant()
    await world.use("acme", "10")
    await api.publish("acme")
    other = world.lab.meter().event_name
    await put(api, 2, other, scale=2)
    await world.use("acme", "5")
    answer = await api.publish("acme")
    assert [(row.state, row.value) for row in answer.publications] == [(SENT, "10"), (SENT, "5")]
    assert world.at_provider(acme) == 15
    (meter,) = (await api.reconcile("acme")).meters
    assert (meter.usage, meter.sent, meter.provider, meter.agrees) == ("15", "15", "15", True)
    (price,) = (await api.prices.ListPrices(prices_pb2.ListPricesRequest(plan="plan-acme"))).prices
    assert (price.billing_event_name, price.billing_scale) == (other, 2)


async def test_new_event_name_sends_already_rated_usage(world: World, api: Api) -> None:
    acme = await world.tenant()
    await put(api, 2, "")
    await world.use("acme", "4")
    assert (await api.publish("acme")).publications == []
    await put(api, 3, acme.events["calls"])
    await api.publish("acme")
    assert world.at_provider(acme) == 4


async def test_delivery_versions_are_immutable_numbered_and_attributed(world: World, api: Api) -> None:
    await api.put("plan-acme", CALLS, "one")
    second = await put(api, 2, "two", 3)
    assert second.put_by
    assert second.HasField("put_at")
    assert await put(api, 2, "two", 3) == second
    with pytest.raises(aio.AioRpcError) as failure:
        await put(api, 2, "three")
    assert failure.value.code() == grpc.StatusCode.ALREADY_EXISTS
    precondition = grpc.StatusCode.FAILED_PRECONDITION
    assert await refusal(put(api, 4, "four")) == (precondition, "DELIVERY_VERSION")
    assert (await refusal(put(api, 1, "x", meter="nothing")))[0] == grpc.StatusCode.NOT_FOUND
    listed = await api.prices.ListDeliveries(prices_pb2.ListDeliveriesRequest(plan="plan-acme"))
    assert [(each.version, each.billing_event_name) for each in listed.deliveries] == [(1, "one"), (2, "two")]
    for statement in ("UPDATE deliveries SET billing_scale = 0", "DELETE FROM deliveries"):
        with pytest.raises(psycopg.errors.RestrictViolation):
            world.rows(statement)


async def test_next_price_version_repeats_or_omits_delivery_settings(api: Api) -> None:
    await api.put("plan-acme", CALLS, "one")
    await put(api, 2, "two", 3)
    assert (await api.put("plan-acme", CALLS, "one")).billing_event_name == "two"
    assert (await api.put("plan-acme", CALLS, "two", billing_scale=3)).version == 1
    dear = Priced("calls", PER_UNIT | {"unit": "2"})
    later: dict[str, Any] = {"version": 2, "effective_from": None, "effective_date": "2026-03-01"}
    for event_name, scale in [("one", 0), ("two", 0), ("", 2)]:
        call = api.put("plan-acme", dear, event_name, billing_scale=scale, **later)
        assert await refusal(call) == (grpc.StatusCode.FAILED_PRECONDITION, "DELIVERY_DIFFERS")
    assert (await api.put("plan-acme", dear, **later)).billing_event_name == "two"
    assert (await api.put("plan-acme", dear, **later)).billing_scale == 3


async def test_meters_of_a_plan_cannot_share_an_event_name(api: Api) -> None:
    await api.put("plan-acme", CALLS, "one")
    await put(api, 2, "two")
    taken = (grpc.StatusCode.FAILED_PRECONDITION, "EVENT_NAME_TAKEN")
    for name in ("one", "two"):
        assert await refusal(api.put("plan-acme", Priced("more", PER_UNIT), name)) == taken
    await api.put("plan-acme", Priced("more", PER_UNIT), "three")
    for name in ("one", "two"):
        assert await refusal(put(api, 2, name, meter="more")) == taken
    # A meter may use its own earlier name again, and several meters may have no name.
    await put(api, 3, "one")
    await put(api, 2, "", meter="more")
    await put(api, 4, "")


async def test_one_of_concurrent_event_names_is_stored(api: Api) -> None:
    for meter in ("calls", "more"):
        await api.put("plan-acme", Priced(meter, PER_UNIT))
    results = await asyncio.gather(put(api, 2, "ev"), put(api, 2, "ev", meter="more"), return_exceptions=True)
    assert sum(isinstance(result, prices_pb2.Delivery) for result in results) == 1
