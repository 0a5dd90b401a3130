"""All event types there are: the operator's, for every tenant, and those that tenants added themselves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

from meterline.errors import FailedPreconditionError

from meterline_ingest.domain.event_types import EventType, check_scales

# Types are kept in the memory of every process, so a tenant cannot have any number of them.
MAX_OWN_TYPES: Final = 100
# A quantity has one scale in all types, and no tenant may learn from a refusal what another one has. So
# tenants do not choose: where the operator has no such quantity it has this scale.
OWN_SCALE: Final = 6

NOBODY: Final = 0


@dataclass(frozen=True)
class TypeBook:
    """`common` by name; `own` by tenant number and name. No name is in both."""

    common: Mapping[str, EventType]
    own: Mapping[int, Mapping[str, EventType]] = field(default_factory=dict)

    def find(self, tenant_id: int, name: str) -> EventType | None:
        """What `name` means to a tenant."""
        found = self.common.get(name)
        return self.own.get(tenant_id, {}).get(name) if found is None else found

    @cached_property
    def own_names(self) -> frozenset[str]:
        return frozenset(name for types in self.own.values() for name in types)

    @cached_property
    def quantity_names(self) -> frozenset[str]:
        return frozenset(quantity.name for each in self._all() for quantity in each.quantities)

    def knows(self, name: str) -> bool:
        """Whether any tenant has it."""
        return name in self.common or name in self.own_names

    def visible_to(self, tenant_id: int) -> list[EventType]:
        """By name; the operator's only, for nobody."""
        types = {**self.common, **self.own.get(tenant_id, {})}
        return [types[name] for name in sorted(types)]

    def accept(self, tenant_id: int, wanted: EventType) -> EventType:
        """`wanted`, as it may be put for a tenant, or for all by nobody. Raises FailedPreconditionError."""
        if tenant_id == NOBODY:
            if wanted.name in self.own_names:
                raise FailedPreconditionError(f"event type {wanted.name}", "a tenant has a type of this name")
            known = self.common.get(wanted.name)
            check_scales(wanted, self._all())
        else:
            if wanted.name in self.common:
                raise FailedPreconditionError(f"event type {wanted.name}", "is the operator's")
            mine = self.own.get(tenant_id, {})
            known = mine.get(wanted.name)
            if known is None and len(mine) >= MAX_OWN_TYPES:
                raise FailedPreconditionError(f"event type {wanted.name}", f"at most {MAX_OWN_TYPES} types")
            self._check_own_scales(wanted)
        return wanted if known is None else known.grown_to(wanted)

    def _check_own_scales(self, wanted: EventType) -> None:
        scales = {each.name: each.scale for common in self.common.values() for each in common.quantities}
        for quantity in wanted.quantities:
            if quantity.scale != (scale := scales.get(quantity.name, OWN_SCALE)):
                raise FailedPreconditionError(
                    f"event type {wanted.name}", f"{quantity.name} has scale {scale} in a tenant's own types"
                )

    def _all(self) -> Iterator[EventType]:
        yield from self.common.values()
        for types in self.own.values():
            yield from types.values()
