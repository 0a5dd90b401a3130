"""What a meter kind is. Each has a module here and a row in `table`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum, IntEnum, auto
from typing import Final, NamedTuple

from meterline_aggregate.kinds.slots.slot import Slot


class Aggregation(IntEnum):
    """What kinds are called. The numbers are those of the API and of the tables."""

    COUNT = 1
    SUM = 2
    MAX = 3
    UNIQUE = 4


class Measured(Enum):
    """What a kind measures of an event. An event without it does not count."""

    NOTHING = auto()
    QUANTITY = auto()
    # The subject, or the value of one dimension.
    MEMBER = auto()


class State(NamedTuple):
    """What a window holds, or what a batch adds to it.

    events: n
    number: that of the kind's other slot; None where it has none, or none yet
    """

    events: int
    number: Decimal | None


NO_EVENTS: Final = State(0, None)


@dataclass(frozen=True, slots=True, eq=False)
class Kind:
    """slots: n, and at most one more
    value: what a state says; None: nothing, as of a maximum of no events
    """

    aggregation: Aggregation
    slots: tuple[Slot, ...]
    measured: Measured
    value: Callable[[State], Decimal | None]

    @property
    def slot(self) -> Slot:
        """The slot whose number windows keep besides n, or n itself."""
        return self.slots[-1]

    @property
    def inverse(self) -> bool:
        """Whether events are taken away by arithmetic."""
        return all(slot.inverse for slot in self.slots)

    def shown(self, state: State) -> Decimal:
        """What is answered and billed of a window: 0 where the state says nothing."""
        value = self.value(state)
        return Decimal(0) if value is None else value


def number_of(state: State) -> Decimal | None:
    """The value of kinds that show their number as it is."""
    return state.number
