"""Parses changes of usage; every error names the field and the rule that it breaks."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Final

from meterline.decimals import parse
from meterline.errors import InvalidArgumentError
from meterline.rpc import fields
from meterline_protos.publisher.v1 import invoices_pb2

from meterline_publisher.billing.money import check_size

_MAX_CHANGES: Final = 1_000


def deltas(field: str, changes: Sequence[invoices_pb2.UsageChange]) -> dict[str, Decimal]:
    """The change of usage by meter. Raises InvalidArgumentError."""
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
    """Parses a decimal without an exponent; it may be negative. Raises InvalidArgumentError."""
    try:
        number = parse(value)
        check_size(number)
    except ValueError as error:
        rule = "must be a decimal of at most 40 digits on each side of its point"
        raise InvalidArgumentError(field, rule) from error
    return number
