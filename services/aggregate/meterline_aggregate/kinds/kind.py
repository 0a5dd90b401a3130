"""The meter kind. Each kind has a module in this package and a row in `table`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum, IntEnum, auto
from typing import Final, NamedTuple

from meterline_aggregate.kinds.slots.slot import Slot


class Aggregation(IntEnum):
    """The kinds' names, with their numbers in the API and in tables."""

    COUNT = 1
    SUM = 2
    MAX = 3
    UNIQUE = 4


class Measured(Enum):
    """What a kind measures in an event. Events without it do not count."""

    NOTHING = auto()
    QUANTITY = auto()
    # The subject, or the value of one dimension.
    MEMBER = auto()


class State(NamedTuple):
    """The stored state of a window, or the part of one batch.

    events: number of events
    number: that of the kind's second slot; None when the kind has no such slot or there was no event
    """

    events: int
    number: Decimal | None


NO_EVENTS: Final = State(0, None)


@dataclass(frozen=True, slots=True, eq=False)
class Kind:
    """slots: `events`, and at most one more
    value: computes the value of a state; None where there is none, such as the maximum of no events
    """

    aggregation: Aggregation
    slots: tuple[Slot, ...]
    measured: Measured
    value: Callable[[State], Decimal | None]

    @property
    def slot(self) -> Slot:
        """The slot whose number is stored in `windows.value`; `events` if there is none."""
        return self.slots[-1]

    @property
    def inverse(self) -> bool:
        """Whether every slot can subtract events; otherwise months are rebuilt."""
        return all(slot.inverse for slot in self.slots)

    def shown(self, state: State) -> Decimal:
        """The value that is shown and billed: 0 where the state has none."""
        value = self.value(state)
        return Decimal(0) if value is None else value


def number_of(state: State) -> Decimal | None:
    """The value function of kinds whose value is their number."""
    return state.number
