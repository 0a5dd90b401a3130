"""The API of the catalogue."""

from __future__ import annotations

from datetime import date, datetime
from typing import Any, Final

from grpc import aio
from meterline.errors import InvalidArgumentError
from meterline.rpc import fields
from meterline_protos.publisher.v1 import prices_pb2, prices_pb2_grpc

from meterline_publisher.prices import messages
from meterline_publisher.prices.deliveries import Deliveries, Wanted
from meterline_publisher.prices.plans import Plans
from meterline_publisher.prices.rules.rule_sets import Rule
from meterline_publisher.prices.rules.versions import PriceVersion
from meterline_publisher.prices.service import Prices

Context = aio.ServicerContext[Any, Any]

_MAX_DESCRIPTION: Final = 250
# The provider's limit for a meter's event name.
_MAX_EVENT_NAME: Final = 100
# Quantities of events have at most nine decimals.
_MAX_SCALE: Final = 9


class PricesServicer(prices_pb2_grpc.PricesServiceServicer):
    """See protos/meterline/publisher/v1/prices.proto."""

    def __init__(self, prices: Prices, plans: Plans, deliveries: Deliveries) -> None:
        self._prices = prices
        self._plans = plans
        self._deliveries = deliveries

    async def PutPrice(
        self, request: prices_pb2.PutPriceRequest, context: Context
    ) -> prices_pb2.PutPriceResponse:
        rule, created = await self._prices.put(_rule(request.price))
        return prices_pb2.PutPriceResponse(price=messages.price(rule), created=created)

    async def WithdrawPrice(
        self, request: prices_pb2.WithdrawPriceRequest, context: Context
    ) -> prices_pb2.WithdrawPriceResponse:
        withdrawn = await self._prices.withdraw(
            fields.name("plan", request.plan),
            fields.name("meter", request.meter),
            _version("version", request.version),
        )
        return prices_pb2.WithdrawPriceResponse(withdrawn=withdrawn)

    async def ListPrices(
        self, request: prices_pb2.ListPricesRequest, context: Context
    ) -> prices_pb2.ListPricesResponse:
        if request.plan and request.tenant_id:
            raise InvalidArgumentError("plan, tenant_id", "one of them")
        if request.tenant_id:
            rules = await self._prices.of_tenant(request.tenant_id)
        else:
            rules = await self._prices.of_plan(fields.name("plan", request.plan) if request.plan else "")
        plans = await self._plans.look_up({rule.plan for rule in rules})
        return prices_pb2.ListPricesResponse(
            prices=[messages.price(rule) for rule in rules], plans=map(messages.plan, plans)
        )

    async def ArchivePlan(
        self, request: prices_pb2.ArchivePlanRequest, context: Context
    ) -> prices_pb2.ArchivePlanResponse:
        archived = await self._plans.archive(fields.name("plan", request.plan))
        return prices_pb2.ArchivePlanResponse(archived=archived)

    async def RestorePlan(
        self, request: prices_pb2.RestorePlanRequest, context: Context
    ) -> prices_pb2.RestorePlanResponse:
        restored = await self._plans.restore(fields.name("plan", request.plan))
        return prices_pb2.RestorePlanResponse(restored=restored)

    async def PutDelivery(
        self, request: prices_pb2.PutDeliveryRequest, context: Context
    ) -> prices_pb2.PutDeliveryResponse:
        delivery, created = await self._deliveries.put(_wanted(request.delivery))
        return prices_pb2.PutDeliveryResponse(delivery=messages.delivery(delivery), created=created)

    async def ListDeliveries(
        self, request: prices_pb2.ListDeliveriesRequest, context: Context
    ) -> prices_pb2.ListDeliveriesResponse:
        found = await self._deliveries.of_plan(fields.name("plan", request.plan))
        return prices_pb2.ListDeliveriesResponse(deliveries=map(messages.delivery, found))


def _wanted(message: prices_pb2.Delivery) -> Wanted:
    return Wanted(
        plan=fields.name("delivery.plan", message.plan),
        meter=fields.name("delivery.meter", message.meter),
        version=_version("delivery.version", message.version),
        event_name=_event_name("delivery.billing_event_name", message.billing_event_name),
        scale=_scale("delivery.billing_scale", message.billing_scale),
    )


def _version(field: str, value: int) -> int:
    if value < 1:
        raise InvalidArgumentError(field, "must be at least 1")
    return value


def _event_name(field: str, value: str) -> str:
    return fields.text(field, value, _MAX_EVENT_NAME)


def _scale(field: str, value: int) -> int:
    if value > _MAX_SCALE:
        raise InvalidArgumentError(field, f"must be at most {_MAX_SCALE}")
    return value


def _rule(message: prices_pb2.Price) -> Rule:
    if not message.HasField("body"):
        raise InvalidArgumentError("price.body", "is required")
    meter = fields.name("price.meter", message.meter)
    rule = Rule(
        plan=fields.name("price.plan", message.plan),
        meter=meter,
        version=PriceVersion(
            _version("price.version", message.version),
            _effective_from(message),
            messages.to_price("price.body", message.body),
        ),
        description=fields.text("price.description", message.description, _MAX_DESCRIPTION) or meter,
        event_name=_event_name("price.billing_event_name", message.billing_event_name),
        scale=_scale("price.billing_scale", message.billing_scale),
    )
    if message.digest and message.digest != rule.digest:
        raise InvalidArgumentError("price.digest", "is not the digest of this body")
    return rule


def _effective_from(message: prices_pb2.Price) -> datetime | date:
    """The instant or day from which the version is in force. Raises InvalidArgumentError."""
    if message.HasField("effective_from"):
        if message.effective_date:
            raise InvalidArgumentError(
                "price.effective_date", "must not be set with effective_from", "EFFECT_AMBIGUOUS"
            )
        return fields.instant("price.effective_from", message.effective_from)
    if not message.effective_date:
        raise InvalidArgumentError(
            "price.effective_date", "must be set when effective_from is not", "EFFECT_MISSING"
        )
    return fields.day("price.effective_date", message.effective_date)
