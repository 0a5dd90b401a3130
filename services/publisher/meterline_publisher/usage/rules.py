"""A meter's usage in a period, and what it would be after changes."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal

from meterline.decimals import EXACT

ZERO = Decimal(0)


@dataclass(frozen=True, slots=True)
class MeterUsage:
    """The month window of one meter as it was last heard of. `trace` is a W3C traceparent, or empty."""

    meter: str
    value: Decimal
    event_count: int
    revision: int
    aggregation: str
    trace: str = ""


def no_usage(meter: str) -> MeterUsage:
    """What a meter has before its first event."""
    return MeterUsage(meter, ZERO, 0, 0, "")


def changed_by(usage: Mapping[str, MeterUsage], deltas: Mapping[str, Decimal]) -> dict[str, MeterUsage]:
    """The usage as it would be if the values of some meters changed by so much."""
    assumed = {meter: usage.get(meter) or no_usage(meter) for meter in deltas}
    return dict(usage) | {
        meter: replace(known, value=EXACT.add(known.value, deltas[meter])) for meter, known in assumed.items()
    }
