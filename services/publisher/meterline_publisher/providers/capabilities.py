"""What a billing provider takes, and what it can be relied upon for. The ledger knows nothing else of it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True)
class Capabilities:
    """Facts of one kind of provider. Values are whole numbers at the provider.

    name: as rows of the ledger have it, for good: a row is only sent by the provider that it names
    bills: whether there is anybody to send to
    max_digits: of a value, without its sign
    max_identifier: characters of an event's identifier, ASCII letters, digits, `-` and `_`
    identifier_memory: for how long after the first attempt an event may be sent again without being counted
        twice, with a margin for clocks that differ and for calls that hang
    period_edge: how far an event stays from the end of its period, since the provider's may end at another
        instant
    exact_sums_below: the provider's sums are exact below this, and rounded to the nearest float above
    """

    name: str
    bills: bool
    max_digits: int
    max_identifier: int
    identifier_memory: timedelta
    period_edge: timedelta
    exact_sums_below: int
