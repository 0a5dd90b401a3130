"""The rules of the ledger: what must be sent, when, and what may be done after an unclear answer.

The ledger stores differences. The differences of one meter, period and event name add up to the latest value,
whatever the meter's aggregation is; a late change or a correction is one more difference.
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
    """Why a difference cannot be sent, found without a call to the provider."""

    NOT_WHOLE = "value_not_whole"
    TOO_MANY_DIGITS = "value_too_many_digits"


def scaled(value: Decimal, scale: int) -> Decimal:
    """`value` x 10^`scale`, exactly. It still has decimals if the scale is too small."""
    return EXACT.multiply(value, Decimal(10) ** scale)


def unscaled(value: Decimal, scale: int) -> Decimal:
    """The usage that the provider's `value` represents, exactly."""
    return EXACT.scaleb(value, -scale)


def refusal(difference: Decimal, provider: Capabilities) -> Refusal | None:
    """Why the provider would refuse this value; None if it would accept it."""
    if difference != difference.to_integral_value():
        return Refusal.NOT_WHOLE
    return Refusal.TOO_MANY_DIGITS if len(str(abs(int(difference)))) > provider.max_digits else None


@dataclass(frozen=True, slots=True)
class Target:
    """The value that the rows of one meter and event name must add up to, scaled, with its calculation."""

    meter: str
    event_name: str
    value: Decimal
    calculation_id: uuid.UUID


def targets(lines: Iterable[Line], rows: Iterable[Publication]) -> list[Target]:
    """The targets of a period, ordered by meter and event name.

    If another plan or version changed a meter's event name, the target under the old name is 0, since the
    provider would otherwise bill both.
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
    """The value to add so that the rows of one meter, period and event name reach `target`; None for nothing.

    Rejected rows are not at the provider, so their values are part of the next difference. A rejected
    difference is not written again automatically, which would only fill the ledger: `retry_rejected` says
    that a caller asked for it, and a value that the provider would refuse anyway is not retried even then.
    """
    missing = EXACT.subtract(target, _coming(rows))
    if not missing:
        return None
    last = rows[-1] if rows else None
    if last is not None and last.state == PublicationState.REJECTED and last.value == missing:
        return missing if retry_rejected and refusal(missing, provider) is None else None
    return missing


def is_reached(target: Decimal, rows: Sequence[Publication]) -> bool:
    """Whether the rows reach `target` once all unfinished ones have arrived."""
    return _coming(rows) == target


def _coming(rows: Sequence[Publication]) -> Decimal:
    return exact_sum(row.value for row in rows if row.state != PublicationState.REJECTED)


def event_time(period: Period, provider_now: datetime, provider: Capabilities) -> datetime:
    """The time to send for usage of `period`: within the period, not in the provider's future, and before the
    period's edge if there is room. Whole seconds."""
    latest = min(provider_now, period.end - provider.period_edge)
    return max(period.start, latest.replace(microsecond=0))


def must_look_up(first_attempt_at: datetime | None, now: datetime, provider: Capabilities) -> bool:
    """Whether a row may have arrived so long ago that the provider may have forgotten its identifier. Sending
    it again could count it twice, so the provider's sums are read first."""
    return first_attempt_at is not None and now - first_attempt_at >= provider.identifier_memory


class Finding(StrEnum):
    """What the provider's sum shows about one row."""

    ARRIVED = "arrived"
    ABSENT = "absent"
    UNCLEAR = "unclear"


def find(sent: Decimal, value: Decimal, total: Decimal, provider: Capabilities) -> Finding:
    """Whether the provider's `total` includes `value`, given that it includes `sent`.

    Only one row of a meter is uncertain at a time, so the total must be one of two sums.
    """
    if agrees(EXACT.add(sent, value), total, provider):
        return Finding.ARRIVED
    return Finding.ABSENT if agrees(sent, total, provider) else Finding.UNCLEAR


def agrees(ours: Decimal, theirs: Decimal, provider: Capabilities) -> bool:
    """Whether both sums are equal, given that the provider rounds large sums to floats."""
    rounded = abs(theirs) >= provider.exact_sums_below
    return ours == theirs or (rounded and Decimal(float(ours)) == theirs)
