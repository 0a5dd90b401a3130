"""The rules of the ledger: what is still to be sent, when, and what an unclear answer allows.

The ledger holds differences. Those of one meter, period and event name telescope: whatever the aggregation
is, what was sent adds up to the latest value, and a late change or a correction is one more difference.
"""

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum

from meterline.calendar import Period
from meterline.decimals import EXACT, exact_sum

from meterline_publisher.invoices.rules import Line
from meterline_publisher.ledger.rules.publications import Publication, PublicationState
from meterline_publisher.providers.capabilities import Capabilities


class Refusal(StrEnum):
    """Why a difference cannot be sent at all: found here, with no call made."""

    NOT_WHOLE = "value_not_whole"
    TOO_MANY_DIGITS = "value_too_many_digits"


def scaled(value: Decimal, scale: int) -> Decimal:
    """`value` x 10^`scale`, exactly. May still have decimals, when the scale is too small."""
    return EXACT.multiply(value, Decimal(10) ** scale)


def unscaled(value: Decimal, scale: int) -> Decimal:
    """The usage that `value` at the provider stands for, exactly."""
    return EXACT.scaleb(value, -scale)


def refusal(difference: Decimal, provider: Capabilities) -> Refusal | None:
    """Why the provider would not take this value; None if it would."""
    if difference != difference.to_integral_value():
        return Refusal.NOT_WHOLE
    return Refusal.TOO_MANY_DIGITS if len(str(abs(int(difference)))) > provider.max_digits else None


@dataclass(frozen=True, slots=True)
class Target:
    """What the rows of one meter under one event name must come to at the provider, scaled, and the
    calculation that says so."""

    meter: str
    event_name: str
    value: Decimal
    calculation_id: uuid.UUID


def targets(lines: Iterable[Line], rows: Iterable[Publication]) -> list[Target]:
    """What must be at the provider for a period, in the order of meters and event names.

    What was sent under a name that its meter no longer has, since another plan or version prices it, must
    come to nothing there: the provider would bill it as well.
    """
    by_meter = {line.meter: line for line in lines}
    wanted = {
        (line.meter, line.billing_event_name): Target(
            line.meter, line.billing_event_name, line.billing_target, line.calculation_id
        )
        for line in by_meter.values()
        if line.billing_target is not None
    }
    for row in rows:
        key = row.meter, row.event_name
        if key not in wanted:
            now = by_meter.get(row.meter)
            reason = now.calculation_id if now else row.calculation_id
            wanted[key] = Target(row.meter, row.event_name, Decimal(0), reason)
    return [wanted[key] for key in sorted(wanted)]


def difference(
    target: Decimal, rows: Sequence[Publication], provider: Capabilities, *, retry_rejected: bool
) -> Decimal | None:
    """What is to be added so that the rows of one meter, period and event name come to `target`; None for
    nothing.

    What was rejected is not at the provider, so it is part of the next difference. The same difference is
    not tried again by itself, which would only fill the ledger: `retry_rejected` says that somebody asked,
    and even then not if the provider would not take it anyway.
    """
    missing = EXACT.subtract(target, _coming(rows))
    if not missing:
        return None
    last = rows[-1] if rows else None
    if last is not None and last.state == PublicationState.REJECTED and last.value == missing:
        return missing if retry_rejected and refusal(missing, provider) is None else None
    return missing


def is_reached(target: Decimal, rows: Sequence[Publication]) -> bool:
    """Whether the rows come to `target` once all that is on its way has arrived."""
    return _coming(rows) == target


def _coming(rows: Sequence[Publication]) -> Decimal:
    return exact_sum(row.value for row in rows if row.state != PublicationState.REJECTED)


def event_time(period: Period, provider_now: datetime, provider: Capabilities) -> datetime:
    """When usage of `period` is said to have happened: in the period, not in the provider's future, and
    away from the period's end if there is room. Whole seconds."""
    latest = min(provider_now, period.end - provider.period_edge)
    return max(period.start, latest.replace(microsecond=0))


def must_look_up(first_attempt_at: datetime | None, now: datetime, provider: Capabilities) -> bool:
    """Whether the provider may have forgotten the identifier of a row that may have arrived: sending it
    again could count it twice, so its sums are read first."""
    return first_attempt_at is not None and now - first_attempt_at >= provider.identifier_memory


class Finding(StrEnum):
    """What the provider's sum says about one row."""

    ARRIVED = "arrived"
    ABSENT = "absent"
    UNCLEAR = "unclear"


def find(sent: Decimal, value: Decimal, total: Decimal, provider: Capabilities) -> Finding:
    """Whether `value` is part of the provider's `total`, given that `sent` is.

    At most one row of a meter is uncertain at a time, so there are only two sums that make sense.
    """
    if agrees(EXACT.add(sent, value), total, provider):
        return Finding.ARRIVED
    return Finding.ABSENT if agrees(sent, total, provider) else Finding.UNCLEAR


def agrees(ours: Decimal, theirs: Decimal, provider: Capabilities) -> bool:
    """Whether the provider's sum is ours, as far as its floats can tell."""
    rounded = abs(theirs) >= provider.exact_sums_below
    return ours == theirs or (rounded and Decimal(float(ours)) == theirs)
