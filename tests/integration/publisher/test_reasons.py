"""Refusals that callers can distinguish by a stable reason."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import grpc
import pytest
from meterline.calendar import Period
from meterline_publisher.providers.port import ExternalInvoice, RejectedError

from tests.integration.publisher.catalogue import PER_UNIT, Priced
from tests.integration.publisher.conftest import StartPublisher
from tests.integration.publisher.test_deliveries import refusal
from tests.integration.publisher.world import START, Api, World
from tests.support.fake_billing import FakeBilling
from tests.support.fake_mesh import timestamp

pytestmark = pytest.mark.req("K2", "S9")

PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION
CALLS = Priced("calls", PER_UNIT)


async def test_publish_has_reasons_for_final_invoice_and_future_period(world: World, api: Api) -> None:
    acme = await world.tenant()
    await world.use("acme", "1")
    later: datetime = world.now() + timedelta(days=40)
    assert await refusal(api.publish("acme", later)) == (PRECONDITION, "PERIOD_NOT_BEGUN")
    await api.publish("acme")
    world.end_month(acme)
    # The first refusal comes from the provider's answer, the second from the stored state.
    for _ in range(2):
        assert await refusal(api.publish("acme")) == (PRECONDITION, "INVOICE_IS_FINAL")


class Forgetful(FakeBilling):
    """A provider that knows no customer."""

    async def find_invoice(self, customer: str, subscription: str, period: Period) -> ExternalInvoice | None:
        raise RejectedError("resource_missing", f"No such customer: {customer}")


@pytest.mark.req("T3.5")
async def test_reconcile_has_reason_for_unknown_customer(
    world: World, api: Api, start: StartPublisher
) -> None:
    await world.tenant()
    await world.use("acme", "1")
    await api.publish("acme")
    forgetful = await start(Forgetful(world.now))
    assert await refusal(forgetful.reconcile("acme")) == (PRECONDITION, "CUSTOMER_UNKNOWN")


@pytest.mark.req("C1")
@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"version": 3, "effective_from": timestamp(START)}, "PRICE_VERSION"),
        ({"version": 2}, "EFFECT_TOO_EARLY"),
    ],
)
async def test_invalid_next_version_is_refused_with_reason(
    api: Api, fields: dict[str, Any], reason: str
) -> None:
    await api.put("plan-acme", CALLS)
    assert await refusal(api.put("plan-acme", CALLS, **fields)) == (PRECONDITION, reason)
