"""Changes and reads the catalogue that events are enriched from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final

from meterline.db.pool import Database
from meterline.errors import InvalidArgumentError, NotFoundError
from meterline.names import check_name
from meterline.tenants import TenantReplica
from meterline.transactions.unit_of_work import UnitOfWork

from meterline_ingest.catalogue import store
from meterline_ingest.catalogue.store import CatalogueReader
from meterline_ingest.event.bounds import MAX_DIMENSION_VALUE
from meterline_ingest.event_types.rules.enrichment import MAX_ATTRIBUTES, MAX_KEY, EntryKey, StoredEntry

MAX_ENTRIES: Final = 1_000


class Catalogue:
    def __init__(
        self, database: Database, unit_of_work: UnitOfWork, tenants: TenantReplica, reader: CatalogueReader
    ) -> None:
        self._database = database
        self._unit_of_work = unit_of_work
        self._tenants = tenants
        self._reader = reader

    async def put(self, slug: str, entries: Mapping[tuple[str, str], Mapping[str, str]]) -> int:
        """Creates or replaces entries by (namespace, key); returns how many changed."""
        check_count("entries", len(entries))
        for (namespace, key), attributes in entries.items():
            check_name("entries.namespace", namespace)
            _check_text(f"entries[{key[:64]}].key", key, MAX_KEY)
            _check_attributes(f"entries[{key[:64]}].attributes", attributes)
        tenant = await self._tenants.get(slug)
        async with self._unit_of_work.begin([tenant.tenant_id]) as tx:
            changed = await store.put(tx.connection, tenant.tenant_id, entries)
            tx.after_commit(partial(self._forget, tenant.tenant_id, list(entries)))
            await tx.commit()
        return changed

    async def delete(self, slug: str, namespace: str, keys: Sequence[str]) -> int:
        """Returns how many existed."""
        check_count("keys", len(keys))
        tenant = await self._tenants.get(slug)
        async with self._unit_of_work.begin([tenant.tenant_id]) as tx:
            deleted = await store.delete(tx.connection, tenant.tenant_id, namespace, keys)
            tx.after_commit(partial(self._forget, tenant.tenant_id, [(namespace, key) for key in keys]))
            await tx.commit()
        return deleted

    async def get(self, slug: str, namespace: str, key: str) -> StoredEntry:
        """Raises NotFoundError, also for an entry of another tenant."""
        tenant = await self._tenants.get(slug)
        async with self._database.connection([tenant.tenant_id]) as connection:
            entry = await store.get(connection, tenant.tenant_id, namespace, key)
        if entry is None:
            raise NotFoundError("catalogue entry", f"{namespace}/{key}")
        return entry

    async def page(self, slug: str, namespace: str, after: str, limit: int) -> list[StoredEntry]:
        """In the order of their keys, after `after`."""
        tenant = await self._tenants.get(slug)
        async with self._database.connection([tenant.tenant_id]) as connection:
            return await store.page(connection, tenant.tenant_id, namespace, after, limit)

    def _forget(self, tenant_id: int, keys: Sequence[tuple[str, str]]) -> None:
        self._reader.forget(EntryKey(tenant_id, namespace, key) for namespace, key in keys)


def check_count(field: str, count: int) -> None:
    """Raises InvalidArgumentError when a call has none, or too many."""
    if not 0 < count <= MAX_ENTRIES:
        raise InvalidArgumentError(field, f"1 to {MAX_ENTRIES}, all different")


def _check_attributes(field: str, attributes: Mapping[str, str]) -> None:
    if len(attributes) > MAX_ATTRIBUTES:
        raise InvalidArgumentError(field, f"at most {MAX_ATTRIBUTES}")
    for name, value in attributes.items():
        check_name(field, name)
        if len(value) > MAX_DIMENSION_VALUE:
            raise InvalidArgumentError(f"{field}.{name}", f"at most {MAX_DIMENSION_VALUE} characters")


def _check_text(field: str, text: str, most: int) -> None:
    if not 0 < len(text) <= most:
        raise InvalidArgumentError(field, f"1 to {most} characters")
