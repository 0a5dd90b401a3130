"""What an event of a type may carry. A type only ever grows, so that what was accepted keeps its meaning."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Final

from meterline.errors import FailedPreconditionError, InvalidArgumentError

from meterline_ingest.domain.decimals import MAX_UNITS
from meterline_ingest.domain.limits import MAX_DIMENSION_VALUE

MAX_QUANTITIES: Final = 4
MAX_DIMENSIONS: Final = 16
MAX_SCALE: Final = 9
MAX_VALUES: Final = 1_000
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class Quantity:
    """`scale` decimals are kept. Bounds are units at that scale, and accepted themselves."""

    name: str
    scale: int
    required: bool
    signed: bool
    minimum: int | None = None
    maximum: int | None = None


@dataclass(frozen=True, slots=True)
class Dimension:
    """`values`: the only ones that are accepted; empty: any. `max_length` in characters."""

    name: str
    required: bool
    values: tuple[str, ...] = ()
    max_length: int = MAX_DIMENSION_VALUE


@dataclass(frozen=True)
class EventType:
    """The position of a quantity is the column it is stored in."""

    name: str
    quantities: tuple[Quantity, ...]
    dimensions: tuple[Dimension, ...]
    subject_required: bool

    def __post_init__(self) -> None:
        _check_name("event_type.name", self.name)
        if len(self.quantities) > MAX_QUANTITIES:
            raise InvalidArgumentError("event_type.quantities", f"at most {MAX_QUANTITIES}")
        if len(self.dimensions) > MAX_DIMENSIONS:
            raise InvalidArgumentError("event_type.dimensions", f"at most {MAX_DIMENSIONS}")
        for kind, parts in (("quantities", self.quantities), ("dimensions", self.dimensions)):
            names = [part.name for part in parts]
            for name in names:
                _check_name(f"event_type.{kind}.name", name)
            if len(set(names)) != len(names):
                raise InvalidArgumentError(f"event_type.{kind}", "names must differ")
        for quantity in self.quantities:
            _check_quantity(quantity)
        for dimension in self.dimensions:
            _check_dimension(dimension)

    def grown_to(self, other: EventType) -> EventType:
        """`other`, if it only adds to this type. Raises FailedPreconditionError.

        What is required, allowed or in bounds may change: it decides what is accepted from then on, and not
        what an event that was accepted means.
        """
        kept = other.quantities[: len(self.quantities)]
        if [(q.name, q.scale) for q in kept] != [(q.name, q.scale) for q in self.quantities]:
            raise FailedPreconditionError(
                f"event type {self.name}", "quantities keep their order and scale; new ones go last"
            )
        missing = {d.name for d in self.dimensions} - {d.name for d in other.dimensions}
        if missing:
            raise FailedPreconditionError(f"event type {self.name}", f"dimensions stay: {sorted(missing)}")
        return other

    def to_json(self) -> dict[str, Any]:
        return {
            "quantities": [asdict(quantity) for quantity in self.quantities],
            "dimensions": [asdict(dimension) for dimension in self.dimensions],
            "subject_required": self.subject_required,
        }

    @classmethod
    def from_json(cls, name: str, definition: dict[str, Any]) -> EventType:
        return cls(
            name,
            tuple(Quantity(**quantity) for quantity in definition["quantities"]),
            tuple(
                Dimension(**dimension | {"values": tuple(dimension.get("values", ()))})
                for dimension in definition["dimensions"]
            ),
            definition["subject_required"],
        )


def check_scales(wanted: EventType, others: Iterable[EventType]) -> None:
    """A quantity has one scale wherever it occurs, so that a message has one column of it.

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


def _check_name(field: str, name: str) -> None:
    if not _NAME.fullmatch(name):
        raise InvalidArgumentError(field, "a letter, then letters, digits, '.', '_' or '-', at most 64")


def _check_quantity(quantity: Quantity) -> None:
    field = f"event_type.quantities[{quantity.name}]"
    if not 0 <= quantity.scale <= MAX_SCALE:
        raise InvalidArgumentError(f"{field}.scale", f"from 0 to {MAX_SCALE}")
    for name, bound in (("minimum", quantity.minimum), ("maximum", quantity.maximum)):
        if bound is not None and abs(bound) >= MAX_UNITS:
            raise InvalidArgumentError(f"{field}.{name}", "at most 15 significant digits")
    if quantity.minimum is not None and quantity.maximum is not None and quantity.minimum > quantity.maximum:
        raise InvalidArgumentError(f"{field}.minimum", "at most the maximum")


def _check_dimension(dimension: Dimension) -> None:
    field = f"event_type.dimensions[{dimension.name}]"
    if not 0 < dimension.max_length <= MAX_DIMENSION_VALUE:
        raise InvalidArgumentError(f"{field}.max_length", f"from 1 to {MAX_DIMENSION_VALUE}")
    if len(dimension.values) > MAX_VALUES:
        raise InvalidArgumentError(f"{field}.values", f"at most {MAX_VALUES}")
    if len(set(dimension.values)) != len(dimension.values):
        raise InvalidArgumentError(f"{field}.values", "values must differ")
    if any(len(value) > dimension.max_length or "\0" in value for value in dimension.values):
        raise InvalidArgumentError(f"{field}.values", f"at most {dimension.max_length} characters, no NUL")
