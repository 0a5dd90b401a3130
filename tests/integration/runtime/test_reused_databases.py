"""A test's database is reused only if the test left nothing in it."""

from __future__ import annotations

from typing import Any, LiteralString

import psycopg
import pytest
from meterline import migrate
from psycopg import sql

from tests.support.databases import Databases, TestDatabase

pytestmark = pytest.mark.req("T8.3")

SCHEMAS = [("ingest", migrate.packages("ingest"))]

CHANGES: list[LiteralString] = [
    "CREATE TABLE ingest.notes (note text)",
    "DROP TABLE ingest.outbox CASCADE",
    "ALTER TABLE ingest.batches ADD COLUMN note text",
    "ALTER TABLE ingest.batches DISABLE ROW LEVEL SECURITY",
    "ALTER TABLE ingest.batches DISABLE TRIGGER USER; DROP POLICY tenant_scope ON ingest.batches",
    "GRANT SELECT ON ingest.batches TO PUBLIC",
    "GRANT SELECT (batch_id) ON ingest.batches TO meterline_publisher",
    "GRANT USAGE ON SCHEMA ingest TO meterline_identity",
    "ALTER DEFAULT PRIVILEGES IN SCHEMA ingest GRANT SELECT ON TABLES TO PUBLIC",
    "CREATE FUNCTION ingest.f() RETURNS integer LANGUAGE sql AS 'SELECT 1'",
    "CREATE SCHEMA mine",
    "ALTER ROLE meterline_ingest CREATEDB",
    "GRANT meterline_ingest_owner TO meterline_ingest",
]
UNDO: dict[LiteralString, LiteralString] = {
    "ALTER ROLE meterline_ingest CREATEDB": "ALTER ROLE meterline_ingest NOCREATEDB",
    "GRANT meterline_ingest_owner TO meterline_ingest": "REVOKE meterline_ingest_owner FROM meterline_ingest",
}


def run(database: TestDatabase, *statements: LiteralString) -> list[tuple[Any, ...]]:
    with psycopg.connect(database.admin_dsn, autocommit=True) as admin:
        cursor = admin.cursor()
        for statement in statements:
            cursor.execute(statement)
        return cursor.fetchall() if cursor.description else []


def counts(database: TestDatabase) -> dict[str, int]:
    """Rows of each table."""
    tables = run(
        database,
        "SELECT oid::regclass::text FROM pg_class WHERE relkind IN ('r', 'p')"
        " AND relnamespace::regnamespace::text = 'ingest'",
    )
    with psycopg.connect(database.admin_dsn) as admin:
        return {
            name: admin.execute(sql.SQL("SELECT count(*) FROM {}").format(sql.SQL(name))).fetchall()[0][0]
            for (name,) in tables
        }


def test_released_database_has_no_rows_partitions_or_sessions_left(databases: Databases) -> None:
    first = databases.create(SCHEMAS)
    fresh = counts(first)
    session = psycopg.connect(first.app_dsn("ingest"))
    run(
        first,
        "CREATE TABLE ingest.events_209901 PARTITION OF ingest.events"
        " FOR VALUES FROM ('03b00000-0000-0000-0000-000000000000')"
        " TO ('03b10000-0000-0000-0000-000000000000')",
        "INSERT INTO ingest.tenants (tenant_id, slug, version, time_zone, currency, plan,"
        " external_customer_id, external_subscription_id, active, close_lead, changed_at)"
        " VALUES (1, 'acme', 1, 'UTC', 'USD', '', '', '', true, '1 day', now())",
        "SELECT nextval('ingest.batch_numbers')",
        "ANALYZE ingest.tenants",
    )
    assert counts(first) != fresh
    databases.release(first)
    again = databases.create(SCHEMAS)
    assert again == first
    assert counts(again) == fresh
    assert run(again, "SELECT nextval('ingest.batch_numbers')") == [(1,)]
    assert run(again, "SELECT 1 FROM pg_stats WHERE tablename = 'tenants' AND schemaname = 'ingest'") == []
    with pytest.raises(psycopg.OperationalError):
        session.execute("SELECT 1")
    databases.release(again)


@pytest.mark.parametrize("change", CHANGES)
def test_changed_database_is_not_reused(databases: Databases, change: LiteralString) -> None:
    database = databases.create(SCHEMAS)
    run(database, change)
    databases.release(database)
    if change in UNDO:
        with psycopg.connect(database.server.dsn()) as admin:
            admin.execute(UNDO[change])
    following = databases.create(SCHEMAS)
    assert following != database
    databases.release(following)
