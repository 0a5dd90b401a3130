"""Converts the catalogue from and to protobuf."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from google.protobuf import struct_pb2
from meterline.errors import InvalidArgumentError
from meterline_protos.publisher.v1 import prices_pb2

from meterline_publisher.prices.plans import Plan
from meterline_publisher.prices.rules.deliveries import Delivery
from meterline_publisher.prices.rules.fields import PriceError
from meterline_publisher.prices.rules.parsing import parse_price
from meterline_publisher.prices.rules.prices import Price
from meterline_publisher.prices.rules.rule_sets import Rule

# Struct stores numbers as doubles; whole numbers below this are exact.
_EXACT_DOUBLES: Final = 2**53


def to_price(field: str, body: struct_pb2.Struct) -> Price:
    """Parses a price body. Raises InvalidArgumentError with the path of the field that breaks a rule."""
    try:
        return parse_price(_object(body))
    except PriceError as error:
        path = f"{field}.{error.field}" if error.field else field
        raise InvalidArgumentError(path, str(error), f"PRICE_{error.rule.upper()}") from error


def _json(value: struct_pb2.Value) -> Any:
    """A value as plain JSON. Whole numbers become integers; others stay floats, which the parser refuses."""
    kind = value.WhichOneof("kind")
    if kind == "struct_value":
        return _object(value.struct_value)
    if kind == "list_value":
        return [_json(item) for item in value.list_value.values]
    if kind == "number_value":
        number = value.number_value
        return int(number) if number.is_integer() and abs(number) < _EXACT_DOUBLES else number
    # A value of no kind is valid protobuf; it means null.
    return None if kind in (None, "null_value") else getattr(value, kind)


def _object(body: struct_pb2.Struct) -> dict[str, Any]:
    return {key: _json(item) for key, item in body.fields.items()}


def price(rule: Rule) -> prices_pb2.Price:
    """A version with its canonical body, from which the digest is computed."""
    body = struct_pb2.Struct()
    body.update(rule.version.price.body())
    message = prices_pb2.Price(
        plan=rule.plan,
        meter=rule.meter,
        version=rule.version.version,
        body=body,
        description=rule.description,
        billing_event_name=rule.event_name,
        billing_scale=rule.scale,
        digest=rule.digest,
    )
    start = rule.version.effective_from
    if isinstance(start, datetime):
        message.effective_from.FromDatetime(start)
    else:
        message.effective_date = start.isoformat()
    return message


def plan(record: Plan) -> prices_pb2.Plan:
    message = prices_pb2.Plan(plan=record.name, archived_by=record.archived_by)
    if record.archived_at is not None:
        message.archived_at.FromDatetime(record.archived_at)
    return message


def delivery(record: Delivery) -> prices_pb2.Delivery:
    message = prices_pb2.Delivery(
        plan=record.plan,
        meter=record.meter,
        version=record.version,
        billing_event_name=record.event_name,
        billing_scale=record.scale,
        put_by=record.put_by,
    )
    message.put_at.FromDatetime(record.put_at)
    return message
