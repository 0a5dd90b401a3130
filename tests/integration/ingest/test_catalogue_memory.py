"""Capture's cache of catalogue entries is limited in bytes, for entries of any size.

The clock is fixed, so that no entry expires.
"""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import AsyncIterator, Sequence

import psycopg
import pytest
from meterline.db.pool import Database
from meterline_ingest.catalogue.store import CatalogueReader, size_of
from meterline_ingest.event_types.rules.enrichment import Entry, EntryKey

from tests.support.databases import TestDatabase

pytestmark = pytest.mark.req("T2.4", "O2")

MEMORY = 1 << 20
# The largest entry that the API accepts: 32 attributes of 256 characters, of four bytes each.
LARGE = {f"{at:064}": "\N{GRINNING FACE}" * 256 for at in range(32)}


@pytest.fixture
async def pool(database: TestDatabase) -> AsyncIterator[Database]:
    made = Database(database.app_dsn("ingest"), size=2, application_name="test")
    await made.start()
    yield made
    await made.stop()


def keys(count: int) -> list[EntryKey]:
    return [EntryKey(1, "products", f"p{at:03}") for at in range(count)]


def put(database: TestDatabase, wanted: Sequence[EntryKey]) -> None:
    with psycopg.connect(database.admin_dsn) as connection:
        connection.cursor().executemany(
            "INSERT INTO ingest.catalogue_entries (tenant_id, namespace, key, version, attributes)"
            " VALUES (%s, %s, %s, 1, %s)",
            [(key.tenant_id, key.namespace, key.key, json.dumps(LARGE)) for key in wanted],
        )


async def test_cache_of_large_entries_stays_within_its_limit(database: TestDatabase, pool: Database) -> None:
    wanted = keys(200)
    put(database, wanted)
    reader = CatalogueReader(pool, memory_bytes=MEMORY, now=lambda: 1.0)
    await reader.find([EntryKey(1, "products", "none")])
    tracemalloc.start()
    try:
        for key in wanted:
            found = await reader.find([key])
            assert found == {key: Entry(1, LARGE)}
        del found
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # The entries together have 8 MiB.
    assert MEMORY / 2 < held < MEMORY * 3 / 2
    assert 200 * size_of(wanted[0], Entry(1, LARGE)) > 6 * MEMORY


async def test_cached_entry_is_not_looked_up_again(database: TestDatabase, pool: Database) -> None:
    wanted = keys(200)
    put(database, wanted)
    reader = CatalogueReader(pool, memory_bytes=MEMORY, now=lambda: 1.0)
    for key in wanted:
        await reader.find([key])
    with psycopg.connect(database.admin_dsn) as connection:
        connection.execute("DELETE FROM ingest.catalogue_entries")
    newest, oldest = wanted[-1], wanted[0]
    assert await reader.find([newest, oldest]) == {newest: Entry(1, LARGE), oldest: None}


async def test_cache_of_missing_keys_is_limited_too(database: TestDatabase, pool: Database) -> None:
    reader = CatalogueReader(pool, memory_bytes=MEMORY, now=lambda: 1.0)
    absent = [EntryKey(1, "products", f"{at:0256}") for at in range(2_000)]
    assert set((await reader.find(absent)).values()) == {None}
    put(database, absent[:1] + absent[-1:])
    assert await reader.find([absent[0], absent[-1]]) == {absent[0]: Entry(1, LARGE), absent[-1]: None}
