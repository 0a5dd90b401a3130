"""Reading requests: every failure names the field and the rule that it breaks."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final

from google.protobuf import struct_pb2, timestamp_pb2
from google.protobuf.message import Message
from meterline.errors import InvalidArgumentError
from meterline_protos.publisher.v1 import invoices_pb2

from meterline_publisher.domain.price_fields import PriceError
from meterline_publisher.domain.price_parsing import parse_price
from meterline_publisher.domain.prices import Price

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_DECIMAL: Final = re.compile(r"-?[0-9]{1,40}(\.[0-9]{1,40})?", re.ASCII)
_MAX_CHANGES: Final = 1_000
# Struct keeps numbers as doubles; a whole number below this is what was written.
_EXACT_DOUBLES: Final = 2**53


def name(field: str, value: str) -> str:
    """A name of a plan, a meter or a tenant. Raises InvalidArgumentError."""
    if not _NAME.fullmatch(value):
        raise InvalidArgumentError(
            field, "must be 1 to 64 letters, digits, '.', '_' or '-', the first a letter or digit"
        )
    return value


def text(field: str, value: str, most: int) -> str:
    """Free text of at most `most` characters, none of them NUL (which Postgres cannot keep)."""
    if len(value) > most or "\0" in value:
        raise InvalidArgumentError(field, f"must have at most {most} characters, and no NUL")
    return value


def identifier(field: str, value: str) -> uuid.UUID:
    """A UUID. Raises InvalidArgumentError."""
    try:
        return uuid.UUID(value)
    except ValueError as error:
        raise InvalidArgumentError(field, "must be a UUID") from error


def moment(message: Message, field: str, path: str = "") -> datetime:
    """A timestamp that must be there. Raises InvalidArgumentError."""
    where = path or field
    if not message.HasField(field):
        raise InvalidArgumentError(where, "is required")
    value: timestamp_pb2.Timestamp = getattr(message, field)
    try:
        return value.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError) as error:
        raise InvalidArgumentError(where, "must be a time between the years 1 and 9999") from error


def deltas(field: str, changes: Sequence[invoices_pb2.UsageChange]) -> dict[str, Decimal]:
    """What usage changes by, by meter. Raises InvalidArgumentError."""
    if len(changes) > _MAX_CHANGES:
        raise InvalidArgumentError(field, f"at most {_MAX_CHANGES} meters")
    found = {
        name(f"{field}[{place}].meter", change.meter): decimal(f"{field}[{place}].delta", change.delta)
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
        return parse_price(_json(body))
    except PriceError as error:
        path = f"{field}.{error.field}" if error.field else field
        raise InvalidArgumentError(path, str(error), f"PRICE_{error.rule.upper()}") from error


def _json(value: Any) -> Any:
    """A Struct as plain JSON. Numbers become integers where they are; others stay floats, which the
    parser refuses."""
    match value:
        case struct_pb2.Struct() | Mapping():
            return {key: _json(item) for key, item in value.items()}
        case struct_pb2.ListValue() | list():
            return [_json(item) for item in value]
        case float() if value.is_integer() and abs(value) < _EXACT_DOUBLES:
            return int(value)
        case _:
            return value
