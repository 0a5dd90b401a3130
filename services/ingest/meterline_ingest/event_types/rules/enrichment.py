"""Adds attributes of catalogue entries to events, by the rules of their type."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum
from typing import Any, Final

from meterline.errors import InvalidArgumentError
from meterline.names import check_name

from meterline_ingest.event.names import check_distinct

MAX_ATTRIBUTES: Final = 32
MAX_KEY: Final = 256

UNENRICHED: Final = "unenriched"


class WhenMissing(IntEnum):
    """Numbers as in the API."""

    QUARANTINE = 1
    ACCEPT = 2


@dataclass(frozen=True, slots=True)
class Attribute:
    """An attribute of an entry, and the dimension or property that gets it."""

    name: str
    target: str


@dataclass(frozen=True, slots=True)
class Enrichment:
    """`key` is the dimension or property whose value is the key of an entry in `namespace`."""

    namespace: str
    key: str
    attributes: tuple[Attribute, ...]
    when_missing: WhenMissing

    def check(self, fields: Collection[str]) -> None:
        """Raises InvalidArgumentError. `fields`: the dimensions and properties that enrichment may use."""
        check_name("event_type.enrichments.namespace", self.namespace)
        place = f"event_type.enrichments[{self.namespace}]"
        rule = "a dimension, or a property that is a text and not sensitive"
        if self.key not in fields:
            raise InvalidArgumentError(f"{place}.key", rule)
        if not 0 < len(self.attributes) <= MAX_ATTRIBUTES:
            raise InvalidArgumentError(f"{place}.attributes", f"1 to {MAX_ATTRIBUTES}")
        for attribute in self.attributes:
            check_name(f"{place}.attributes.attribute", attribute.name)
            if attribute.target not in fields or attribute.target == self.key:
                raise InvalidArgumentError(f"{place}.attributes.target", f"{rule}, and not the key")
        check_distinct(f"{place}.attributes", (attribute.target for attribute in self.attributes))

    @classmethod
    def from_json(cls, stated: Mapping[str, Any]) -> Enrichment:
        return cls(
            stated["namespace"],
            stated["key"],
            tuple(Attribute(**each) for each in stated["attributes"]),
            WhenMissing(stated["when_missing"]),
        )


@dataclass(frozen=True, slots=True)
class EntryKey:
    """The key of a catalogue entry."""

    tenant_id: int
    namespace: str
    key: str


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry in one version."""

    version: int
    attributes: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class StoredEntry:
    """An entry with all that the API returns."""

    namespace: str
    key: str
    version: int
    attributes: Mapping[str, str]
    changed_at: datetime


Catalogue = Mapping[EntryKey, Entry | None]
"""Entries that were looked up; None where there is none."""


@dataclass(slots=True)
class Enriched:
    """The result of enriching an event's fields.

    added: values from the catalogue, by the field that gets each
    sources: `<namespace>/<key>@<version>` of each entry that was used
    missing: the rule whose entry does not exist, if the event must be refused for it
    """

    added: dict[str, str] = field(default_factory=dict)
    sources: list[str] = field(default_factory=list)
    flags: tuple[str, ...] = ()
    missing: Enrichment | None = None


def is_key(text: str) -> bool:
    """Whether an entry can have this key. Other texts are not looked up: the database may refuse them."""
    return 0 < len(text) <= MAX_KEY and "\0" not in text


def entries_needed(
    tenant_id: int, enrichments: Collection[Enrichment], fields: Mapping[str, str]
) -> Iterator[EntryKey]:
    """The entries that an event with these dimensions and properties is enriched from."""
    for each in enrichments:
        value = fields.get(each.key)
        if value and is_key(value):
            yield EntryKey(tenant_id, each.namespace, value)


def enrich(
    tenant_id: int, enrichments: Collection[Enrichment], fields: Mapping[str, str], catalogue: Catalogue
) -> Enriched:
    """Applies the rules to one event's fields as they were sent: no rule sees what another one added."""
    result = Enriched()
    for each in enrichments:
        value = fields.get(each.key)
        if not value:
            continue
        entry = catalogue.get(EntryKey(tenant_id, each.namespace, value))
        if entry is None:
            if each.when_missing is WhenMissing.QUARANTINE:
                result.missing = result.missing or each
            else:
                result.flags = (UNENRICHED,)
            continue
        result.sources.append(f"{each.namespace}/{value}@{entry.version}")
        for attribute in each.attributes:
            if attribute.name in entry.attributes:
                result.added[attribute.target] = entry.attributes[attribute.name]
    return result
