"""Reading changes of usage: every failure names the field and the rule that it breaks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal
from typing import Final

from meterline.errors import InvalidArgumentError
from meterline.rpc import fields
from meterline_protos.publisher.v1 import invoices_pb2

_DECIMAL: Final = re.compile(r"-?[0-9]{1,40}(\.[0-9]{1,40})?", re.ASCII)
_MAX_CHANGES: Final = 1_000


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
