"""Wrapped keys of tenants. The master keys, which unwrap them, are not in the database."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any, Final

from meterline.db.pool import Connection, Database
from meterline.db.queries import Queries
from meterline.db.scope import ALL_TENANTS

from meterline_ingest.keys.rules import KeyRecord, Purpose, State, WrappedKey

queries = Queries("meterline_ingest.keys", "store.sql")

# A new key seals only after this long. Replicas cache keys for less, so by then all know it.
SETTLING: Final = timedelta(seconds=5)
# After this long, no value that was sealed under a key before its retirement is still on its way.
RETIRED_FOR_GOOD: Final = timedelta(minutes=10)

KeyName = tuple[int, int]
"""Tenant and number of the key."""


class DataKeys:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def load(
        self, tenant_ids: Sequence[int], connection: Connection | None = None
    ) -> dict[int, list[WrappedKey]]:
        """All keys of some tenants, by tenant; a tenant without keys is left out."""
        parameters = {"tenant_ids": list(tenant_ids), "settling": SETTLING}
        if connection is None:
            rows = await self._database.fetch(queries.wrapped_keys, parameters, tenants=tenant_ids)
        else:
            cursor = await connection.execute(queries.wrapped_keys, parameters, binary=True)
            rows = await cursor.fetchall()
        found: dict[int, list[WrappedKey]] = {}
        for row in rows:
            found.setdefault(row[0], []).append(_wrapped_key(row))
        return found

    async def records(self, tenant_id: int) -> list[KeyRecord]:
        rows = await self._database.fetch(queries.key_records, (tenant_id,), tenants=[tenant_id])
        return [KeyRecord(row[0], Purpose(row[1]), State(row[2]), *row[3:]) for row in rows]

    async def add_first(self, keys: Sequence[WrappedKey]) -> None:
        """Commits keys of tenants that have none. Keys that another process has added first are kept."""
        async with self._database.connection({key.tenant_id for key in keys}) as connection:
            await self.add(connection, keys)
            await connection.commit()

    async def add(self, connection: Connection, keys: Iterable[WrappedKey]) -> int:
        """Adds keys, except those whose number is taken; returns how many it added.

        A key without `wrapped` is a shredded one.
        """
        # Sorted: two transactions that add the same keys in another order would deadlock.
        ordered = sorted(keys, key=_name)
        cursor = await connection.execute(
            queries.add_keys,
            {
                **_names(map(_name, ordered)),
                "purposes": [key.purpose.value for key in ordered],
                "wrapped": [key.wrapped for key in ordered],
                "master_key_ids": [key.master_key_id for key in ordered],
            },
        )
        return cursor.rowcount

    async def lock(self, connection: Connection, tenant_id: int) -> None:
        """Locks the tenant's keys against rotation and destruction until the transaction ends."""
        await connection.execute(queries.lock_keys, {"tenant_id": tenant_id})

    async def retire(self, connection: Connection, tenant_id: int, key_id: int) -> None:
        await connection.execute(queries.retire_key, (tenant_id, key_id))

    async def shred(self, connection: Connection, tenant_id: int) -> int:
        """Destroys all keys of a tenant; returns how many there were."""
        await connection.execute(queries.lock_key_rows, (tenant_id,))
        cursor = await connection.execute(queries.shred_keys, (tenant_id,))
        return cursor.rowcount

    async def add_sealed(self, counts: Mapping[KeyName, int], most: int) -> list[KeyName]:
        """Adds to the counts of sealed values; returns the current keys that have sealed `most` or more."""
        async with self._database.connection(ALL_TENANTS) as connection:
            parameters = {**_names(counts), "sealed": list(counts.values()), "most": most}
            cursor = await connection.execute(queries.add_sealed, parameters)
            spent = await cursor.fetchall()
            await connection.commit()
        return [(tenant_id, key_id) for tenant_id, key_id in spent]

    async def aged(self, age: timedelta, limit: int) -> list[KeyName]:
        """Current keys of at least this age, the oldest first."""
        rows = await self._all_tenants(queries.aged_keys, {"age": age, "limit": limit})
        return [(tenant_id, key_id) for tenant_id, key_id in rows]

    async def of_other_masters(self, master_key_id: str, after: KeyName, limit: int) -> list[WrappedKey]:
        """Keys that are not wrapped by this master key, in the order of their names, after `after`."""
        parameters = {
            "master_key_id": master_key_id,
            "after_tenant_id": after[0],
            "after_key_id": after[1],
            "limit": limit,
        }
        rows = await self._all_tenants(queries.keys_of_other_masters, parameters)
        return [_wrapped_key(row) for row in rows]

    async def rewrap(self, keys: Sequence[tuple[WrappedKey, bytes]], master_key_id: str) -> int:
        """Stores rewrapped keys, except those that changed meanwhile; returns how many."""
        async with self._database.connection({key.tenant_id for key, _ in keys}) as connection:
            cursor = await connection.execute(
                queries.rewrap_keys,
                {
                    **_names(_name(key) for key, _ in keys),
                    "before": [key.wrapped for key, _ in keys],
                    "wrapped": [wrapped for _, wrapped in keys],
                    "master_key_id": master_key_id,
                },
            )
            await connection.commit()
            return cursor.rowcount

    async def to_reseal(self, limit: int) -> list[KeyName]:
        """Tenants with long-retired keys that may still be needed, each with the last of these."""
        parameters = {"settling": RETIRED_FOR_GOOD, "limit": limit}
        rows = await self._all_tenants(queries.keys_to_reseal, parameters)
        return [(tenant_id, key_id) for tenant_id, key_id in rows]

    async def mark_resealed(self, tenant_id: int, last_key_id: int) -> None:
        """Records that no value needs the tenant's retired keys up to this one any more."""
        async with self._database.connection([tenant_id]) as connection:
            await connection.execute(queries.mark_resealed, (tenant_id, last_key_id))
            await connection.commit()

    async def _all_tenants(self, query: Any, parameters: Mapping[str, object]) -> list[Any]:
        return await self._database.fetch(query, parameters, tenants=ALL_TENANTS)


def _name(key: WrappedKey) -> KeyName:
    return key.tenant_id, key.key_id


def _names(names: Iterable[KeyName]) -> dict[str, list[int]]:
    tenant_ids, key_ids = zip(*names, strict=True)
    return {"tenant_ids": list(tenant_ids), "key_ids": list(key_ids)}


def _wrapped_key(row: Sequence[Any]) -> WrappedKey:
    return WrappedKey(row[0], row[1], Purpose(row[2]), *row[3:])
