"""The catalogue that events are enriched from."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Final

import numpy as np
from meterline.db import arrays
from meterline.db.pool import Connection, Database
from meterline.db.queries import Queries
from meterline.remembered.answers import Answers
from meterline.remembered.lookup import Lookup

from meterline_ingest.event_types.rules.enrichment import Entry, EntryKey, StoredEntry

queries = Queries("meterline_ingest.catalogue", "store.sql")

# After this long, the other replicas see an entry that was put on one, or its deletion.
MEMORY_SECONDS: Final = 2.0
# Bytes of the cache, of which absences may take a quarter. An entry of ten usual attributes takes about 3
# KiB, so some 8,000 fit; the largest takes 50 KiB.
MEMORY_BYTES: Final = 32 << 20
# Bytes of an entry in addition to its texts: key, version and slot; and those of each attribute.
_ENTRY_BYTES: Final = 750
_ATTRIBUTE_BYTES: Final = 100


class CatalogueReader:
    """What capture looks up, from memory while it is fresh. One for each process."""

    def __init__(
        self,
        database: Database,
        *,
        memory_bytes: int = MEMORY_BYTES,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """now: a clock in seconds since any fixed moment"""
        self._database = database
        absent_bytes = memory_bytes // 4
        self._entries: Lookup[EntryKey, Entry] = Lookup(
            self._load,
            known=Answers(MEMORY_SECONDS, most=memory_bytes - absent_bytes, size_of=size_of, now=now),
            absent=Answers(MEMORY_SECONDS, most=absent_bytes, size_of=_size_of_absence, now=now),
        )

    async def find(self, keys: Collection[EntryKey]) -> dict[EntryKey, Entry | None]:
        """All of `keys`; None where there is no entry."""
        return dict.fromkeys(keys) | await self._entries.find_many(keys)

    def forget(self, keys: Iterable[EntryKey]) -> None:
        """Makes this process see its own changes at once."""
        self._entries.forget(keys)

    async def _load(self, keys: Collection[EntryKey]) -> dict[EntryKey, Entry]:
        parameters = (
            arrays.int4_array(np.array([key.tenant_id for key in keys])),
            arrays.text_array([key.namespace for key in keys]),
            arrays.text_array([key.key for key in keys]),
        )
        rows = await self._database.fetch(queries.find_entries, parameters, {key.tenant_id for key in keys})
        return {
            EntryKey(tenant_id, namespace, key): Entry(version, attributes)
            for tenant_id, namespace, key, version, attributes in rows
        }


def size_of(key: EntryKey, entry: Entry) -> int:
    """An upper estimate of the bytes that it takes to cache an entry."""
    size = _size_of_absence(key)
    for name, value in entry.attributes.items():
        size += _ATTRIBUTE_BYTES + sys.getsizeof(name) + sys.getsizeof(value)
    return size


def _size_of_absence(key: EntryKey, _: object = None) -> int:
    return _ENTRY_BYTES + sys.getsizeof(key.namespace) + sys.getsizeof(key.key)


async def put(
    connection: Connection, tenant_id: int, entries: Mapping[tuple[str, str], Mapping[str, str]]
) -> int:
    """Creates or replaces entries by (namespace, key); returns how many changed."""
    keys = sorted(entries)
    await connection.execute(queries.lock_catalogue, {"tenant_id": tenant_id})
    cursor = await connection.execute(
        queries.put_entries,
        {
            "tenant_id": tenant_id,
            "namespaces": [namespace for namespace, _ in keys],
            "keys": [key for _, key in keys],
            "attributes": [json.dumps(dict(entries[each])) for each in keys],
        },
    )
    return cursor.rowcount


async def delete(connection: Connection, tenant_id: int, namespace: str, keys: Sequence[str]) -> int:
    """Returns how many existed."""
    await connection.execute(queries.lock_catalogue, {"tenant_id": tenant_id})
    cursor = await connection.execute(
        queries.delete_entries, {"tenant_id": tenant_id, "namespace": namespace, "keys": sorted(keys)}
    )
    return cursor.rowcount


async def get(connection: Connection, tenant_id: int, namespace: str, key: str) -> StoredEntry | None:
    cursor = await connection.execute(queries.get_entry, (tenant_id, namespace, key), binary=True)
    row = await cursor.fetchone()
    return StoredEntry(*row) if row else None


async def page(
    connection: Connection, tenant_id: int, namespace: str, after: str, limit: int
) -> list[StoredEntry]:
    """In the order of their keys, after `after`."""
    cursor = await connection.execute(queries.list_entries, (tenant_id, namespace, after, limit), binary=True)
    return [StoredEntry(*row) for row in await cursor.fetchall()]
