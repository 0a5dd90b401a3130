"""Which events a meter counts: the one rule, for the fold of aggregate and for publisher's explanations."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Counting:
    """What an event must have so that a meter counts it.

    filter: dimensions, and the values that they must have
    quantity: what the event must have a value of, also 0; empty: none
    unique_dimension: whose values are counted, of which an empty one is none; empty: no dimension's
    of_subjects: whether subjects are counted, of which the empty one is none
    """

    event_type: str
    filter: Mapping[str, str] = field(default_factory=dict)
    quantity: str = ""
    unique_dimension: str = ""
    of_subjects: bool = False

    def takes_series(self, event_type: str, dimensions: Mapping[str, str]) -> bool:
        """Whether events of this type with these dimensions count, as far as these decide it."""
        return (
            event_type == self.event_type
            and all(dimensions.get(name) == value for name, value in self.filter.items())
            and (not self.unique_dimension or bool(dimensions.get(self.unique_dimension)))
        )

    def takes(
        self, event_type: str, dimensions: Mapping[str, str], subject: str, quantities: Container[str]
    ) -> bool:
        """Whether an event counts. `quantities`: the names of those that it has."""
        return (
            self.takes_series(event_type, dimensions)
            and (not self.quantity or self.quantity in quantities)
            and (not self.of_subjects or bool(subject))
        )
