"""A meter's usage in a period, and its assumed changes."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal

from meterline.decimals import EXACT

ZERO = Decimal(0)


@dataclass(frozen=True, slots=True)
class MeterUsage:
    """The latest known month window of one meter. `trace` is a W3C traceparent, or empty."""

    meter: str
    value: Decimal
    event_count: int
    revision: int
    aggregation: str
    trace: str = ""


def no_usage(meter: str) -> MeterUsage:
    """The usage of a meter before its first event."""
    return MeterUsage(meter, ZERO, 0, 0, "")


def changed_by(usage: Mapping[str, MeterUsage], deltas: Mapping[str, Decimal]) -> dict[str, MeterUsage]:
    """The usage after adding `deltas`, by meter."""
    assumed = {meter: usage.get(meter) or no_usage(meter) for meter in deltas}
    return dict(usage) | {
        meter: replace(known, value=EXACT.add(known.value, deltas[meter])) for meter, known in assumed.items()
    }
