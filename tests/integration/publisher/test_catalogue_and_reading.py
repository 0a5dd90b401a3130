"""The price catalogue, previews, lists, and errors of invalid requests."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from datetime import UTC, datetime, timedelta
from typing import Any, LiteralString
from zoneinfo import ZoneInfo

import grpc
import psycopg
import pytest
from google.protobuf.json_format import MessageToDict
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2
from grpc import aio
from grpc_status import rpc_status
from meterline_protos.publisher.v1 import invoices_pb2, prices_pb2, publications_pb2

from tests.integration.publisher.catalogue import GRADUATED, PER_UNIT, VOLUME, Priced
from tests.integration.publisher.world import NOW, OPEN, START, Api, World
from tests.support.fake_mesh import timestamp

CALLS = Priced("calls", PER_UNIT)


async def refusal(call: Awaitable[Any]) -> tuple[grpc.StatusCode, str]:
    """The status code, and the field of the first violation in its details (empty without details)."""
    with pytest.raises(aio.AioRpcError) as failure:
        await call
    status = rpc_status.from_call(failure.value)  # type: ignore[arg-type]
    field = ""
    for detail in status.details if status else []:
        bad = error_details_pb2.BadRequest()
        if detail.Unpack(bad):
            field = bad.field_violations[0].field
    return failure.value.code(), field


@pytest.mark.req("C1", "S3")
async def test_put_price_is_idempotent_and_versions_are_immutable(api: Api) -> None:
    first = await api.put("basic", CALLS, "ev", description="Calls")
    assert (first.version, first.description, len(first.digest)) == (1, "Calls", 64)
    assert await api.put("basic", CALLS, "ev", description="Calls") == first
    spelled = Priced("calls", PER_UNIT | {"unit": "0.010", "free": "0"})
    assert await api.put("basic", spelled, "ev", description="Calls") == first
    for other in ({"description": "Else"}, {"effective_from": timestamp(NOW)}):
        call = api.put("basic", CALLS, "ev", **({"description": "Calls"} | other))
        assert (await refusal(call))[0] == grpc.StatusCode.ALREADY_EXISTS
    dear = Priced("calls", PER_UNIT | {"unit": "2"})
    assert (await refusal(api.put("basic", dear, "ev")))[0] == grpc.StatusCode.ALREADY_EXISTS


async def test_versions_must_be_consecutive_and_later(api: Api) -> None:
    await api.put("basic", CALLS, effective_from=timestamp(START))
    dear = Priced("calls", PER_UNIT | {"unit": "2"})
    for version, start in [(3, NOW), (2, START), (2, START - timedelta(days=1))]:
        call = api.put("basic", dear, version=version, effective_from=timestamp(start))
        assert (await refusal(call))[0] == grpc.StatusCode.FAILED_PRECONDITION
    await api.put("basic", dear, version=2, effective_from=timestamp(START + timedelta(microseconds=1)))
    listed = (await api.prices.ListPrices(prices_pb2.ListPricesRequest(plan="basic"))).prices
    assert [price.version for price in listed] == [1, 2]


@pytest.mark.req("S2", "C2")
async def test_effective_date_starts_with_the_month_of_each_time_zone(world: World, api: Api) -> None:
    dear = Priced("calls", PER_UNIT | {"unit": "3"})
    for number, (slug, zone) in enumerate(
        [("york", "America/New_York"), ("berlin", "Europe/Berlin"), ("tokyo", "Asia/Tokyo")], start=1
    ):
        start = datetime(2026, 3, 1, tzinfo=ZoneInfo(zone))
        await world.tenant(slug, number=number, zone=zone, start=start)
        day: dict[str, Any] = {"effective_from": None, "effective_date": "2026-03-01"}
        price = await api.put(f"plan-{slug}", dear, version=2, **day)
        assert (price.effective_date, price.HasField("effective_from")) == ("2026-03-01", False)
        await world.use(slug, "10")
        assert (await api.preview(slug)).total == "30.00"
        assert (await api.preview(slug, start - timedelta(hours=1))).lines[0].price_version == 1
        assert (await api.publish(slug)).invoice.total == "30.00"
    listed = (await api.prices.ListPrices(prices_pb2.ListPricesRequest(plan="plan-york"))).prices
    assert [price.effective_date for price in listed] == ["", "2026-03-01"]


async def test_effective_date_must_be_after_previous_version_in_every_time_zone(api: Api) -> None:
    await api.put("basic", CALLS, effective_from=timestamp(datetime(2026, 2, 28, 10, tzinfo=UTC)))
    later: dict[str, Any] = {"version": 2, "effective_from": None}
    call = api.put("basic", CALLS, **later, effective_date="2026-03-01")
    assert (await refusal(call))[0] == grpc.StatusCode.FAILED_PRECONDITION
    await api.put("basic", CALLS, **later, effective_date="2026-03-02")


async def test_one_of_concurrent_versions_is_stored(api: Api) -> None:
    bodies = [Priced("calls", PER_UNIT | {"unit": str(unit)}) for unit in range(1, 9)]
    results = await asyncio.gather(*(api.put("basic", body) for body in bodies), return_exceptions=True)
    kept = [result for result in results if isinstance(result, prices_pb2.Price)]
    assert len(kept) == 1
    assert list((await api.prices.ListPrices(prices_pb2.ListPricesRequest())).prices) == kept


async def test_meters_of_a_plan_cannot_share_an_event_name(api: Api) -> None:
    await api.put("basic", CALLS, "ev")
    call = api.put("basic", Priced("more", PER_UNIT), "ev")
    assert (await refusal(call))[0] == grpc.StatusCode.FAILED_PRECONDITION
    await api.put("basic", Priced("free", PER_UNIT))
    await api.put("basic", Priced("free_too", PER_UNIT))
    await api.put("other", Priced("more", PER_UNIT), "ev")


async def test_list_prices_returns_one_plan_or_all(api: Api) -> None:
    await api.put("b", CALLS)
    await api.put("a", Priced("z", VOLUME))
    await api.put("a", Priced("y", GRADUATED))
    every = (await api.prices.ListPrices(prices_pb2.ListPricesRequest())).prices
    assert [(price.plan, price.meter) for price in every] == [("a", "y"), ("a", "z"), ("b", "calls")]
    of_a = (await api.prices.ListPrices(prices_pb2.ListPricesRequest(plan="a"))).prices
    assert [price.meter for price in of_a] == ["y", "z"]
    assert MessageToDict(of_a[0].body)["tiers"][2] == {"up_to": None, "unit": "0.0101", "flat": "1.5"}


@pytest.mark.req("T4.1")
async def test_tenant_can_list_prices_of_its_plan(world: World, api: Api) -> None:
    await world.tenant(prices=[CALLS])
    await api.put("other", Priced("more", PER_UNIT))
    answer = await api.prices.ListPrices(prices_pb2.ListPricesRequest(tenant_id="acme"))
    assert [(price.plan, price.meter) for price in answer.prices] == [("plan-acme", "calls")]
    both = prices_pb2.ListPricesRequest(tenant_id="acme", plan="other")
    assert (await refusal(api.prices.ListPrices(both)))[0] == grpc.StatusCode.INVALID_ARGUMENT
    nobody = prices_pb2.ListPricesRequest(tenant_id="nobody")
    assert (await refusal(api.prices.ListPrices(nobody)))[0] == grpc.StatusCode.NOT_FOUND


# A body, and the field that the refusal names.
INVALID_BODIES: list[tuple[dict[str, Any], str]] = [
    ({"model": "per_unit", "currency": "USD", "unit": 0.1}, "price.body.unit"),
    ({"model": "per_unit", "currency": "XTS", "unit": "1"}, "price.body.currency"),
    (VOLUME | {"tiers": [{"up_to": "1", "unit": "1"}]}, "price.body.tiers.0.up_to"),
    ({"model": "guess", "currency": "USD"}, "price.body.model"),
    (PER_UNIT | {"maximun": "5"}, "price.body.maximun"),
]


async def test_invalid_price_body_names_its_field(api: Api) -> None:
    for body, field in INVALID_BODIES:
        found = await refusal(api.put("basic", Priced("calls", body)))
        assert found == (grpc.StatusCode.INVALID_ARGUMENT, field), body


async def test_price_accepts_integer_numbers(api: Api) -> None:
    price = await api.put("basic", Priced("calls", {"model": "per_unit", "currency": "USD", "unit": 3}))
    assert price.body["unit"] == "3"


# Changed fields of a valid price, and the field that the refusal names.
INVALID_FIELDS: list[tuple[dict[str, Any], str]] = [
    ({"plan": ""}, "price.plan"),
    ({"meter": "no spaces"}, "price.meter"),
    ({"version": 0}, "price.version"),
    ({"billing_scale": 10}, "price.billing_scale"),
    ({"billing_event_name": "x" * 101}, "price.billing_event_name"),
    ({"description": "nul\0"}, "price.description"),
    ({"effective_from": Timestamp(seconds=10**12)}, "price.effective_from"),
    ({"effective_from": None}, "price.effective_date"),
    ({"effective_date": "2026-03-01"}, "price.effective_date"),
    ({"effective_from": None, "effective_date": "2026-3-1"}, "price.effective_date"),
    ({"effective_from": None, "effective_date": "2026-02-30"}, "price.effective_date"),
    ({"effective_from": None, "effective_date": "1969-12-31"}, "price.effective_date"),
    ({"effective_from": None, "effective_date": "9999-01-01"}, "price.effective_date"),
    ({"body": None}, "price.body"),
    ({"digest": "0" * 64}, "price.digest"),
]


async def test_invalid_price_names_its_field(api: Api) -> None:
    body = Struct()
    body.update(PER_UNIT)
    fields: dict[str, Any] = {
        "plan": "basic",
        "meter": "calls",
        "version": 1,
        "effective_from": timestamp(START),
        "body": body,
    }
    for change, field in INVALID_FIELDS:
        request = prices_pb2.PutPriceRequest(price=prices_pb2.Price(**(fields | change)))
        found = await refusal(api.prices.PutPrice(request))
        assert found == (grpc.StatusCode.INVALID_ARGUMENT, field), change


@pytest.mark.req("T5.5")
async def test_preview_stores_and_sends_nothing(world: World, api: Api) -> None:
    acme = await world.tenant(prices=[CALLS, Priced("graded", GRADUATED)])
    await world.use("acme", "150")
    invoice = await api.preview("acme")
    assert (invoice.invoice_id, invoice.state) == ("", OPEN)
    assert {line.meter: line.amount for line in invoice.lines} == {"calls": "1.50", "graded": "8.53"}
    assert invoice.total == "10.03"
    graded = invoice.lines[1]
    assert (graded.exact_amount, graded.line_id, graded.event_count) == ("8.525", "", 1)
    assert [(step.quantity, step.unit_amount, step.amount) for step in graded.steps] == [
        ("100", "0.05", "5"),
        ("1", "2", "2"),
        ("50", "0.0305", "1.525"),
    ]
    assert world.rows("SELECT FROM invoices") == world.rows("SELECT FROM calculations") == []
    assert world.sends(acme) == 0


@pytest.mark.req("T6.1")
async def test_period_without_usage_is_billed_at_zero_quantity(world: World, api: Api) -> None:
    await world.tenant(
        prices=[CALLS, Priced("graded", GRADUATED), Priced("none", GRADUATED | {"flat_at_zero": False})]
    )
    invoice = await api.preview("acme")
    assert {line.meter: line.amount for line in invoice.lines} == {
        "calls": "0.00",
        "graded": "2.00",
        "none": "0.00",
    }


async def test_flat_fee_needs_neither_meter_nor_usage(world: World, api: Api) -> None:
    await world.tenant()
    await api.put("plan-acme", Priced("base_fee", {"model": "flat", "currency": "USD", "amount": "20"}))
    await world.use("acme", "100")
    assert (await api.publish("acme")).invoice.total == "21.00"


async def test_negative_usage_is_billed_as_zero(world: World, api: Api) -> None:
    acme = await world.tenant()
    await world.use("acme", "-5")
    answer = await api.publish("acme")
    assert (answer.invoice.total, answer.invoice.lines[0].quantity) == ("0.00", "0")
    assert world.at_provider(acme) == -5


async def test_prices_in_another_currency_are_not_billed(world: World, api: Api) -> None:
    await world.tenant(currency="EUR")
    assert (await refusal(api.preview("acme")))[0] == grpc.StatusCode.FAILED_PRECONDITION


@pytest.mark.req("T4.1")
async def test_lists_are_paged_newest_first(world: World, api: Api) -> None:
    acme = await world.tenant()
    await world.tenant("other", number=2)
    april = NOW + timedelta(days=31)
    for month in (NOW, april):
        await world.use("acme", "5", month)
    await api.publish("other")
    await api.publish("acme")
    world.lab.advance(acme.test_clock, int(april.timestamp()))
    await api.publish("acme", april)
    first = await api.invoices.ListInvoices(invoices_pb2.ListInvoicesRequest(tenant_id="acme", page_size=1))
    second = await api.invoices.ListInvoices(
        invoices_pb2.ListInvoicesRequest(tenant_id="acme", page_size=1, page_token=first.next_page_token)
    )
    starts = [page.invoices[0].period_start.ToDatetime(tzinfo=UTC).month for page in (first, second)]
    assert starts == [4, 3]
    assert second.next_page_token == ""
    found = await api.invoices.GetInvoice(
        invoices_pb2.GetInvoiceRequest(tenant_id="acme", invoice_id=first.invoices[0].invoice_id)
    )
    assert found.invoice == first.invoices[0]
    ledger = await api.publications.ListPublications(
        publications_pb2.ListPublicationsRequest(tenant_id="acme", page_size=1)
    )
    rest = await api.publications.ListPublications(
        publications_pb2.ListPublicationsRequest(tenant_id="acme", page_token=ledger.next_page_token)
    )
    months_sent = [
        row.period_start.ToDatetime(tzinfo=UTC).month for row in (*ledger.publications, *rest.publications)
    ]
    assert months_sent == [4, 3]


async def test_invalid_request_names_its_field(world: World, api: Api) -> None:
    await world.tenant()
    invalid = grpc.StatusCode.INVALID_ARGUMENT
    at = timestamp(NOW)
    cases: list[tuple[Awaitable[Any], str]] = [
        (api.publications.PublishUsage(publications_pb2.PublishUsageRequest(tenant_id="acme")), "at"),
        (api.invoices.PreviewInvoice(invoices_pb2.PreviewInvoiceRequest(tenant_id="-", at=at)), "tenant_id"),
        (
            api.invoices.GetInvoice(invoices_pb2.GetInvoiceRequest(tenant_id="acme", invoice_id="1")),
            "invoice_id",
        ),
        (
            api.invoices.ExplainInvoiceLine(invoices_pb2.ExplainInvoiceLineRequest(tenant_id="acme")),
            "line_id",
        ),
        (
            api.invoices.ListInvoices(
                invoices_pb2.ListInvoicesRequest(tenant_id="acme", page_token="nonsense")
            ),
            "page_token",
        ),
        (
            api.invoices.ExplainEvent(
                invoices_pb2.ExplainEventRequest(tenant_id="acme", event_id="x" * 1_001)
            ),
            "event_id",
        ),
    ]
    for call, field in cases:
        assert await refusal(call) == (invalid, field)
    unknown = publications_pb2.ReconcilePeriodRequest(tenant_id="nobody", at=at)
    assert (await refusal(api.publications.ReconcilePeriod(unknown)))[0] == grpc.StatusCode.NOT_FOUND
    unpriced = api.preview("acme", datetime(2019, 1, 1, tzinfo=UTC))
    assert (await refusal(unpriced))[0] == grpc.StatusCode.FAILED_PRECONDITION


CHANGES: list[LiteralString] = [
    "UPDATE prices SET digest = 'x'",
    "UPDATE rule_sets SET digest = 'x'",
    "UPDATE calculations SET output = 'x'",
    "DELETE FROM prices",
    "DELETE FROM rule_sets",
    "DELETE FROM calculations",
]


@pytest.mark.req("C1", "C2")
async def test_recorded_prices_and_calculations_cannot_be_changed(world: World, api: Api) -> None:
    """Neither the service, which lacks the privilege, nor a role with all privileges can change them."""
    await world.tenant()
    await world.use("acme", "5")
    await api.publish("acme")
    with psycopg.connect(world.database.app_dsn("publisher"), autocommit=True) as app:
        for statement in CHANGES:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                app.execute(statement)
            with pytest.raises(psycopg.errors.RestrictViolation):
                world.rows(statement)
