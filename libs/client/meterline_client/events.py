"""Events: as the application sees them, and as the rows that the client works with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import TypeAlias
from uuid import UUID

from meterline_client.quantities import FixedPoint, to_decimal

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)

# Pairs in the order of their names, so that equal sets are equal.
Dimensions: TypeAlias = tuple[tuple[str, str], ...]
Properties: TypeAlias = tuple[tuple[str, str], ...]
Quantities: TypeAlias = dict[str, FixedPoint]

# id (16 bytes: a UUID; a string: anything else), tenant, type, subject, dimensions, time in microseconds
# since the epoch, quantities, the trace that it was recorded in, and properties. A plain tuple, because one
# is made for every event and columns are taken out of thousands of them with `zip`.
Row: TypeAlias = tuple[bytes | str, str, str, str, Dimensions, int, Quantities, object, Properties]


@dataclass(frozen=True, slots=True)
class Event:
    """One recorded event."""

    id: str
    tenant_id: str
    type: str
    subject: str
    time: datetime
    dimensions: Mapping[str, str]
    quantities: Mapping[str, Decimal]
    properties: Mapping[str, str] = field(default_factory=dict)


class OutcomeKind(StrEnum):
    """Why an event does not count, or may not count."""

    REJECTED = "rejected"
    """The server refused it, and would again."""
    CONFLICT = "conflict"
    """A different event with this id was accepted before; that one is kept."""
    FAILED = "failed"
    """Given up on without a definite answer. It may have been accepted: recording it again is safe with the
    same id, and only with it."""
    DROPPED = "dropped"
    """It never left the client, for lack of space; it does not count."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an event that was not accepted: a stable upper-case `reason`, the field at fault (may be
    empty), and the rule, for people."""

    event: Event
    outcome: OutcomeKind
    reason: str
    field: str
    message: str


def to_event(row: Row) -> Event:
    identity, tenant, event_type, subject, dimensions, time_us, quantities, _, properties = row
    return Event(
        id=identity if isinstance(identity, str) else str(UUID(bytes=identity)),
        tenant_id=tenant,
        type=event_type,
        subject=subject,
        time=EPOCH + time_us * MICROSECOND,
        dimensions=dict(dimensions),
        quantities={name: to_decimal(value) for name, value in quantities.items()},
        properties=dict(properties),
    )
