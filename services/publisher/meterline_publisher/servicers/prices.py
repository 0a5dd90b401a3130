"""PricesService: the catalogue."""

from __future__ import annotations

from datetime import date, datetime
from typing import Any, Final

from grpc import aio
from meterline.errors import InvalidArgumentError
from meterline.rpc import fields
from meterline_protos.publisher.v1 import prices_pb2, prices_pb2_grpc

from meterline_publisher.domain.rule_sets import Rule
from meterline_publisher.domain.versions import PriceVersion
from meterline_publisher.handlers.prices import Prices
from meterline_publisher.servicers import decoding, encoding

PRICES_SERVICE = prices_pb2.DESCRIPTOR.services_by_name["PricesService"].full_name

Context = aio.ServicerContext[Any, Any]

_MAX_DESCRIPTION: Final = 250
# The provider's limit on the name of a meter's events.
_MAX_EVENT_NAME: Final = 100
# Event quantities have at most nine decimals.
_MAX_SCALE: Final = 9


class PricesServicer(prices_pb2_grpc.PricesServiceServicer):
    """See protos/meterline/publisher/v1/prices.proto."""

    def __init__(self, prices: Prices) -> None:
        self._prices = prices

    async def PutPrice(
        self, request: prices_pb2.PutPriceRequest, context: Context
    ) -> prices_pb2.PutPriceResponse:
        rule, created = await self._prices.put(_rule(request.price))
        return prices_pb2.PutPriceResponse(price=encoding.price(rule), created=created)

    async def ListPrices(
        self, request: prices_pb2.ListPricesRequest, context: Context
    ) -> prices_pb2.ListPricesResponse:
        plan = decoding.name("plan", request.plan) if request.plan else ""
        rules = await self._prices.of_plan(plan)
        return prices_pb2.ListPricesResponse(prices=[encoding.price(rule) for rule in rules])


def _rule(message: prices_pb2.Price) -> Rule:
    if message.version < 1:
        raise InvalidArgumentError("price.version", "must be at least 1")
    if message.billing_scale > _MAX_SCALE:
        raise InvalidArgumentError("price.billing_scale", f"must be at most {_MAX_SCALE}")
    if not message.HasField("body"):
        raise InvalidArgumentError("price.body", "is required")
    meter = decoding.name("price.meter", message.meter)
    rule = Rule(
        plan=decoding.name("price.plan", message.plan),
        meter=meter,
        version=PriceVersion(
            message.version,
            _effective_from(message),
            decoding.price("price.body", message.body),
        ),
        description=decoding.text("price.description", message.description, _MAX_DESCRIPTION) or meter,
        event_name=decoding.text("price.billing_event_name", message.billing_event_name, _MAX_EVENT_NAME),
        scale=message.billing_scale,
    )
    if message.digest and message.digest != rule.digest:
        raise InvalidArgumentError("price.digest", "is not the digest of this body")
    return rule


def _effective_from(message: prices_pb2.Price) -> datetime | date:
    """The instant or the day at which the version takes effect. Raises InvalidArgumentError."""
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
