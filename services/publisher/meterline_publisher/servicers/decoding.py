"""Reading requests: every failure names the field and the rule that it breaks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, Final

from google.protobuf import struct_pb2
from meterline.errors import InvalidArgumentError
from meterline.rpc import fields
from meterline_protos.publisher.v1 import invoices_pb2

from meterline_publisher.domain.price_fields import PriceError
from meterline_publisher.domain.price_parsing import parse_price
from meterline_publisher.domain.prices import Price

_DECIMAL: Final = re.compile(r"-?[0-9]{1,40}(\.[0-9]{1,40})?", re.ASCII)
_MAX_CHANGES: Final = 1_000
# Struct keeps numbers as doubles; a whole number below this is what was written.
_EXACT_DOUBLES: Final = 2**53


def text(field: str, value: str, most: int) -> str:
    """Free text of at most `most` characters."""
    if len(value) > most:
        raise InvalidArgumentError(field, f"must have at most {most} characters")
    return value


def deltas(field: str, changes: Sequence[invoices_pb2.UsageChange]) -> dict[str, Decimal]:
    """What usage changes by, by meter. Raises InvalidArgumentError."""
    if len(changes) > _MAX_CHANGES:
        raise InvalidArgumentError(field, f"at most {_MAX_CHANGES} meters")
    found = {
        fields.name(f"{field}[{place}].meter", change.meter): decimal(f"{field}[{place}].delta", change.delta)
        for place, change in enumerate(changes)
    }
    if len(found) != len(changes):
        raise InvalidArgumentError(field, "at most one change a meter")
    return found


def decimal(field: str, value: str) -> Decimal:
    """A decimal, negative ones too, without an exponent. Raises InvalidArgumentError."""
    if not _DECIMAL.fullmatch(value):
        raise InvalidArgumentError(field, "must be a decimal of at most 40 digits on each side of its point")
    return Decimal(value)


def price(field: str, body: struct_pb2.Struct) -> Price:
    """A price body. Raises InvalidArgumentError with the path of the field that breaks a rule."""
    try:
        return parse_price(_object(body))
    except PriceError as error:
        path = f"{field}.{error.field}" if error.field else field
        raise InvalidArgumentError(path, str(error), f"PRICE_{error.rule.upper()}") from error


def _json(value: struct_pb2.Value) -> Any:
    """A value as plain JSON. Numbers become integers where they are; others stay floats, which the
    parser refuses."""
    kind = value.WhichOneof("kind")
    if kind == "struct_value":
        return _object(value.struct_value)
    if kind == "list_value":
        return [_json(item) for item in value.list_value.values]
    if kind == "number_value":
        number = value.number_value
        return int(number) if number.is_integer() and abs(number) < _EXACT_DOUBLES else number
    # A value of no kind can be sent as well; it says as little as null.
    return None if kind in (None, "null_value") else getattr(value, kind)


def _object(body: struct_pb2.Struct) -> dict[str, Any]:
    return {key: _json(item) for key, item in body.fields.items()}
