"""A meter aggregates the events of one type into a number, in total and by the values of some dimensions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from meterline.errors import InvalidArgumentError
from meterline.metering import Counting
from meterline.names import NAME_RULE, is_name

from meterline_aggregate.kinds.kind import Aggregation, Kind, Measured
from meterline_aggregate.kinds.table import kind_of, names_of

MAX_GROUP_BY: Final = 4
MAX_FILTER: Final = 16
MAX_VALUE_LENGTH: Final = 256

Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Definition:
    """The definition of a meter; it never changes.

    quantity: the measured quantity; empty for kinds that measure none
    unique_dimension: the dimension whose values are counted; empty counts subjects
    group_by: dimensions by which usage is stored in addition to the total
    filter: (dimension, value), sorted; only events with all of them count
    """

    name: str
    event_type: str
    aggregation: Aggregation
    quantity: str = ""
    unique_dimension: str = ""
    group_by: tuple[str, ...] = ()
    filter: Pairs = ()

    def __post_init__(self) -> None:
        """Raises InvalidArgumentError."""
        _check_name("meter.name", self.name)
        _check_name("meter.event_type", self.event_type)
        self._check_measure()
        if len(self.group_by) > MAX_GROUP_BY:
            raise InvalidArgumentError("meter.group_by", f"at most {MAX_GROUP_BY} dimensions")
        if len(set(self.group_by)) != len(self.group_by):
            raise InvalidArgumentError("meter.group_by", "names must differ")
        for name in self.group_by:
            _check_name("meter.group_by", name)
        if len(self.filter) > MAX_FILTER:
            raise InvalidArgumentError("meter.filter", f"at most {MAX_FILTER} dimensions")
        for name, value in self.filter:
            _check_name("meter.filter", name)
            if not 0 < len(value) <= MAX_VALUE_LENGTH or "\0" in value:
                raise InvalidArgumentError(
                    f"meter.filter.{name}", f"a value of 1 to {MAX_VALUE_LENGTH} characters without NUL"
                )

    @property
    def kind(self) -> Kind:
        return kind_of(self.aggregation)

    def _check_measure(self) -> None:
        measured = self.kind.measured
        if measured is Measured.QUANTITY:
            _check_name("meter.quantity", self.quantity)
        elif self.quantity:
            raise InvalidArgumentError("meter.quantity", f"only for {names_of(Measured.QUANTITY)}")
        if measured is not Measured.MEMBER and self.unique_dimension:
            raise InvalidArgumentError("meter.unique_dimension", f"only for {names_of(Measured.MEMBER)}")
        if self.unique_dimension:
            _check_name("meter.unique_dimension", self.unique_dimension)

    def is_equivalent_to(self, other: Definition) -> bool:
        """Whether both definitions count the same; the order of `group_by` does not matter."""
        return (
            self.name,
            self.event_type,
            self.aggregation,
            self.quantity,
            self.unique_dimension,
            sorted(self.group_by),
            self.filter,
        ) == (
            other.name,
            other.event_type,
            other.aggregation,
            other.quantity,
            other.unique_dimension,
            sorted(other.group_by),
            other.filter,
        )

    @property
    def counting(self) -> Counting:
        """The rules for which events count."""
        return Counting(
            self.event_type,
            dict(self.filter),
            self.quantity,
            self.unique_dimension,
            of_subjects=self.kind.measured is Measured.MEMBER and not self.unique_dimension,
        )

    def group_of(self, dimensions: Mapping[str, str]) -> Pairs:
        """The group of events with these dimensions; a missing dimension has the empty value.

        Sorted by name, so that meters that list the same dimensions in another order share groups.
        """
        return tuple((name, dimensions.get(name, "")) for name in sorted(self.group_by))


@dataclass(frozen=True, slots=True)
class Meter:
    """`meter_id` is the meter's number in keys."""

    meter_id: int
    definition: Definition

    @property
    def kind(self) -> Kind:
        return self.definition.kind


@dataclass(frozen=True, slots=True)
class UnknownMeter:
    """A meter of a kind that only a newer release knows, as its row describes it; it counts nothing here.

    aggregation: the kind's number
    """

    meter_id: int
    name: str
    event_type: str
    aggregation: int
    quantity: str
    unique_dimension: str
    group_by: tuple[str, ...]
    filter: Pairs


def _check_name(field: str, value: str) -> None:
    if not is_name(value):
        raise InvalidArgumentError(field, NAME_RULE, "NAME_INVALID")
