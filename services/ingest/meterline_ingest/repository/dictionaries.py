"""Numbers for series and subjects: from memory, else from their tables, else new.

New entries are committed before the events that use them. An entry without events does no harm, and this
way memory never holds a number that a rollback took back.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Final

import numpy as np
from meterline.db.arrays import int4_array, text_array, uuid_array
from meterline.db.pool import Database, begin
from meterline.db.queries import Queries
from meterline.tasks import Pace

from meterline_ingest.domain.columns import UUID_DTYPE, DimensionSet
from meterline_ingest.domain.fields import SeriesKey
from meterline_ingest.repository.memory import TwoGenerations

queries = Queries("meterline_ingest.repository", "dictionaries.sql")

# Series that are looked up in one go, in which nobody else has the loop.
PORTION: Final = 1_000

Subject = tuple[int, str]


class Dictionaries:
    """One for each process."""

    def __init__(self, database: Database, *, remembered: int = 100_000) -> None:
        self._database = database
        self._series: TwoGenerations[SeriesKey, int] = TwoGenerations(remembered)
        self._subjects: TwoGenerations[Subject, int] = TwoGenerations(remembered)

    async def series_ids(self, keys: Sequence[SeriesKey]) -> list[int]:
        """Numbers in the order of `keys`."""
        numbers: list[int] = []
        pace = Pace()
        for start in range(0, len(keys), PORTION):
            if pace.due:
                await pace.rest()
            numbers += await self._series_ids(keys[start : start + PORTION])
        return numbers

    async def _series_ids(self, keys: Sequence[SeriesKey]) -> list[int]:
        found = self._series.get_many(keys)
        missing = list(dict.fromkeys(key for key, at in zip(keys, found, strict=True) if at is None))
        numbers = await self._load_series(missing) if missing else {}
        for key, number in numbers.items():
            self._series.put(key, number)
        return [numbers[key] if at is None else at for key, at in zip(keys, found, strict=True)]

    async def subject_ids(self, keys: Sequence[Subject]) -> list[int]:
        """Numbers in the order of `keys`."""
        found = self._subjects.get_many(keys)
        missing = {key for key, number in zip(keys, found, strict=True) if number is None}
        if missing:
            numbers = await self._load_subjects(sorted(missing))
            for key, number in numbers.items():
                self._subjects.put(key, number)
            found = [
                number if number is not None else numbers[key]
                for key, number in zip(keys, found, strict=True)
            ]
        return [number for number in found if number is not None]

    async def _load_series(self, missing: Sequence[SeriesKey]) -> dict[SeriesKey, int]:
        by_digest = {(key.tenant_id, _series_key(key)): key for key in missing}
        # Sorted: two transactions that add the same entries in another order would deadlock.
        rows = sorted(by_digest)
        tenants = int4_array(np.array([tenant for tenant, _ in rows]))
        digests = uuid_array(np.frombuffer(b"".join(digest for _, digest in rows), UUID_DTYPE))
        types = text_array([by_digest[row].event_type for row in rows])
        dimensions = text_array([json.dumps(dict(by_digest[row].dimensions)) for row in rows])
        scope = {tenant for tenant, _ in rows}
        async with self._database.connection(scope) as connection:
            await connection.execute(queries.add_series, (tenants, digests, types, dimensions))
            await connection.commit()
            await begin(connection, scope)
            cursor = await connection.execute(queries.find_series, (tenants, digests), binary=True)
            found = await cursor.fetchall()
        return {by_digest[tenant, digest.bytes]: number for tenant, digest, number in found}

    async def _load_subjects(self, missing: Sequence[Subject]) -> dict[Subject, int]:
        tenants = int4_array(np.array([tenant for tenant, _ in missing]))
        subjects = text_array([subject for _, subject in missing])
        scope = {tenant for tenant, _ in missing}
        async with self._database.connection(scope) as connection:
            await connection.execute(queries.add_subjects, (tenants, subjects))
            await connection.commit()
            await begin(connection, scope)
            cursor = await connection.execute(queries.find_subjects, (tenants, subjects), binary=True)
            return {(tenant, subject): number for tenant, subject, number in await cursor.fetchall()}


def _series_key(key: SeriesKey) -> bytes:
    return series_digest(key.event_type, key.dimensions)


def series_digest(event_type: str, dimensions: DimensionSet) -> bytes:
    """128 bits over the canonical form."""
    canonical = json.dumps([event_type, dimensions], ensure_ascii=False, separators=(",", ":"))
    return hashlib.blake2b(canonical.encode(), digest_size=16, person=b"meterline.series").digest()
