"""Everything that must be there before the first event: who is billed, what is counted, what it costs."""

from __future__ import annotations

from datetime import timedelta

from google.protobuf import struct_pb2
from meterline_protos.aggregate.v1 import meters_pb2
from meterline_protos.identity.v1 import tenants_pb2
from meterline_protos.ingest.v1 import event_types_pb2
from meterline_protos.publisher.v1 import prices_pb2

from meterline_dev.demo.calls import Services, ask, each
from meterline_dev.demo.carriers import CARRIERS, CURRENCY, TIME_ZONE, Carrier
from meterline_dev.demo.meters import EVENT_TYPE, METERS, DemoMeter, definition, event_type
from meterline_dev.demo.months import Month
from meterline_dev.demo.plans import PLANS
from meterline_dev.demo.state import State
from meterline_dev.demo.stripe_account import StripeAccount

# How long before the end of a month its usage is sent.
CLOSE_LEAD = timedelta(minutes=10)


async def bill_at_stripe(account: StripeAccount, state: State, first: Month) -> None:
    """Fills `state` with the ids of what Stripe needs; does nothing when they are known."""
    if state.tenants:
        return
    state.meters = await account.meters()
    prices = await account.prices(state.meters)
    state.tenants = await account.subscribe(CARRIERS, prices, first, state.run)


async def register(services: Services, state: State, first: Month) -> None:
    """Event type, meters, prices and tenants. All of it may be there already."""
    known = await ask(services.event_types.ListEventTypes, event_types_pb2.ListEventTypesRequest())
    if not any(each.name == EVENT_TYPE for each in known.event_types):
        # Once only: a later run finds the type as the earlier one corrected it.
        strict = event_types_pb2.PutEventTypeRequest(event_type=event_type(air_minutes_required=True))
        await ask(services.event_types.PutEventType, strict)
    for meter in METERS:
        await ask(services.meters.CreateMeter, meters_pb2.CreateMeterRequest(meter=definition(meter)))
    wanted = [(plan, meter) for plan in PLANS for meter in METERS]
    await each(wanted, lambda one: _put_price(services, *one, first))
    await each(CARRIERS, lambda carrier: _onboard(services, carrier, state, first))


async def _put_price(services: Services, plan: str, meter: DemoMeter, first: Month) -> None:
    body = struct_pb2.Struct()
    body.update(PLANS[plan][meter.name])
    price = prices_pb2.Price(
        plan=plan,
        meter=meter.name,
        version=1,
        effective_date=first.first_day,
        body=body,
        description=meter.title,
        billing_event_name=meter.billing_event_name,
    )
    await ask(services.prices.PutPrice, prices_pb2.PutPriceRequest(price=price))


async def _onboard(services: Services, carrier: Carrier, state: State, first: Month) -> None:
    billed = state.tenants[carrier.tenant]
    request = tenants_pb2.OnboardTenantRequest(
        tenant_id=carrier.tenant,
        display_name=carrier.name,
        time_zone=TIME_ZONE,
        currency=CURRENCY,
        plan=carrier.plan,
        external_customer_id=billed.customer,
        external_subscription_id=billed.subscription,
        close_lead_seconds=int(CLOSE_LEAD.total_seconds()),
        # Its history is imported.
        billed_from=first.first_day,
    )
    await ask(services.tenants.OnboardTenant, request)
