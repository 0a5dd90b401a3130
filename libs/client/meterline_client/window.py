"""Batches that are in memory because they are on their way, or wait to be sent again."""

from __future__ import annotations

from dataclasses import dataclass

from meterline_client.batches import Batch
from meterline_client.spool.segment import Record


@dataclass(slots=True, eq=False)
class Origin:
    """Where batches came from: a chunk of the buffer (its sequence) or a record of the spool. Done when its
    last parcel is; `open` counts them. `journaled`: the journal has every event of the chunk."""

    sequence: int
    record: Record | None = None
    journaled: bool = False
    open: int = 0


@dataclass(slots=True, eq=False)
class Parcel:
    """A batch and its attempts. `strikes` counts those after which the batch itself is in doubt."""

    batch: Batch
    origin: Origin
    due: float
    attempts: int = 0
    strikes: int = 0


class Window:
    """Bounded by the number of origins: a batch that is cut into parts still has one place, so that the
    search for a bad event in it does not delay the others."""

    def __init__(self, places: int) -> None:
        self._places = places
        self.waiting: list[Parcel] = []
        self.in_flight: list[Parcel] = []
        self._origins: list[Origin] = []

    @property
    def full(self) -> bool:
        """Whether there is no place for another chunk. The spool has a place of its own."""
        return sum(origin.record is None for origin in self._origins) >= self._places

    @property
    def replaying(self) -> bool:
        """Whether a record of the spool is here."""
        return any(origin.record is not None for origin in self._origins)

    def add(self, parcel: Parcel) -> None:
        if not parcel.origin.open:
            self._origins.append(parcel.origin)
        parcel.origin.open += 1
        self.waiting.append(parcel)

    def ready(self, now: float) -> Parcel | None:
        """The parcel that has waited in line longest, of those that are due."""
        return next((parcel for parcel in self.waiting if parcel.due <= now), None)

    def depart(self, parcel: Parcel) -> None:
        self.waiting.remove(parcel)
        self.in_flight.append(parcel)

    def back(self, parcel: Parcel, due: float) -> None:
        """From its way, to wait until `due`."""
        self.in_flight.remove(parcel)
        parcel.due = due
        self.waiting.append(parcel)

    def replace(self, parcel: Parcel, batches: list[Batch], due: float) -> None:
        """Parts of it instead of the parcel."""
        for batch in batches:
            self.add(Parcel(batch, parcel.origin, due))
        self.remove(parcel)

    def remove(self, parcel: Parcel) -> bool:
        """True when it was the last of its origin."""
        (self.in_flight if parcel in self.in_flight else self.waiting).remove(parcel)
        parcel.origin.open -= 1
        if parcel.origin.open:
            return False
        self._origins.remove(parcel.origin)
        return True

    def waiting_in_memory(self) -> list[Parcel]:
        """Waiting parcels that are in memory only."""
        return [parcel for parcel in self.waiting if parcel.origin.record is None]

    def not_on_disk(self) -> list[Parcel]:
        """All parcels that are in memory only."""
        return [one for one in (*self.in_flight, *self.waiting) if one.origin.record is None]

    def oldest(self) -> int | None:
        """The lowest sequence of a chunk of which anything is here."""
        return min((o.sequence for o in self._origins if o.record is None), default=None)

    def holds_up_to(self, sequence: int) -> bool:
        """Whether anything of a chunk up to `sequence` is still here."""
        oldest = self.oldest()
        return oldest is not None and oldest <= sequence
