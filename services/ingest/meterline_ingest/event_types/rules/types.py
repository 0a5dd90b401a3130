"""The fields of a type's events. A type only grows, so that accepted events keep their meaning."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from datetime import datetime
from enum import IntEnum
from functools import cached_property
from typing import Any, Final

from meterline.decimals import MAX_DIGITS, MAX_UNITS
from meterline.errors import FailedPreconditionError, InvalidArgumentError
from meterline.names import check_name

from meterline_ingest.event.bounds import MAX_DIMENSION_VALUE, MAX_QUANTITIES
from meterline_ingest.event.names import check_distinct
from meterline_ingest.event_types.rules.enrichment import Enrichment
from meterline_ingest.event_types.rules.properties import MAX_PROPERTIES, Kind, Property

MAX_DIMENSIONS: Final = 16
MAX_SCALE: Final = 9
MAX_VALUES: Final = 1_000
MAX_ENRICHMENTS: Final = 4
# Microseconds, so that the durations of timers are exact.
TIMER_SCALE: Final = 6
_LONGEST_SILENCE: Final = 30 * 86_400


@dataclass(frozen=True, slots=True)
class Quantity:
    """`scale` decimals are kept. Bounds are inclusive, in units at that scale."""

    name: str
    scale: int
    required: bool
    signed: bool
    minimum: int | None = None
    maximum: int | None = None


@dataclass(frozen=True)
class Dimension:
    """`values`: the only accepted ones; empty: any. `max_length` in characters."""

    name: str
    required: bool
    values: tuple[str, ...] = ()
    max_length: int = MAX_DIMENSION_VALUE

    @cached_property
    def allowed(self) -> frozenset[str]:
        """As `values`, for a fast lookup with each combination of dimensions in a call."""
        return frozenset(self.values)


class TypeChange(IntEnum):
    """The kind of change that made a version of a type. Numbers as in the API and in the database."""

    PUT = 1
    ARCHIVED = 2
    RESTORED = 3
    DELETED = 4


class WhenAbandoned(IntEnum):
    """Numbers as in the API."""

    COUNT_TO_HEARTBEAT = 1
    COUNT_TO_END = 2
    DISCARD = 3


@dataclass(frozen=True, slots=True)
class TimerPolicy:
    """When and how abandoned timers of a type end; `quantity` gets the seconds."""

    quantity: str
    abandoned_after_seconds: int
    when_abandoned: WhenAbandoned


@dataclass(frozen=True)
class EventType:
    """The position of a quantity decides the column it is stored in.

    archived_at: since when it takes no new events; None while it does
    since: its first version; another one for a type that was deleted and made again
    Neither is part of the type's meaning.
    """

    name: str
    quantities: tuple[Quantity, ...]
    dimensions: tuple[Dimension, ...]
    subject_required: bool
    properties: tuple[Property, ...] = ()
    enrichments: tuple[Enrichment, ...] = ()
    for_identity: bool = False
    timer: TimerPolicy | None = None
    archived_at: datetime | None = field(default=None, compare=False)
    since: int = field(default=1, compare=False)

    def __post_init__(self) -> None:
        check_name("event_type.name", self.name)
        for kind, parts, most in (
            ("quantities", self.quantities, MAX_QUANTITIES),
            ("dimensions", self.dimensions, MAX_DIMENSIONS),
            ("properties", self.properties, MAX_PROPERTIES),
            ("enrichments", self.enrichments, MAX_ENRICHMENTS),
        ):
            if len(parts) > most:
                raise InvalidArgumentError(f"event_type.{kind}", f"at most {most}")
        for quantity in self.quantities:
            _check_quantity(quantity)
        for dimension in self.dimensions:
            _check_dimension(dimension)
        for each in self.properties:
            each.check()
        check_distinct("event_type.quantities", (each.name for each in self.quantities))
        # An enrichment may read and write both, so a name must have one meaning.
        check_distinct("event_type.properties", (*self.dimensions_by_name, *self.properties_by_name))
        for enrichment in self.enrichments:
            enrichment.check(self.dimensions_by_name.keys() | self._enrichable)
        if self.timer is not None:
            self._check_timer(self.timer)

    @cached_property
    def dimensions_by_name(self) -> dict[str, Dimension]:
        return {each.name: each for each in self.dimensions}

    @cached_property
    def properties_by_name(self) -> dict[str, Property]:
        return {each.name: each for each in self.properties}

    @cached_property
    def sensitive(self) -> frozenset[str]:
        """Names of the properties that are sealed."""
        return frozenset(each.name for each in self.properties if each.sensitive)

    @property
    def has_details(self) -> bool:
        """Whether its events have more fields than a row of `events`."""
        return bool(self.properties or self.enrichments)

    @property
    def _enrichable(self) -> frozenset[str]:
        texts = (each for each in self.properties if each.kind is Kind.TEXT)
        return frozenset(each.name for each in texts if not each.sensitive)

    def _check_timer(self, policy: TimerPolicy) -> None:
        scales = {each.name: each.scale for each in self.quantities}
        if scales.get(policy.quantity) != TIMER_SCALE:
            raise InvalidArgumentError("event_type.timer.quantity", f"a quantity of scale {TIMER_SCALE}")
        if not 0 < policy.abandoned_after_seconds <= _LONGEST_SILENCE:
            rule = f"from 1 to {_LONGEST_SILENCE}"
            raise InvalidArgumentError("event_type.timer.abandoned_after_seconds", rule)

    def grown_to(self, other: EventType) -> EventType:
        """`other`, if it only adds to this type. Raises FailedPreconditionError.

        Requirements, allowed values and bounds may change: they decide what is accepted from then on, and not
        the meaning of accepted events.
        """
        kept = other.quantities[: len(self.quantities)]
        if [(q.name, q.scale) for q in kept] != [(q.name, q.scale) for q in self.quantities]:
            self._refuse("quantities keep their order and scale; new ones go last")
        if missing := self.dimensions_by_name.keys() - other.dimensions_by_name.keys():
            self._refuse(f"dimensions stay: {sorted(missing)}")
        if missing := self.properties_by_name.keys() - other.properties_by_name.keys():
            self._refuse(f"properties stay: {sorted(missing)}")
        for each in self.properties:
            if other.properties_by_name[each.name].sensitive != each.sensitive:
                self._refuse(f"{each.name} stays {'' if each.sensitive else 'not '}sensitive")
        if self.timer is not None and (other.timer is None or other.timer.quantity != self.timer.quantity):
            self._refuse(f"timers stay, and measure {self.timer.quantity}")
        return other

    def _refuse(self, rule: str) -> None:
        raise FailedPreconditionError(f"event type {self.name}", rule)

    def to_json(self) -> dict[str, Any]:
        stated = asdict(self)
        for other in ("name", "archived_at", "since"):
            del stated[other]
        return stated

    @classmethod
    def from_json(cls, name: str, definition: dict[str, Any]) -> EventType:
        """Reads what `to_json` wrote, in this version or an earlier one."""
        timer = definition.get("timer")
        return cls(
            name,
            tuple(Quantity(**each) for each in definition["quantities"]),
            tuple(
                Dimension(**each | {"values": tuple(each.get("values", ()))})
                for each in definition["dimensions"]
            ),
            definition["subject_required"],
            tuple(
                Property(**each | {"kind": Kind(each["kind"]), "values": tuple(each["values"])})
                for each in definition.get("properties", ())
            ),
            tuple(Enrichment.from_json(each) for each in definition.get("enrichments", ())),
            definition.get("for_identity", False),
            timer and TimerPolicy(**timer | {"when_abandoned": WhenAbandoned(timer["when_abandoned"])}),
        )


def check_scales(wanted: EventType, others: Iterable[EventType]) -> None:
    """Checks that a quantity has one scale wherever it occurs, so that a message has one column of it.

    Raises FailedPreconditionError.
    """
    scales = {quantity.name: quantity.scale for quantity in wanted.quantities}
    for other in others:
        for quantity in other.quantities:
            if scales.get(quantity.name, quantity.scale) != quantity.scale:
                raise FailedPreconditionError(
                    f"event type {wanted.name}",
                    f"{quantity.name} has scale {quantity.scale} in {other.name}, so it has it everywhere",
                )


def _check_quantity(quantity: Quantity) -> None:
    check_name("event_type.quantities.name", quantity.name)
    field = f"event_type.quantities[{quantity.name}]"
    if not 0 <= quantity.scale <= MAX_SCALE:
        raise InvalidArgumentError(f"{field}.scale", f"from 0 to {MAX_SCALE}")
    for name, bound in (("minimum", quantity.minimum), ("maximum", quantity.maximum)):
        if bound is not None and abs(bound) >= MAX_UNITS:
            rule = f"at most {MAX_DIGITS - quantity.scale} digits before the point"
            raise InvalidArgumentError(f"{field}.{name}", rule)
    if quantity.minimum is not None and quantity.maximum is not None and quantity.minimum > quantity.maximum:
        raise InvalidArgumentError(f"{field}.minimum", "at most the maximum")


def _check_dimension(dimension: Dimension) -> None:
    check_name("event_type.dimensions.name", dimension.name)
    field = f"event_type.dimensions[{dimension.name}]"
    if not 0 < dimension.max_length <= MAX_DIMENSION_VALUE:
        raise InvalidArgumentError(f"{field}.max_length", f"from 1 to {MAX_DIMENSION_VALUE}")
    if len(dimension.values) > MAX_VALUES:
        raise InvalidArgumentError(f"{field}.values", f"at most {MAX_VALUES}")
    if len(set(dimension.values)) != len(dimension.values):
        raise InvalidArgumentError(f"{field}.values", "values must differ")
    if any(len(value) > dimension.max_length or "\0" in value for value in dimension.values):
        raise InvalidArgumentError(f"{field}.values", f"at most {dimension.max_length} characters, no NUL")
