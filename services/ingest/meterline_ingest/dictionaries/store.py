"""Numbers for series and subjects: from memory, else from their tables, else new while the quota has room.

New entries are committed before the events that use them. An entry without events does no harm, and this
way the cache never holds a number that a rollback removed.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, Final, LiteralString

import numpy as np
from meterline.db.arrays import int4_array, int8_array, text_array, uuid_array
from meterline.db.pool import Connection, Database, begin
from meterline.db.queries import Queries
from meterline.db.scope import ALL_TENANTS
from meterline.tasks import Pace

from meterline_ingest.dictionaries.memory import TwoGenerations
from meterline_ingest.dictionaries.rules import Quotas
from meterline_ingest.event.columns import UUID_DTYPE, DimensionSet
from meterline_ingest.event.series import SeriesKey
from meterline_ingest.event_types import store as event_types_store
from meterline_ingest.event_types.rules.book import TypeBook

queries = Queries("meterline_ingest.dictionaries", "store.sql")

# Series that are looked up at once, which blocks the event loop.
PORTION: Final = 1_000
# Bytes of the cache, of series and of subjects, in each of two generations. A series of usual dimensions
# takes about 1 KiB, so that some 60,000 fit, and 200,000 subjects.
MEMORY_BYTES: Final = 32 << 20
# Bytes of an entry in addition to its texts: key, number and slot; and those of each dimension.
_ENTRY_BYTES: Final = 250
_PAIR_BYTES: Final = 64
# Returned for a new series whose type was deleted. Numbers begin at 1.
TYPE_GONE: Final = 0
# Columns in a row of counts.
_SERIES: Final = 1
_SUBJECTS: Final = 2

Subject = tuple[int, str]

FindQuotas = Callable[[Collection[int]], Awaitable[Mapping[int, Quotas]]]
"""The quotas that apply to tenants, by number."""


class Dictionaries:
    """One for each process."""

    def __init__(self, database: Database, quotas: FindQuotas, *, memory_bytes: int = MEMORY_BYTES) -> None:
        self._database = database
        self._quotas = quotas
        self._series: TwoGenerations[SeriesKey, int] = TwoGenerations(memory_bytes, _size_of_series)
        self._subjects: TwoGenerations[Subject, int] = TwoGenerations(memory_bytes, _size_of_subject)

    async def series_ids(self, keys: Sequence[SeriesKey], types: TypeBook) -> list[int | None]:
        """Numbers in the order of `keys`; None for new ones beyond the quota.

        types: those that the keys were made by. One that was deleted since gets no new series (TYPE_GONE),
            even if it was made again: its events might have another meaning then. A type that has series is
            never deleted, so that cached numbers stay valid.
        """
        numbers: list[int | None] = []
        pace = Pace()
        for start in range(0, len(keys), PORTION):
            if pace.due:
                await pace.rest()
            numbers += await self._series_ids(keys[start : start + PORTION], types)
        return numbers

    async def _series_ids(self, keys: Sequence[SeriesKey], types: TypeBook) -> list[int | None]:
        found = self._series.get_many(keys)
        missing = list(dict.fromkeys(key for key, at in zip(keys, found, strict=True) if at is None))
        numbers = await self._load_series(missing, types) if missing else {}
        for key, number in numbers.items():
            if number != TYPE_GONE:
                self._series.put(key, number)
        return [numbers.get(key) if at is None else at for key, at in zip(keys, found, strict=True)]

    async def subject_ids(self, keys: Sequence[Subject]) -> list[int | None]:
        """As `series_ids`."""
        found = self._subjects.get_many(keys)
        missing = {key for key, number in zip(keys, found, strict=True) if number is None}
        if missing:
            numbers = await self._load_subjects(sorted(missing))
            for key, number in numbers.items():
                self._subjects.put(key, number)
            found = [
                number if number is not None else numbers.get(key)
                for key, number in zip(keys, found, strict=True)
            ]
        return found

    async def held(self, tenant_id: int) -> Quotas:
        """How many series and subjects a tenant has."""
        rows = await self._database.fetch(queries.held, ([tenant_id],), [tenant_id])
        return Quotas(*rows[0][1:]) if rows else Quotas()

    async def fullest(self, default: Quotas) -> tuple[float, float]:
        """The greatest part of its quota that any tenant has used: of series, and of subjects.

        default: for tenants without a quota of their own or of their plan
        """
        parameters = {"series": default.series, "subjects": default.subjects}
        ((series, subjects),) = await self._database.fetch(queries.fullest, parameters, ALL_TENANTS)
        return float(series), float(subjects)

    async def _load_series(self, missing: Sequence[SeriesKey], types: TypeBook) -> dict[SeriesKey, int]:
        by_digest = {(key.tenant_id, _series_key(key)): key for key in missing}
        rows = sorted(by_digest)
        scope = sorted({tenant for tenant, _ in rows})
        quotas = await self._quotas(scope)
        keys = _key_arrays(rows)
        gone: set[SeriesKey] = set()
        async with self._database.connection(scope) as connection:
            cursor = await connection.execute(queries.find_series, keys, binary=True)
            found = await cursor.fetchall()
            if len(found) < len(rows):
                known = {(tenant, digest.bytes) for tenant, digest, _ in found}
                fresh = {row: by_digest[row] for row in rows if row not in known}
                # The first of all locks, and held until the series are stored.
                gone = await _without_type(connection, fresh.values(), types)
                fresh = {row: key for row, key in fresh.items() if key not in gone}
                left = await _left(connection, {each: quotas[each].series for each in scope}, _SERIES)
                added = (*_key_arrays(list(fresh)), *_series_arrays(fresh.values()), *left)
                found += await _add(connection, scope, queries.add_series, added, queries.find_series, keys)
        numbers = {by_digest[tenant, digest.bytes]: number for tenant, digest, number in found}
        return dict.fromkeys(gone, TYPE_GONE) | numbers

    async def _load_subjects(self, missing: Sequence[Subject]) -> dict[Subject, int]:
        tenants = int4_array(np.array([tenant for tenant, _ in missing]))
        keys = tenants, text_array([subject for _, subject in missing])
        scope = sorted({tenant for tenant, _ in missing})
        quotas = await self._quotas(scope)
        async with self._database.connection(scope) as connection:
            cursor = await connection.execute(queries.find_subjects, keys, binary=True)
            found = await cursor.fetchall()
            if len(found) < len(missing):
                left = await _left(connection, {each: quotas[each].subjects for each in scope}, _SUBJECTS)
                added = (*keys, *left)
                found += await _add(
                    connection, scope, queries.add_subjects, added, queries.find_subjects, keys
                )
        return {(tenant, subject): number for tenant, subject, number in found}


async def _without_type(
    connection: Connection, keys: Collection[SeriesKey], types: TypeBook
) -> set[SeriesKey]:
    """Keys whose type no longer exists, or is another one of the same name. Locks the types of the others
    against deletion until the transaction ends."""
    names, tenant_ids = {key.event_type for key in keys}, {key.tenant_id for key in keys}
    there = await event_types_store.held(connection, tenant_ids, names)
    gone = set()
    for key in keys:
        meant = types.find(key.tenant_id, key.event_type)
        owner = types.owner(key.tenant_id, key.event_type)
        if meant is None or there.get((owner, key.event_type)) != meant.since:
            gone.add(key)
    return gone


def _key_arrays(rows: Sequence[tuple[int, bytes]]) -> tuple[Any, Any]:
    """rows: tenant and digest of series"""
    digests = np.frombuffer(b"".join(digest for _, digest in rows), UUID_DTYPE)
    return int4_array(np.array([tenant for tenant, _ in rows], np.int64)), uuid_array(digests)


def _series_arrays(keys: Collection[SeriesKey]) -> tuple[Any, Any]:
    types = text_array([key.event_type for key in keys])
    return types, text_array([json.dumps(dict(key.dimensions)) for key in keys])


async def _left(connection: Connection, quotas: Mapping[int, int], column: int) -> tuple[Any, Any]:
    """What is left of the quotas of tenants, as parameters: tenants, and numbers. Locks their counts until
    the transaction ends.

    quotas: in the order of their tenants
    column: in the row of counts
    """
    tenants = list(quotas)
    # Missing rows are made before any is locked: otherwise a transaction that made one could wait for a row
    # that another has locked, while the other waits for the one that was made.
    await connection.execute(queries.begin_counts, (tenants,))
    cursor = await connection.execute(queries.hold_counts, (tenants,), binary=True)
    held = {row[0]: row[column] for row in await cursor.fetchall()}
    left = [max(0, most - held[tenant_id]) for tenant_id, most in quotas.items()]
    return int4_array(np.array(tenants)), int8_array(np.array(left))


async def _add(
    connection: Connection,
    scope: Collection[int],
    add: LiteralString,
    parameters: Sequence[Any],
    find: LiteralString,
    keys: Sequence[Any],
) -> list[Any]:
    """Adds new entries, as far as there is room, and commits; then finds all once more, since others may have
    added some in between."""
    await connection.execute(add, parameters)
    await connection.commit()
    await begin(connection, scope)
    cursor = await connection.execute(find, keys, binary=True)
    return await cursor.fetchall()


def _size_of_subject(key: Subject) -> int:
    return _ENTRY_BYTES + sys.getsizeof(key[1])


def _size_of_series(key: SeriesKey) -> int:
    texts = sum(sys.getsizeof(name) + sys.getsizeof(value) for name, value in key.dimensions)
    return _ENTRY_BYTES + _PAIR_BYTES * len(key.dimensions) + texts


def _series_key(key: SeriesKey) -> bytes:
    return series_digest(key.event_type, key.dimensions)


def series_digest(event_type: str, dimensions: DimensionSet) -> bytes:
    """A digest of 128 bits of the canonical form."""
    canonical = json.dumps([event_type, dimensions], ensure_ascii=False, separators=(",", ":"))
    return hashlib.blake2b(canonical.encode(), digest_size=16, person=b"meterline.series").digest()
