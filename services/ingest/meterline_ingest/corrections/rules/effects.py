"""What a change does to usage and invoices, combined from the answers about its parts."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal

from meterline.decimals import EXACT

Key = tuple[str, int, datetime]


@dataclass(frozen=True, slots=True)
class WindowEffect:
    """A window of the total, as it is and as it would be. `after` is None where it is unknown.

    grain: as in the API
    """

    meter: str
    grain: int
    start: datetime
    end: datetime
    before: Decimal
    after: Decimal | None
    events_before: int
    events_after: int

    @property
    def key(self) -> Key:
        return self.meter, self.grain, self.start

    @property
    def delta(self) -> Decimal | None:
        return None if self.after is None else EXACT.subtract(self.after, self.before)

    def and_then(self, other: WindowEffect, *, is_sum: bool) -> WindowEffect:
        """The effect of two changes together. Each was previewed alone, so only sums can be combined."""
        known = is_sum and self.after is not None and other.delta is not None
        return replace(
            self,
            after=EXACT.add(self.after, other.delta) if known else None,  # type: ignore[arg-type]
            events_after=self.events_after + other.events_after - other.events_before,
        )


@dataclass(frozen=True, slots=True)
class InvoiceEffect:
    """The invoice of a period, as it is and as it would be. Totals are decimals, in major units.

    final_invoice_id: set when the invoice no longer changes
    unknown_meters: those whose change is unknown and left out
    """

    start: datetime
    end: datetime
    currency: str
    before: str
    after: str
    final_invoice_id: str
    unknown_meters: tuple[str, ...] = ()


@dataclass(slots=True)
class Effect:
    """
    retracted, added: rows that would no longer count, and rows that would count
    windows_unknown, invoices_unknown: why these are unknown; empty when they are known
    """

    retracted: int = 0
    added: int = 0
    windows: dict[Key, WindowEffect] = field(default_factory=dict)
    windows_unknown: str = ""
    invoices: list[InvoiceEffect] = field(default_factory=list)
    invoices_unknown: str = ""

    def take(self, windows: Iterable[WindowEffect], sums: Collection[str]) -> None:
        """Adds the effect of one part of the change. `sums`: meters whose values add up."""
        for window in windows:
            before = self.windows.get(window.key)
            if before is not None:
                window = before.and_then(window, is_sum=window.meter in sums)
            self.windows[window.key] = window

    def deltas(self, grain: int) -> Mapping[datetime, Mapping[str, Decimal | None]]:
        """The change of each meter, by the start of its windows of a grain, in the order of time."""
        found: dict[datetime, dict[str, Decimal | None]] = {}
        for window in sorted(self.windows.values(), key=lambda each: each.start):
            if window.grain == grain:
                found.setdefault(window.start, {})[window.meter] = window.delta
        return found
