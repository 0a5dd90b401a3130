"""Fault 10, in SQL: the application role cannot reach rows outside the tenants of its transaction.

The tables are found in the catalogue, in the schemas of all services, so that new ones are included.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

import psycopg
import pytest
from meterline.db.provision import SERVICES, app_role
from psycopg import sql
from psycopg.errors import GeneratedAlways, InsufficientPrivilege

from tests.support import rights
from tests.support.databases import TestDatabase

pytestmark = [pytest.mark.fault, pytest.mark.req("T4.1", "X7")]

Connection = psycopg.Connection[Any]

MINE, THEIRS, NOBODYS = 1, 2, 3

WITH_TENANTS = """
SELECT c.oid::regclass::text, c.relname, c.relkind::text, c.relispartition, c.relrowsecurity,
       c.relforcerowsecurity, coalesce(c.reloptions, '{}'),
       ARRAY(SELECT polname::text FROM pg_policy WHERE polrelid = c.oid)
FROM pg_class c
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant_id' AND NOT a.attisdropped
WHERE c.relnamespace = %s::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm')
ORDER BY c.relname
"""
COLUMNS = """
SELECT a.attname, t.typname FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
WHERE a.attrelid = %s::regclass AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
  AND (a.attname = 'tenant_id' OR a.attidentity = '' AND a.attnotnull AND NOT a.atthasdef)
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
    "timestamptz": lambda row: f"2026-11-{row:02d}T00:00:00Z",
    "numeric": lambda row: row,
    "json": lambda _: "{}",
    "jsonb": lambda _: "{}",
    "_text": lambda _: ["one"],
    "bytea": lambda _: b"",
    "interval": lambda _: "1 hour",
}


def relations(admin: Connection, schema: str) -> list[tuple[Any, ...]]:
    return admin.execute(WITH_TENANTS, (schema,)).fetchall()


def guarded(admin: Connection, schema: str) -> list[str]:
    """Tables with row-level security. Partitions are reached through their parent."""
    return [relname for _, relname, _, partition, *_ in relations(admin, schema) if not partition]


def unguarded(admin: Connection, schema: str) -> list[str]:
    """Relations with rows of tenants but without row-level security."""
    found = []
    for _, relname, kind, partition, enabled, forced, options, policies in relations(admin, schema):
        if kind == "v":
            safe = "security_invoker=true" in options or "security_invoker=on" in options
        else:
            safe = partition or (enabled and forced and "tenant_scope" in policies)
        if not safe:
            found.append(relname)
    return found


def insert(connection: Connection, schema: str, table: str, tenant_id: int, row: int) -> None:
    """A statement that inserts a row with a value in every required column."""
    columns = connection.execute(COLUMNS, (f"{schema}.{table}",)).fetchall()
    values = [tenant_id if name == "tenant_id" else VALUES[kind](row) for name, kind in columns]
    connection.execute(
        sql.SQL("INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE VALUES ({})").format(
            sql.Identifier(schema, table),
            sql.SQL(", ").join(sql.Identifier(name) for name, _ in columns),
            sql.SQL(", ").join(sql.Placeholder() * len(columns)),
        ),
        values,
    )


def insert_as_mine(app: Connection, schema: str, table: str, tenant_id: int) -> None:
    """The result of inserting another tenant's row in a transaction of this tenant."""
    with app.transaction():
        app.execute("SELECT set_config('meterline.tenant_ids', %s, true)", (f"{MINE}",))
        insert(app, schema, table, tenant_id, 3)


def without_checks(admin: Connection, schema: str) -> None:
    """Drops check constraints, which the made-up rows would violate."""
    checks = admin.execute(
        "SELECT conrelid::regclass::text, conname FROM pg_constraint"
        " WHERE connamespace = %s::regnamespace AND contype = 'c' AND coninhcount = 0",
        (schema,),
    ).fetchall()
    for table, name in checks:
        admin.execute(
            sql.SQL("ALTER TABLE {} DROP CONSTRAINT {}").format(sql.SQL(table), sql.Identifier(name))
        )


@pytest.fixture(params=SERVICES)
def schema(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def database(make_database: Callable[..., TestDatabase], schema: str) -> TestDatabase:
    return make_database(schema)


@pytest.fixture
def admin(database: TestDatabase, schema: str) -> Iterator[Connection]:
    """A connection without row-level security, to tables with a row of each of two tenants."""
    with psycopg.connect(database.admin_dsn, autocommit=True) as connection:
        without_checks(connection, schema)
        # Triggers and foreign keys are disabled too.
        connection.execute("SET session_replication_role = replica")
        for table in guarded(connection, schema):
            for tenant_id in (MINE, THEIRS):
                insert(connection, schema, table, tenant_id, tenant_id)
        yield connection


@pytest.fixture
def app(database: TestDatabase, schema: str) -> Iterator[Connection]:
    with psycopg.connect(database.app_dsn(schema), autocommit=True) as connection:
        yield connection


def seen(app: Connection, table: str, scope: str | None) -> list[int]:
    """Tenants whose rows a transaction of this scope sees; None: a transaction without a scope."""
    with app.transaction():
        if scope is not None:
            app.execute("SELECT set_config('meterline.tenant_ids', %s, true)", (scope,))
        rows = app.execute(sql.SQL("SELECT tenant_id FROM {} ORDER BY 1").format(sql.Identifier(table)))
        return [tenant_id for (tenant_id,) in rows.fetchall()]


def assert_kept_apart(admin: Connection, app: Connection, schema: str) -> None:
    stated = rights.stated(schema)
    for table in guarded(admin, schema):
        if table in stated and "SELECT" not in stated[table]:
            with pytest.raises(InsufficientPrivilege):
                seen(app, table, "*")
            continue
        assert seen(app, table, None) == [], table
        assert seen(app, table, "") == [], table
        assert seen(app, table, f"{MINE}") == [MINE], table
        assert seen(app, table, f"{NOBODYS}") == [], table
        assert seen(app, table, f"{MINE},{THEIRS}") == [MINE, THEIRS], table
        assert seen(app, table, "*") == [MINE, THEIRS], table
        # A setting that has ended leaves an empty text, which must not mean all tenants.
        assert seen(app, table, None) == [], table
    assert unguarded(admin, schema) == []


def test_transaction_sees_only_rows_of_its_tenants(admin: Connection, app: Connection, schema: str) -> None:
    known = {
        "ingest": {"events", "batches", "event_details", "legal_holds", "audit_log", "tenants"},
        "identity": {"api_keys", "signing_keys", "tenant_accounts"},
        "aggregate": {"windows", "window_members", "contributions", "tenant_totals", "tenants"},
        "publisher": {"invoices", "invoice_lines", "calculations", "publications", "usage", "tenants"},
    }
    assert known[schema] <= set(guarded(admin, schema))
    assert_kept_apart(admin, app, schema)


def changes(schema: str, table: str) -> Iterator[str]:
    """Statements that change every row that the application can reach, for each right that it has."""
    for right in rights.stated(schema)[table]:
        if right.startswith("UPDATE"):
            column = right.removeprefix("UPDATE (").removesuffix(")")
            yield f"UPDATE {{}} SET {column} = {column}"
        elif right == "DELETE":
            yield "DELETE FROM {}"


def test_transaction_changes_no_row_of_another_tenant(
    admin: Connection, app: Connection, schema: str
) -> None:
    def touched(statement: str, scope: int) -> int:
        with app.transaction(force_rollback=True):
            app.execute("SELECT set_config('meterline.tenant_ids', %s, true)", (f"{scope}",))
            return app.execute(sql.SQL(statement).format(sql.Identifier(table))).rowcount

    tried = 0
    for table in guarded(admin, schema):
        for statement in changes(schema, table):
            tried += 1
            assert touched(statement, MINE) == 1, (table, statement)
            assert touched(f"{statement} WHERE tenant_id = {THEIRS}", MINE) == 0, (table, statement)
            assert touched(statement, NOBODYS) == 0, (table, statement)
    assert tried > 5


def test_transaction_inserts_no_row_of_another_tenant(
    admin: Connection, app: Connection, schema: str
) -> None:
    for table in guarded(admin, schema):
        for tenant_id in (THEIRS, NOBODYS):
            with pytest.raises(InsufficientPrivilege, match="row-level security"):
                insert_as_mine(app, schema, table, tenant_id)


def test_no_row_can_be_moved_to_another_tenant(admin: Connection, app: Connection, schema: str) -> None:
    for table in guarded(admin, schema):
        for statement in ("UPDATE {} SET tenant_id = 2", "TRUNCATE {}"):
            with app.transaction(force_rollback=True):
                app.execute("SELECT set_config('meterline.tenant_ids', '*', true)")
                with pytest.raises(
                    (InsufficientPrivilege, GeneratedAlways),
                    match=r"permission denied|only be updated to DEFAULT",
                ):
                    app.execute(sql.SQL(statement).format(sql.Identifier(table)))


def test_partitions_cannot_be_read_by_name(admin: Connection, app: Connection, schema: str) -> None:
    partitions = [relname for _, relname, _, partition, *_ in relations(admin, schema) if partition]
    assert len(partitions) >= {"ingest": 10, "aggregate": 8}.get(schema, 0)
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


def test_application_role_owns_nothing_and_cannot_bypass_row_security(
    admin: Connection, app: Connection, schema: str
) -> None:
    role = app_role(schema)
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
    table = guarded(admin, schema)[0]
    for statement in (
        "ALTER TABLE {} DISABLE ROW LEVEL SECURITY",
        "ALTER TABLE {} NO FORCE ROW LEVEL SECURITY",
        "DROP POLICY tenant_scope ON {}",
        "CREATE POLICY mine ON {} USING (true)",
    ):
        with pytest.raises(InsufficientPrivilege):
            app.execute(sql.SQL(statement).format(sql.Identifier(table)))
    for call in (
        f"ALTER ROLE {role} BYPASSRLS",
        f"SELECT protect_tenants('{table}')",
        f"SELECT grant_rights('{table}', 'SELECT')",
        f"SELECT take_rights('{table}', 'SELECT')",
    ):
        with pytest.raises(InsufficientPrivilege):
            app.execute(call.encode())
    app.execute("SET row_security = off")
    with pytest.raises(InsufficientPrivilege, match="row-level security"):
        app.execute(sql.SQL("SELECT * FROM {}").format(sql.Identifier(table)))


def test_row_security_applies_to_the_table_owner(
    admin: Connection, database: TestDatabase, schema: str
) -> None:
    with psycopg.connect(database.owner_dsn(schema), autocommit=True) as owner:
        for table in guarded(admin, schema):
            assert seen(owner, table, None) == []


# --- planted bugs, each of which must be caught


@pytest.mark.parametrize(
    ("schema", "mistake"),
    [
        ("ingest", "DROP POLICY tenant_scope ON ingest.batches"),
        ("aggregate", "ALTER TABLE aggregate.windows DISABLE ROW LEVEL SECURITY"),
        ("publisher", "ALTER TABLE publisher.calculations NO FORCE ROW LEVEL SECURITY"),
        ("publisher", "CREATE POLICY everybody ON publisher.invoices USING (true)"),
        (
            "ingest",
            "CREATE VIEW ingest.report AS SELECT * FROM ingest.events;"
            " GRANT SELECT ON ingest.report TO meterline_ingest",
        ),
        (
            "identity",
            "CREATE TABLE identity.notes (tenant_id integer, note text);"
            " GRANT SELECT ON identity.notes TO meterline_identity",
        ),
        ("aggregate", "ALTER ROLE meterline_aggregate IN DATABASE {} SET meterline.tenant_ids = '*'"),
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
def test_missing_row_security_is_caught(
    admin: Connection, database: TestDatabase, schema: str, mistake: str
) -> None:
    admin.execute(mistake.replace("{}", database.name).encode())
    with (
        psycopg.connect(database.app_dsn(schema), autocommit=True) as app,
        pytest.raises((AssertionError, psycopg.errors.UndefinedTable, psycopg.errors.InsufficientPrivilege)),
    ):
        assert_kept_apart(admin, app, schema)


@pytest.mark.parametrize("schema", ["publisher"])
def test_policy_that_permits_writes_is_caught(admin: Connection, app: Connection, schema: str) -> None:
    admin.execute("CREATE POLICY careless ON publisher.invoices USING (true)")
    with pytest.raises(AssertionError):
        test_transaction_changes_no_row_of_another_tenant(admin, app, schema)
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        test_transaction_inserts_no_row_of_another_tenant(admin, app, schema)


@pytest.mark.parametrize("schema", ["ingest"])
def test_view_with_the_callers_rights_is_accepted(admin: Connection, app: Connection, schema: str) -> None:
    admin.execute("CREATE VIEW ingest.report WITH (security_invoker = true) AS SELECT * FROM ingest.events")
    admin.execute("GRANT SELECT ON ingest.report TO meterline_ingest")
    assert_kept_apart(admin, app, schema)
