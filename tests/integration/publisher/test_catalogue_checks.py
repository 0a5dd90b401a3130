"""PutPrice checks that the meter exists; a version that no calculation used can be withdrawn."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import psycopg
import pytest
from grpc import aio
from meterline_protos.publisher.v1 import prices_pb2

from tests.integration.publisher.catalogue import PER_UNIT, Priced
from tests.integration.publisher.conftest import StartPublisher
from tests.integration.publisher.test_deliveries import refusal
from tests.integration.publisher.world import Api, World

pytestmark = pytest.mark.req("C1", "S2")

CALLS = Priced("calls", PER_UNIT)
DEAR = Priced("calls", PER_UNIT | {"unit": "3"})
EURO = PER_UNIT | {"currency": "EUR"}
MARCH: dict[str, Any] = {"version": 2, "effective_from": None, "effective_date": "2026-03-01"}

PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION


async def withdraw(api: Api, version: int, meter: str = "calls", plan: str = "plan-acme") -> bool:
    request = prices_pb2.WithdrawPriceRequest(plan=plan, meter=meter, version=version)
    return (await api.prices.WithdrawPrice(request)).withdrawn


async def listed(api: Api) -> list[tuple[str, int]]:
    answer = await api.prices.ListPrices(prices_pb2.ListPricesRequest(plan="plan-acme"))
    return [(price.meter, price.version) for price in answer.prices]


async def test_price_of_unknown_meter_is_refused(world: World, api: Api) -> None:
    price = await api.put("plan-acme", CALLS)
    other = prices_pb2.Price()
    other.CopyFrom(price)
    other.meter = "misspelt"
    call = api.prices.PutPrice(prices_pb2.PutPriceRequest(price=other))
    assert await refusal(call) == (PRECONDITION, "METER_UNKNOWN")
    assert world.mesh.referred == {"calls"}
    world.mesh.add_meter("misspelt")
    assert (await api.prices.PutPrice(prices_pb2.PutPriceRequest(price=other))).created
    # Aggregate recorded the price's reference to the meter, and so will not delete it.
    assert world.mesh.referred == {"calls", "misspelt"}


async def test_fee_with_event_name_needs_an_existing_meter(api: Api) -> None:
    await api.put("plan-acme", Priced("fee", {"model": "flat", "currency": "USD", "amount": "5"}))
    sent = prices_pb2.Delivery(plan="plan-acme", meter="fee", version=2, billing_event_name="fee")
    call = api.prices.PutDelivery(prices_pb2.PutDeliveryRequest(delivery=sent))
    assert await refusal(call) == (PRECONDITION, "METER_UNKNOWN")


async def test_put_price_is_refused_while_aggregate_is_unavailable(start: StartPublisher) -> None:
    lonely = await start(aggregate_address="127.0.0.1:1")
    with pytest.raises(aio.AioRpcError) as failure:
        await lonely.put("plan-acme", CALLS)
    assert failure.value.code() == grpc.StatusCode.UNAVAILABLE
    assert await listed(lonely) == []


async def test_plan_has_one_currency(api: Api) -> None:
    await api.put("plan-acme", CALLS)
    for call in (
        api.put("plan-acme", Priced("euro", EURO)),
        api.put("plan-acme", Priced("calls", EURO), **MARCH),
    ):
        assert await refusal(call) == (PRECONDITION, "CURRENCY_DIFFERS")
    await api.put("other", Priced("euro", EURO))


async def test_names_with_blanks_or_non_ascii_characters_are_refused(api: Api) -> None:
    names = ["calls ", " calls", "ca lls", "calls\n", "", "-calls", "x" * 65, "caf\u00e9"]
    for plan, meter in [(name, "calls") for name in names] + [("plan-acme", name) for name in names]:
        with pytest.raises(aio.AioRpcError) as failure:
            await withdraw(api, 1, meter, plan)
        assert failure.value.code() == grpc.StatusCode.INVALID_ARGUMENT, (plan, meter)


async def test_newest_version_is_withdrawn_and_its_number_not_reused(world: World, api: Api) -> None:
    await world.tenant()
    await world.use("acme", "10")
    await api.put("plan-acme", DEAR, **MARCH)
    assert (await api.preview("acme")).total == "30.00"
    assert await refusal(withdraw(api, 1)) == (PRECONDITION, "NOT_THE_NEWEST")
    assert [await withdraw(api, 2), await withdraw(api, 2)] == [True, False]
    assert (await api.preview("acme")).total == "0.10"
    assert await listed(api) == [("calls", 1)]
    assert await refusal(api.put("plan-acme", DEAR, **MARCH)) == (PRECONDITION, "VERSION_WITHDRAWN")
    await api.put("plan-acme", DEAR, **(MARCH | {"version": 3}))
    assert await listed(api) == [("calls", 1), ("calls", 3)]
    assert (await api.publish("acme")).invoice.total == "30.00"
    with pytest.raises(aio.AioRpcError) as failure:
        await withdraw(api, 4)
    assert failure.value.code() == grpc.StatusCode.NOT_FOUND
    with pytest.raises(psycopg.errors.RestrictViolation):
        world.rows("DELETE FROM price_withdrawals")


async def test_version_used_by_an_invoice_cannot_be_withdrawn(world: World, api: Api) -> None:
    await world.tenant()
    await api.publish("acme")
    assert await refusal(withdraw(api, 1)) == (PRECONDITION, "VERSION_USED")


async def test_withdrawn_price_frees_its_event_name_and_plan_currency(
    api: Api,
) -> None:
    await api.put("plan-acme", Priced("calsl", EURO), "calls_event")
    await withdraw(api, 1, "calsl")
    assert (await api.put("plan-acme", CALLS, "calls_event")).billing_event_name == "calls_event"
    put = await api.put("plan-acme", Priced("calsl", PER_UNIT), "other_event", version=2)
    assert put.billing_event_name == "other_event"


async def test_version_is_never_both_withdrawn_and_used(world: World, api: Api) -> None:
    await world.tenant(prices=[CALLS, Priced("more", PER_UNIT)])
    await world.use("acme", "10")
    answer, *_ = await asyncio.gather(api.publish("acme"), withdraw(api, 1, "more"), return_exceptions=True)
    withdrawn = ("more", 1) not in await listed(api)
    used = world.rows("SELECT FROM rule_sets WHERE rules::text LIKE '%%plan-acme/more%%'")
    assert withdrawn != bool(used)
    assert not isinstance(answer, BaseException)
    assert (await api.publish("acme")).invoice.state
