"""What a billing provider accepts and guarantees; the ledger depends on nothing else of it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True)
class Capabilities:
    """Facts about one kind of provider. Values are whole numbers at the provider.

    name: stored permanently in rows of the ledger, each of which only the named provider sends
    bills: False if there is no provider to send to
    max_digits: of a value, without its sign
    max_identifier: characters of an event's identifier, ASCII letters, digits, `-` and `_`
    identifier_memory: how long after the first attempt an event may be sent again without being counted
        twice, with a margin for clocks that differ and for calls that hang
    period_edge: minimum distance of an event from the end of its period, since the provider's period may end
        at another instant
    exact_sums_below: the provider's sums are exact below this, and rounded to the nearest float above
    """

    name: str
    bills: bool
    max_digits: int
    max_identifier: int
    identifier_memory: timedelta
    period_edge: timedelta
    exact_sums_below: int
