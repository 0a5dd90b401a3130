"""A preview lists the meters that it leaves out with reasons; an explained event has the reason too."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

import pytest
from meterline_protos.publisher.v1 import invoices_pb2
from meterline_publisher.rating import service as rating_service

from tests.integration.publisher.catalogue import PER_UNIT, Priced
from tests.integration.publisher.test_billing_gaps import gaps_of
from tests.integration.publisher.test_unbillable_meters import euro, misspelt
from tests.integration.publisher.world import FINALIZED, START, Api, World
from tests.support.fake_mesh import timestamp

pytestmark = pytest.mark.req("S9", "X3")

Found = tuple[str, str, str]
"""Meter, reason, quantity."""


def reason_name(value: invoices_pb2.BillingGapReason.ValueType) -> str:
    return invoices_pb2.BillingGapReason.Name(value).removeprefix("BILLING_GAP_REASON_")


def short(left_out: Iterable[invoices_pb2.LeftOutMeter]) -> list[Found]:
    found = list(left_out)
    assert all(one.detail for one in found)
    return [(one.meter, reason_name(one.reason), one.quantity) for one in found]


async def left_out(api: Api, **deltas: str) -> list[Found]:
    return short((await api.preview_with("acme", deltas)).left_out)


async def plan_with_each_gap_reason(world: World, api: Api) -> None:
    """acme used 4 of every meter that exists, and its plan can bill one of them."""
    await world.tenant(prices=[Priced("calls", PER_UNIT)])
    middle = timestamp(START + timedelta(days=5))
    await api.put("plan-acme", Priced("soon", PER_UNIT), effective_from=middle)
    await misspelt(world, api)
    await euro(world, api)
    world.mesh.add_meter("information")
    await world.use("acme", "4")


EXPECTED = [
    ("cals", "METER_UNKNOWN", ""),
    ("euro", "CURRENCY_DIFFERS", "4"),
    ("information", "METER_NOT_PRICED", "4"),
    ("soon", "PRICE_NOT_IN_FORCE", "4"),
]


async def test_preview_lists_left_out_meters_with_reasons(world: World, api: Api) -> None:
    await plan_with_each_gap_reason(world, api)
    preview = await api.preview_with("acme", {})
    assert [line.meter for line in preview.invoice.lines] == ["calls"]
    assert sorted(short(preview.left_out)) == EXPECTED
    # Publishing records the same gaps.
    await api.publish("acme")
    assert sorted((meter, reason, quantity) for _, meter, reason, quantity in await gaps_of(api)) == EXPECTED


async def test_usage_changes_apply_to_left_out_meters(world: World, api: Api) -> None:
    await plan_with_each_gap_reason(world, api)
    found = await left_out(api, euro="6", information="-4", calls="1")
    assert sorted(found) == [
        ("cals", "METER_UNKNOWN", ""),
        ("euro", "CURRENCY_DIFFERS", "10"),
        ("soon", "PRICE_NOT_IN_FORCE", "4"),
    ]


async def test_only_incomplete_previews_list_left_out_meters(world: World, api: Api) -> None:
    acme = await world.tenant()
    await world.use("acme", "4")
    assert await left_out(api) == []
    await api.publish("acme")
    world.end_month(acme)
    assert (await api.reconcile("acme")).invoice.state == FINALIZED
    world.mesh.add_meter("information")
    await world.use("acme", "1")
    assert await left_out(api) == [("information", "METER_NOT_PRICED", "5")]


async def test_explained_event_has_reason_for_missing_line(world: World, api: Api) -> None:
    await plan_with_each_gap_reason(world, api)
    assert await explained(world, api) == [
        ("calls", False, "UNSPECIFIED"),
        ("euro", False, "UNSPECIFIED"),
        ("information", False, "UNSPECIFIED"),
        ("soon", False, "UNSPECIFIED"),
    ]
    await api.publish("acme")
    assert await explained(world, api) == [
        ("calls", True, "UNSPECIFIED"),
        ("euro", False, "CURRENCY_DIFFERS"),
        ("information", False, "METER_NOT_PRICED"),
        ("soon", False, "PRICE_NOT_IN_FORCE"),
    ]


async def explained(world: World, api: Api) -> list[tuple[str, bool, str]]:
    """For acme's only event: each meter, whether a line bills it, and the gap reason."""
    (event,) = world.mesh.tenants["acme"].events
    request = invoices_pb2.ExplainEventRequest(tenant_id="acme", event_id=event.event_id)
    uses = (await api.invoices.ExplainEvent(request)).uses
    return [(use.meter, bool(use.line.line_id), reason_name(use.gap_reason)) for use in uses]


async def test_preview_that_omits_unpriced_meters_is_detected(
    world: World, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planted bug: the preview considers only meters with a price in the plan."""
    await plan_with_each_gap_reason(world, api)
    monkeypatch.setattr(rating_service, "unpriced", lambda *_: [])
    assert sorted(await left_out(api)) == EXPECTED[:2]
