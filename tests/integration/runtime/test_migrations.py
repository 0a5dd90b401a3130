"""The migration runner: once, in order, atomic, unchanged, and by one process at a time."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from meterline import migrate
from meterline.migrate import Migration, MigrationError

from tests.support.databases import TestDatabase

pytestmark = pytest.mark.req("K3")

SCHEMA = "ingest"
COMMON = [*migrate.load("meterline.db"), *migrate.load("meterline.tenants")]

FIRST = Migration("some.package", 1, "first", "CREATE TABLE things (thing_id integer PRIMARY KEY)")
SECOND = Migration("some.package", 2, "second", "ALTER TABLE things ADD COLUMN name text")


def apply(database: TestDatabase, migrations: Sequence[Migration]) -> list[str]:
    return migrate.apply(database.owner_dsn(SCHEMA), SCHEMA, migrations)


def description(database: TestDatabase) -> list[tuple[object, ...]]:
    """Everything in the schema that migrations create: relations, columns, keys, indexes, functions and
    privileges."""
    with psycopg.connect(database.admin_dsn) as connection:
        return connection.execute(
            """
            SELECT 'relation', relname, relkind::text, relacl::text FROM pg_class
              WHERE relnamespace = %(schema)s::regnamespace
            UNION ALL
            SELECT 'column', attrelid::regclass::text, attnum || ' ' || attname,
                   format_type(atttypid, atttypmod) || ' ' || attnotnull || ' ' || attstorage::text
              FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
              WHERE relnamespace = %(schema)s::regnamespace AND attnum > 0
            UNION ALL
            SELECT 'constraint', conrelid::regclass::text, conname, pg_get_constraintdef(oid)
              FROM pg_constraint WHERE connamespace = %(schema)s::regnamespace
            UNION ALL
            SELECT 'index', indrelid::regclass::text, indexrelid::regclass::text,
                   pg_get_indexdef(indexrelid)
              FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid
              WHERE relnamespace = %(schema)s::regnamespace
            UNION ALL
            SELECT 'function', proname, pg_get_functiondef(oid), proacl::text
              FROM pg_proc WHERE pronamespace = %(schema)s::regnamespace
            ORDER BY 1, 2, 3, 4
            """,
            {"schema": SCHEMA},
        ).fetchall()


def test_missing_migrations_are_applied_in_order_and_reported(empty_database: TestDatabase) -> None:
    assert apply(empty_database, [FIRST]) == ["some.package/0001_first"]
    assert apply(empty_database, [FIRST, SECOND]) == ["some.package/0002_second"]
    assert apply(empty_database, [FIRST, SECOND]) == []


def test_second_migration_run_changes_nothing(empty_database: TestDatabase) -> None:
    assert apply(empty_database, COMMON)
    before = description(empty_database)
    assert len(before) > 50
    assert apply(empty_database, COMMON) == []
    assert description(empty_database) == before


def test_migration_changed_after_application_is_refused(empty_database: TestDatabase) -> None:
    apply(empty_database, [FIRST, SECOND])
    before = description(empty_database)
    changed = replace(FIRST, body=FIRST.body + " -- harmless?")
    third = Migration("some.package", 3, "third", "DROP TABLE things")
    with pytest.raises(MigrationError, match="changed after it was applied"):
        apply(empty_database, [changed, SECOND, third])
    assert description(empty_database) == before


def test_failed_migration_is_rolled_back_and_earlier_ones_remain(
    empty_database: TestDatabase,
) -> None:
    broken = Migration("some.package", 2, "broken", "CREATE TABLE half (x integer); SELECT 1 / 0")
    with pytest.raises(psycopg.errors.DivisionByZero):
        apply(empty_database, [FIRST, broken])
    tables = {row[1] for row in description(empty_database) if row[0] == "relation"}
    assert "things" in tables
    assert "half" not in tables
    assert apply(empty_database, [FIRST, SECOND]) == ["some.package/0002_second"]


def test_concurrent_migration_runners_apply_each_migration_once(empty_database: TestDatabase) -> None:
    slow = Migration("some.package", 1, "slow", f"SELECT pg_sleep(0.2); {FIRST.body}")
    with ThreadPoolExecutor(4) as threads:
        runs = list(threads.map(lambda _: apply(empty_database, [slow, SECOND]), range(4)))
    assert sorted(runs, key=len)[:3] == [[], [], []]
    assert max(runs, key=len) == ["some.package/0001_slow", "some.package/0002_second"]


def test_migration_of_one_schema_does_not_block_another(empty_database: TestDatabase) -> None:
    with psycopg.connect(empty_database.owner_dsn("identity"), autocommit=True) as other:
        other.execute("SELECT pg_advisory_lock(hashtext('meterline.migrate.identity'))")
        assert apply(empty_database, [FIRST]) == ["some.package/0001_first"]


def test_tenant_replica_migrations_keep_their_first_recorded_name(empty_database: TestDatabase) -> None:
    """Databases of earlier releases recorded these migrations under that name: they are not applied again."""
    names = [name for name in apply(empty_database, COMMON) if not name.startswith("meterline.db/")]
    assert names[0] == "meterline.replicas/0001_tenants"
    assert all(name.startswith("meterline.replicas/") for name in names)


def test_all_services_but_identity_have_a_tenant_replica() -> None:
    assert migrate.packages("identity") == ("meterline.db", "meterline_identity")
    assert migrate.packages("ingest") == ("meterline.db", "meterline.tenants", "meterline_ingest")


@pytest.mark.parametrize(
    "names", [["0002_b.sql"], ["0001_a.sql", "0003_c.sql"], ["0001_a.sql", "0001_b.sql"]]
)
def test_gaps_in_migration_numbers_are_refused(
    names: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = f"package_{tmp_path.name}"
    folder = tmp_path / package / "migrations"
    folder.mkdir(parents=True)
    (tmp_path / package / "__init__.py").touch()
    for name in [*names, "README.md"]:
        (folder / name).write_text("SELECT 1")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(MigrationError, match="without holes"):
        migrate.load(package)
