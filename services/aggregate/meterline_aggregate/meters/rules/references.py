"""Checks that what a meter refers to exists: its event type, quantities, dimensions and values."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

from meterline.errors import FailedPreconditionError

from meterline_aggregate.meters.rules.definitions import Definition

# Most names that an error message lists.
_SHOWN: Final = 16


@dataclass(frozen=True, slots=True)
class EventTypeDescription:
    """The fields that events of one type may have, in the types of all owners.

    dimensions: accepted values by name; an empty set means any value
    partial: the lists are incomplete
    """

    quantities: frozenset[str]
    dimensions: Mapping[str, frozenset[str]]
    partial: bool = False


def check_references(definition: Definition, found: EventTypeDescription | None) -> None:
    """Raises FailedPreconditionError with the field, the unknown name and the known names.

    found: the description of the definition's event type; None: there is no such type
    """
    kind = definition.event_type
    if found is None:
        raise FailedPreconditionError(
            "meter.event_type", f"nobody has an event type {kind!r}", "EVENT_TYPE_UNKNOWN"
        )
    if definition.quantity:
        _check_quantity(definition, found)
    named = [("meter.group_by", name) for name in definition.group_by]
    named += [(f"meter.filter.{name}", name) for name, _ in definition.filter]
    if definition.unique_dimension:
        named.append(("meter.unique_dimension", definition.unique_dimension))
    for field, name in named:
        if name not in found.dimensions and not found.partial:
            raise FailedPreconditionError(
                field,
                f"{kind} has no dimension {name!r}; it has {_listed(found.dimensions)}",
                "DIMENSION_UNKNOWN",
            )
    for name, value in definition.filter:
        values = found.dimensions.get(name)
        if values and value not in values:
            raise FailedPreconditionError(
                f"meter.filter.{name}",
                f"{kind} has no {name} {value!r}; it has {_listed(values)}",
                "VALUE_NOT_ALLOWED",
            )


def _check_quantity(definition: Definition, found: EventTypeDescription) -> None:
    if definition.quantity in found.quantities or found.partial:
        return
    raise FailedPreconditionError(
        "meter.quantity",
        f"{definition.event_type} has no quantity {definition.quantity!r};"
        f" it has {_listed(found.quantities)}",
        "QUANTITY_UNKNOWN",
    )


def _listed(names: Collection[str]) -> str:
    shown = sorted(names)[:_SHOWN]
    more = f" and {len(names) - len(shown)} more" if len(names) > len(shown) else ""
    return ", ".join(shown) + more if shown else "none"
