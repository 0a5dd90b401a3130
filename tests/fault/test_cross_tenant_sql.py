"""Fault 10, in SQL: what the application's role can do to rows of tenants that its transaction is not for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

import psycopg
import pytest
from meterline.db.provision import app_role
from psycopg import sql
from psycopg.errors import InsufficientPrivilege

from tests.support.databases import TestDatabase

pytestmark = [pytest.mark.fault, pytest.mark.req("T4.1", "X7")]

Connection = psycopg.Connection[Any]

SCHEMA: Final = "ingest"
MINE, THEIRS, NOBODYS = 1, 2, 3
# Tables with a tenant_id that every transaction may read, and why.
EVERYBODYS: Final = {
    "tenants": "names and numbers of all tenants: what a caller's name means is not known before it is read",
}

WITH_TENANTS = """
SELECT c.oid::regclass::text, c.relname, c.relkind::text, c.relispartition, c.relrowsecurity,
       c.relforcerowsecurity, coalesce(c.reloptions, '{}'),
       ARRAY(SELECT polname::text FROM pg_policy WHERE polrelid = c.oid)
FROM pg_class c
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant_id' AND NOT a.attisdropped
WHERE c.relnamespace = 'ingest'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm')
ORDER BY c.relname
"""
COLUMNS = """
SELECT a.attname, t.typname FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
WHERE a.attrelid = %s::regclass AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
  AND a.attidentity = '' AND a.attnotnull AND (NOT a.atthasdef OR a.attname = 'tenant_id')
ORDER BY a.attnum
"""
# A value that fits a column of the type, different with each row.
VALUES: Final[dict[str, Callable[[int], object]]] = {
    "int2": lambda row: row,
    "int4": lambda row: row,
    "int8": lambda row: row,
    "text": lambda row: f"row {row}",
    "bool": lambda _: False,
    "uuid": lambda row: f"00000000-0000-7000-8000-{row:012d}",
    "timestamptz": lambda _: "2026-11-01T00:00:00Z",
    "jsonb": lambda _: "{}",
    "bytea": lambda _: b"",
    "interval": lambda _: "1 hour",
}


def relations(admin: Connection) -> list[tuple[Any, ...]]:
    return admin.execute(WITH_TENANTS).fetchall()


def guarded(admin: Connection) -> list[str]:
    """Tables behind the scope. Partitions are reached through the whole."""
    return [
        relname
        for _, relname, _, partition, *_ in relations(admin)
        if not partition and relname not in EVERYBODYS
    ]


def unguarded(admin: Connection) -> list[str]:
    """What has rows of tenants and shows them to everybody, unless that is explained."""
    found = []
    for _, relname, kind, partition, enabled, forced, options, policies in relations(admin):
        if kind == "v":
            safe = "security_invoker=true" in options or "security_invoker=on" in options
        else:
            safe = partition or (enabled and forced and "tenant_scope" in policies)
        if not safe and relname not in EVERYBODYS:
            found.append(relname)
    return found


def insert(connection: Connection, table: str, tenant_id: int, row: int) -> None:
    """A row with something in every column that must have it."""
    columns = connection.execute(COLUMNS, (f"{SCHEMA}.{table}",)).fetchall()
    values = [tenant_id if name == "tenant_id" else VALUES[kind](row) for name, kind in columns]
    connection.execute(
        sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(
            sql.Identifier(SCHEMA, table),
            sql.SQL(", ").join(sql.Identifier(name) for name, _ in columns),
            sql.SQL(", ").join(sql.Placeholder() * len(columns)),
        ),
        values,
    )


def insert_as_mine(app: Connection, table: str, tenant_id: int) -> None:
    """What a transaction of this tenant makes of a row of another one."""
    with app.transaction():
        app.execute("SELECT set_config('meterline.tenant_ids', %s, true)", (f"{MINE}",))
        insert(app, table, tenant_id, 7)


def without_checks(admin: Connection) -> None:
    """Rules between columns are not what rows are made up for here."""
    checks = admin.execute(
        "SELECT conrelid::regclass::text, conname FROM pg_constraint"
        " WHERE connamespace = 'ingest'::regnamespace AND contype = 'c' AND coninhcount = 0"
    ).fetchall()
    for table, name in checks:
        admin.execute(
            sql.SQL("ALTER TABLE {} DROP CONSTRAINT {}").format(sql.SQL(table), sql.Identifier(name))
        )


@pytest.fixture
def database(make_database: Callable[..., TestDatabase]) -> TestDatabase:
    return make_database(SCHEMA)


@pytest.fixture
def admin(database: TestDatabase) -> Iterator[Connection]:
    """Past row-level security. One row of two tenants in every table that has tenants."""
    with psycopg.connect(database.admin_dsn, autocommit=True) as connection:
        without_checks(connection)
        # Nor are rows that triggers make.
        connection.execute("SET session_replication_role = replica")
        for table in guarded(connection):
            for tenant_id in (MINE, THEIRS):
                insert(connection, table, tenant_id, tenant_id)
        yield connection


@pytest.fixture
def app(database: TestDatabase) -> Iterator[Connection]:
    with psycopg.connect(database.app_dsn(SCHEMA), autocommit=True) as connection:
        yield connection


def seen(app: Connection, table: str, scope: str | None) -> list[int]:
    """Tenants whose rows a transaction of this scope sees; None: one that was begun for nobody."""
    with app.transaction():
        if scope is not None:
            app.execute("SELECT set_config('meterline.tenant_ids', %s, true)", (scope,))
        rows = app.execute(sql.SQL("SELECT tenant_id FROM {} ORDER BY 1").format(sql.Identifier(table)))
        return [tenant_id for (tenant_id,) in rows.fetchall()]


def assert_kept_apart(admin: Connection, app: Connection) -> None:
    for table in guarded(admin):
        assert seen(app, table, None) == [], table
        assert seen(app, table, "") == [], table
        assert seen(app, table, f"{MINE}") == [MINE], table
        assert seen(app, table, f"{NOBODYS}") == [], table
        assert seen(app, table, f"{MINE},{THEIRS}") == [MINE, THEIRS], table
        assert seen(app, table, "*") == [MINE, THEIRS], table
        # A setting that ended leaves an empty text behind, which is not everybody.
        assert seen(app, table, None) == [], table
    assert unguarded(admin) == []


def test_a_transaction_sees_the_rows_of_its_tenants_alone(admin: Connection, app: Connection) -> None:
    assert {"events", "batches", "event_details", "legal_holds", "audit_log"} <= set(guarded(admin))
    assert_kept_apart(admin, app)


def test_a_transaction_writes_no_row_of_another_tenant(admin: Connection, app: Connection) -> None:
    def rows(table: str) -> list[tuple[Any, ...]]:
        return admin.execute(
            sql.SQL("SELECT t::text FROM {} t WHERE tenant_id = {}").format(
                sql.Identifier(SCHEMA, table), THEIRS
            )
        ).fetchall()

    for table in guarded(admin):
        before = rows(table)
        for statement in (
            "UPDATE {} SET tenant_id = tenant_id",
            "UPDATE {} SET tenant_id = 1 WHERE tenant_id = 2",
            "DELETE FROM {} WHERE tenant_id = 2",
            "TRUNCATE {}",
        ):
            with app.transaction(force_rollback=True):
                app.execute("SELECT set_config('meterline.tenant_ids', '1', true)")
                try:
                    app.execute(sql.SQL(statement).format(sql.Identifier(table)))
                except InsufficientPrivilege:
                    continue
                assert "TRUNCATE" not in statement
        for tenant_id in (THEIRS, NOBODYS):
            with pytest.raises(InsufficientPrivilege):
                insert_as_mine(app, table, tenant_id)
        assert rows(table) == before, table


def test_partitions_cannot_be_read_by_name(admin: Connection, app: Connection) -> None:
    partitions = [relname for _, relname, _, partition, *_ in relations(admin) if partition]
    assert len(partitions) >= 10
    for name in partitions:
        for statement in (
            "SELECT * FROM {}",
            "SELECT count(*) FROM {}",
            "COPY {} TO STDOUT",
            "UPDATE {} SET tenant_id = 1",
            "DELETE FROM {}",
            "TRUNCATE {}",
            "DROP TABLE {}",
        ):
            with pytest.raises(InsufficientPrivilege):
                app.execute(sql.SQL(statement).format(sql.Identifier(name)))


def test_the_application_owns_nothing_and_cannot_pass_by(admin: Connection, app: Connection) -> None:
    role = app_role(SCHEMA)
    powers = admin.execute(
        "SELECT rolsuper, rolbypassrls, rolcreaterole, rolcreatedb, rolreplication"
        " FROM pg_roles WHERE rolname = %s",
        (role,),
    ).fetchone()
    assert powers == (False, False, False, False, False)
    for nothing in (
        "SELECT d.classid FROM pg_shdepend d JOIN pg_roles r ON r.oid = d.refobjid"
        " WHERE r.rolname = %s AND d.deptype = 'o'",
        "SELECT m.roleid FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.member WHERE r.rolname = %s",
    ):
        assert admin.execute(nothing, (role,)).fetchall() == []
    for statement in (
        "ALTER TABLE events DISABLE ROW LEVEL SECURITY",
        "ALTER TABLE events NO FORCE ROW LEVEL SECURITY",
        "DROP POLICY tenant_scope ON events",
        "CREATE POLICY mine ON events USING (true)",
        "ALTER ROLE meterline_ingest BYPASSRLS",
        "SELECT protect_tenants('events')",
    ):
        with pytest.raises(InsufficientPrivilege):
            app.execute(statement)
    app.execute("SET row_security = off")
    with pytest.raises(InsufficientPrivilege, match="row-level security"):
        app.execute("SELECT * FROM events")


def test_the_owner_is_behind_the_scope_too(admin: Connection, database: TestDatabase) -> None:
    with psycopg.connect(database.owner_dsn(SCHEMA), autocommit=True) as owner:
        for table in guarded(admin):
            assert seen(owner, table, None) == []


# --- planted: each of these must be noticed


@pytest.mark.parametrize(
    "mistake",
    [
        "DROP POLICY tenant_scope ON ingest.batches",
        "ALTER TABLE ingest.subjects DISABLE ROW LEVEL SECURITY",
        "ALTER TABLE ingest.series NO FORCE ROW LEVEL SECURITY",
        "CREATE POLICY everybody ON ingest.events USING (true)",
        "CREATE VIEW ingest.report AS SELECT * FROM ingest.events;"
        " GRANT SELECT ON ingest.report TO meterline_ingest",
        "CREATE TABLE ingest.notes (tenant_id integer, note text);"
        " GRANT SELECT ON ingest.notes TO meterline_ingest",
        "ALTER ROLE meterline_ingest IN DATABASE {} SET meterline.tenant_ids = '*'",
    ],
    ids=[
        "no policy",
        "not enabled",
        "not forced",
        "a second policy",
        "a view",
        "a table",
        "a setting of the role",
    ],
)
def test_a_mistake_is_noticed(admin: Connection, database: TestDatabase, mistake: str) -> None:
    admin.execute(mistake.replace("{}", database.name))
    with (
        psycopg.connect(database.app_dsn(SCHEMA), autocommit=True) as app,
        pytest.raises((AssertionError, psycopg.errors.UndefinedTable, psycopg.errors.InsufficientPrivilege)),
    ):
        assert_kept_apart(admin, app)


def test_a_view_of_the_callers_rights_is_no_mistake(admin: Connection, app: Connection) -> None:
    admin.execute("CREATE VIEW ingest.report WITH (security_invoker = true) AS SELECT * FROM ingest.events")
    admin.execute("GRANT SELECT ON ingest.report TO meterline_ingest")
    assert_kept_apart(admin, app)
