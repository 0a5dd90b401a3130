"""What an event of a type may carry. A type only ever grows, so that what was accepted keeps its meaning."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from meterline.errors import FailedPreconditionError, InvalidArgumentError

MAX_QUANTITIES: Final = 4
MAX_DIMENSIONS: Final = 16
MAX_SCALE: Final = 9
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class Quantity:
    """`scale` decimals are kept."""

    name: str
    scale: int
    required: bool
    signed: bool


@dataclass(frozen=True, slots=True)
class Dimension:
    name: str
    required: bool


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
            if not 0 <= quantity.scale <= MAX_SCALE:
                raise InvalidArgumentError("event_type.quantities.scale", f"from 0 to {MAX_SCALE}")

    def grown_to(self, other: EventType) -> EventType:
        """`other`, if it only adds to this type. Raises FailedPreconditionError."""
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
            "quantities": [
                {"name": q.name, "scale": q.scale, "required": q.required, "signed": q.signed}
                for q in self.quantities
            ],
            "dimensions": [{"name": d.name, "required": d.required} for d in self.dimensions],
            "subject_required": self.subject_required,
        }

    @classmethod
    def from_json(cls, name: str, definition: dict[str, Any]) -> EventType:
        return cls(
            name,
            tuple(Quantity(**quantity) for quantity in definition["quantities"]),
            tuple(Dimension(**dimension) for dimension in definition["dimensions"]),
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
