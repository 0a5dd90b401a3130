"""All event types: the operator's, for every tenant, and tenants' own ones."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

from meterline.errors import FailedPreconditionError, InvalidArgumentError

from meterline_ingest.event.names import NOBODY
from meterline_ingest.event_types.rules.types import EventType, check_scales

# Types are kept in the memory of every process, so the number of a tenant's own must be bounded.
MAX_OWN_TYPES: Final = 100
# Bytes of all types of a tenant together, as they are stored: lists of allowed values make a type large.
MAX_OWN_BYTES: Final = 1 << 20
# Names of types and quantities that tenants make begin with this, and no others: so they cannot collide with
# any that the operator ever makes.
OWN_PREFIX: Final = "own."
# A quantity has one scale in all types, and no refusal may reveal another tenant's scale. So tenants do not
# choose: their own quantities have this scale.
OWN_SCALE: Final = 6


@dataclass(frozen=True)
class TypeBook:
    """`common` by name; `own` by tenant number and name. No name is in both."""

    common: Mapping[str, EventType]
    own: Mapping[int, Mapping[str, EventType]] = field(default_factory=dict)

    def of_owner(self, owner: int) -> Mapping[str, EventType]:
        """A tenant's own types; for NOBODY the operator's."""
        return self.common if owner == NOBODY else self.own.get(owner, {})

    def owner(self, tenant_id: int, name: str) -> int:
        """The owner of the type that `name` means to a tenant."""
        return NOBODY if name in self.common else tenant_id

    def find(self, tenant_id: int, name: str) -> EventType | None:
        """The type that `name` means to a tenant."""
        found = self.common.get(name)
        return self.own.get(tenant_id, {}).get(name) if found is None else found

    @cached_property
    def own_names(self) -> frozenset[str]:
        return frozenset(name for types in self.own.values() for name in types)

    @cached_property
    def quantity_names(self) -> frozenset[str]:
        return frozenset(quantity.name for each in self._all() for quantity in each.quantities)

    def knows(self, name: str) -> bool:
        """Whether any type has this name."""
        return name in self.common or name in self.own_names

    def named(self, name: str) -> list[EventType]:
        """All types of this name: the operator's, or those of any tenants."""
        if name in self.common:
            return [self.common[name]]
        return [types[name] for types in self.own.values() if name in types]

    def visible_to(self, tenant_id: int) -> list[EventType]:
        """By name; for NOBODY the operator's only."""
        types = {**self.common, **self.own.get(tenant_id, {})}
        return [types[name] for name in sorted(types)]

    def accept(self, tenant_id: int, wanted: EventType) -> EventType:
        """`wanted`, if it may be put for a tenant or, by NOBODY, for all. Raises FailedPreconditionError."""
        if tenant_id == NOBODY:
            if wanted.name in self.own_names:
                rule = "a tenant has a type of this name, which is to be deleted first"
                raise FailedPreconditionError(f"event type {wanted.name}", rule)
            known = self.common.get(wanted.name)
            _check_common_names(wanted, known)
            check_scales(wanted, self._all())
        else:
            if wanted.name in self.common:
                raise FailedPreconditionError(f"event type {wanted.name}", "is the operator's")
            mine = self.own.get(tenant_id, {})
            known = mine.get(wanted.name)
            self._check_own_names(wanted, known)
            _check_own_size(wanted.name, {**mine, wanted.name: wanted})
        return wanted if known is None else known.grown_to(wanted)

    def _check_own_names(self, wanted: EventType, known: EventType | None) -> None:
        """Checks new names; names from before this rule are kept, and their types may grow."""
        if known is None and not wanted.name.startswith(OWN_PREFIX):
            raise InvalidArgumentError("event_type.name", f"begins with {OWN_PREFIX} in a tenant's own types")
        scales = {each.name: each.scale for common in self.common.values() for each in common.quantities}
        kept = set() if known is None else {each.name for each in known.quantities}
        for quantity in wanted.quantities:
            name = quantity.name
            if name not in scales and name not in kept and not name.startswith(OWN_PREFIX):
                rule = f"begins with {OWN_PREFIX} in a tenant's own types, or is a quantity of the operator's"
                raise InvalidArgumentError(f"event_type.quantities[{name}].name", rule)
            if quantity.scale != (scale := scales.get(name, OWN_SCALE)):
                raise FailedPreconditionError(
                    f"event type {wanted.name}", f"{name} has scale {scale} in a tenant's own types"
                )

    def _all(self) -> Iterator[EventType]:
        yield from self.common.values()
        for types in self.own.values():
            yield from types.values()


def _check_common_names(wanted: EventType, known: EventType | None) -> None:
    """Checks new names."""
    kept = set() if known is None else {known.name, *(each.name for each in known.quantities)}
    named = {"event_type.name": wanted.name} | {
        f"event_type.quantities[{each.name}].name": each.name for each in wanted.quantities
    }
    for field_name, name in named.items():
        if name.startswith(OWN_PREFIX) and name not in kept:
            raise InvalidArgumentError(field_name, f"begins with {OWN_PREFIX} in a tenant's own types only")


def _check_own_size(name: str, types: Mapping[str, EventType]) -> None:
    """
    name: of the type that is put
    types: all of the tenant's types after the change
    """
    if len(types) > MAX_OWN_TYPES:
        raise FailedPreconditionError(f"event type {name}", f"at most {MAX_OWN_TYPES} types")
    if sum(len(json.dumps(each.to_json())) for each in types.values()) > MAX_OWN_BYTES:
        rule = f"at most {MAX_OWN_BYTES} bytes of all types of a tenant together"
        raise FailedPreconditionError(f"event type {name}", rule)
