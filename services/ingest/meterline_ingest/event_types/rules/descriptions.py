"""The fields of events of one name, of all owners' types: what meters may refer to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from meterline_ingest.event_types.rules.types import EventType

# The most quantities, dimensions, and values of all dimensions together. The operator's type has far fewer,
# but many tenants may each have one of the same name.
MOST: Final = 10_000


@dataclass(frozen=True, slots=True)
class Description:
    """All types of one name together.

    quantities, dimensions: names, sorted; each dimension with the only values that any owner allows, sorted,
        and empty where some owner allows all or there are too many
    partial: there are more names than `MOST`, and only so many are listed
    """

    quantities: tuple[str, ...]
    dimensions: Mapping[str, tuple[str, ...]]
    partial: bool


def describe(types: Iterable[EventType]) -> Description | None:
    """Returns None if there are no types."""
    types = list(types)
    if not types:
        return None
    quantities = sorted({each.name for one in types for each in one.quantities})
    allowed: dict[str, set[str]] = {}
    free: set[str] = set()
    for one in types:
        for each in one.dimensions:
            allowed.setdefault(each.name, set()).update(each.values)
            if not each.values:
                free.add(each.name)
    names = sorted(allowed)
    dimensions: dict[str, tuple[str, ...]] = {}
    left = MOST
    for name in names[:MOST]:
        values = () if name in free or len(allowed[name]) > left else tuple(sorted(allowed[name]))
        left -= len(values)
        dimensions[name] = values
    return Description(tuple(quantities[:MOST]), dimensions, len(quantities) > MOST or len(names) > MOST)
