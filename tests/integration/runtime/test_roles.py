"""No service can read or write another's schema, or change the definition of its own."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from meterline.db.provision import SERVICES, app_role, owner_role
from psycopg import sql
from psycopg.errors import InsufficientPrivilege

from tests.support import rights
from tests.support.databases import PASSWORD, Databases, TestDatabase

pytestmark = pytest.mark.req("K3", "T4.1")

Connection = psycopg.Connection[tuple[object, ...]]


@pytest.fixture
def app(mesh: TestDatabase, service: str) -> Iterator[Connection]:
    """A session of the service's application role."""
    with psycopg.connect(mesh.app_dsn(service), autocommit=True) as connection:
        yield connection


def relations(mesh: TestDatabase, *schemas: str) -> list[tuple[str, str, str]]:
    """(schema, name, kind) of every table, partition, view and sequence in `schemas`."""
    with psycopg.connect(mesh.admin_dsn) as connection:
        rows = connection.execute(
            "SELECT nspname, relname, relkind::text FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace"
            " WHERE nspname = ANY(%s) AND relkind IN ('r', 'p', 'v', 'm', 'S') ORDER BY 1, 2",
            (list(schemas),),
        ).fetchall()
    return [(schema, name, kind) for schema, name, kind in rows]


def others(service: str) -> list[str]:
    return [other for other in SERVICES if other != service]


def assert_closed(connection: Connection, mesh: TestDatabase, service: str) -> None:
    """Asserts that the role can do nothing with any relation of another service."""
    found = relations(mesh, *others(service))
    assert {schema for schema, _, _ in found} == set(others(service))
    for schema, name, _ in found:
        relation = sql.Identifier(schema, name)
        for statement in (
            "SELECT * FROM {}",
            "SELECT count(*) FROM {}",
            "INSERT INTO {} DEFAULT VALUES",
            "DELETE FROM {}",
            "TRUNCATE {}",
            "COPY {} TO STDOUT",
            "DROP TABLE {}",
            "ALTER TABLE {} ADD COLUMN spy text",
        ):
            with pytest.raises(InsufficientPrivilege):
                connection.execute(sql.SQL(statement).format(relation))


def test_application_role_cannot_access_other_services_relations(
    mesh: TestDatabase, service: str, app: Connection
) -> None:
    assert_closed(app, mesh, service)


def test_owner_role_cannot_access_other_services_relations(mesh: TestDatabase, service: str) -> None:
    with psycopg.connect(mesh.owner_dsn(service), autocommit=True) as owner:
        assert_closed(owner, mesh, service)


def test_single_open_table_is_detected(databases: Databases) -> None:
    """The planted bug: one table is granted to another service."""
    database = databases.create([(name, ("meterline.db",)) for name in SERVICES])
    with psycopg.connect(database.admin_dsn) as admin:
        admin.execute("GRANT USAGE ON SCHEMA identity TO meterline_ingest")
        admin.execute("GRANT SELECT ON identity.dead_letters TO meterline_ingest")
    with (
        psycopg.connect(database.app_dsn("ingest"), autocommit=True) as app,
        pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"),
    ):
        assert_closed(app, database, "ingest")
    databases.release(database)


def test_application_role_cannot_call_other_services_functions(app: Connection, service: str) -> None:
    for other in others(service):
        for call in ("{}.maintain_messaging('1 day')", "{}.uuid_floor(now())"):
            with pytest.raises(InsufficientPrivilege):
                app.execute(sql.SQL(f"SELECT {call}").format(sql.Identifier(other)))


def test_application_role_reads_only_granted_tables(
    mesh: TestDatabase, service: str, app: Connection
) -> None:
    readable = {name for name, granted in rights.stated(service).items() if "SELECT" in granted}
    own = {name for _, name, kind in relations(mesh, service) if kind != "S"}
    assert {"outbox", "inbox", "dead_letters"} <= readable <= own
    for name in own:
        statement = sql.SQL("SELECT * FROM {} LIMIT 1").format(sql.Identifier(name))
        if name in readable:
            app.execute(statement)
        else:
            with pytest.raises(InsufficientPrivilege):
                app.execute(statement)
    app.execute("SELECT maintain_messaging('7 days')")


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE {own}.mine (x integer)",
        "CREATE TABLE public.mine (x integer)",
        "CREATE TABLE pg_catalog.mine (x integer)",
        "CREATE TEMPORARY TABLE mine (x integer)",
        "CREATE SCHEMA mine",
        "CREATE FUNCTION {own}.mine() RETURNS integer LANGUAGE sql AS 'SELECT 1'",
        "CREATE VIEW {own}.mine AS SELECT * FROM {own}.outbox",
        "CREATE INDEX ON {own}.outbox (subject)",
        "ALTER TABLE {own}.outbox ADD COLUMN mine text",
        "ALTER TABLE {own}.outbox DISABLE TRIGGER ALL",
        "DROP TABLE {own}.outbox",
        "TRUNCATE {own}.outbox",
        "DROP SCHEMA {own} CASCADE",
        "CREATE ROLE mine",
        "ALTER ROLE {owner} PASSWORD 'mine'",
        "SET ROLE {owner}",
        "SET ROLE {other_owner}",
        "SET ROLE {other}",
        "SET SESSION AUTHORIZATION {owner}",
        "CREATE DATABASE mine",
        "CREATE EXTENSION pg_stat_statements",
        "ALTER SYSTEM SET fsync = off",
        "UPDATE pg_catalog.pg_class SET relname = relname",
        "DELETE FROM pg_catalog.pg_proc",
        "SELECT rolpassword FROM pg_catalog.pg_authid",
        "SELECT pg_read_file('/etc/passwd')",
        "SELECT lo_import('/etc/passwd')",
        "COPY (SELECT 1) TO PROGRAM 'cat'",
        "COPY {own}.dead_letters FROM '/etc/passwd'",
    ],
)
def test_application_role_can_change_only_rows(service: str, app: Connection, statement: str) -> None:
    (other, *_) = others(service)
    names = {
        "own": service,
        "owner": owner_role(service),
        "other": app_role(other),
        "other_owner": owner_role(other),
    }
    composed = sql.SQL(statement).format(**{key: sql.Identifier(name) for key, name in names.items()})
    with pytest.raises(InsufficientPrivilege):
        app.execute(composed)


def test_application_role_cannot_grant_its_privileges(
    mesh: TestDatabase, service: str, app: Connection
) -> None:
    app.execute(sql.SQL("GRANT SELECT ON {}.outbox TO PUBLIC").format(sql.Identifier(service)))  # only warns
    with psycopg.connect(mesh.admin_dsn) as admin:
        rows = admin.execute(
            "SELECT grantee FROM information_schema.table_privileges"
            " WHERE table_schema = %s AND grantee NOT LIKE 'meterline%%'",
            (service,),
        ).fetchall()
    assert rows == []


def test_no_role_has_server_privileges(mesh: TestDatabase) -> None:
    with psycopg.connect(mesh.admin_dsn) as connection:
        rows = connection.execute(
            "SELECT rolname FROM pg_roles WHERE rolname LIKE 'meterline%' AND (rolsuper OR rolcreaterole"
            " OR rolcreatedb OR rolreplication OR rolbypassrls)"
        ).fetchall()
        members = connection.execute(
            "SELECT member::regrole::text FROM pg_auth_members WHERE member::regrole::text LIKE 'meterline%'"
        ).fetchall()
    assert (rows, members) == ([], [])


def test_unknown_role_cannot_connect(mesh: TestDatabase) -> None:
    with psycopg.connect(mesh.admin_dsn, autocommit=True) as admin:
        admin.execute(f"CREATE ROLE stranger LOGIN PASSWORD '{PASSWORD}'")
        try:
            with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
                psycopg.connect(mesh.server.dsn(mesh.name, "stranger", PASSWORD))
        finally:
            admin.execute("DROP ROLE stranger")


def test_repeated_provisioning_changes_no_privilege(mesh: TestDatabase) -> None:
    def rights() -> list[tuple[object, ...]]:
        with psycopg.connect(mesh.admin_dsn) as connection:
            return connection.execute(
                "SELECT 'schema', nspname, nspacl::text FROM pg_namespace WHERE nspname = ANY(%(services)s)"
                " UNION ALL SELECT 'database', datname, datacl::text FROM pg_database"
                " WHERE datname = current_database()"
                " UNION ALL SELECT 'default', defaclrole::regrole || defaclobjtype::text, defaclacl::text"
                " FROM pg_default_acl"
                " UNION ALL SELECT 'setting', setrole::regrole::text, setconfig::text FROM pg_db_role_setting"
                " JOIN pg_database d ON d.oid = setdatabase WHERE datname = current_database()"
                " ORDER BY 1, 2, 3",
                {"services": list(SERVICES)},
            ).fetchall()

    before = rights()
    assert len(before) > 3 * len(SERVICES)
    mesh.provision()
    assert rights() == before
