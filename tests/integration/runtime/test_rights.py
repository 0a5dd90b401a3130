"""Application roles have exactly the stated privileges, in new and in upgraded databases."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import psycopg
import pytest
from meterline import migrate
from meterline.db.provision import SERVICES, app_role, owner_role
from psycopg import sql
from psycopg.errors import InsufficientPrivilege

from tests.support import rights
from tests.support.databases import TestDatabase

pytestmark = pytest.mark.req("T4.1")

# The last migrations under default privileges, which granted everything on every new table.
BEFORE: Final = {
    "meterline.db": 4,
    "meterline.replicas": 1,
    "meterline_ingest": 12,
    "meterline_identity": 2,
    "meterline_aggregate": 4,
    "meterline_publisher": 1,
}
DEFAULTS: Final = """
SELECT defaclrole::regrole::text, defaclobjtype::text, defaclacl::text FROM pg_default_acl
"""
UNPROTECTED: Final = """
SELECT c.relname, parent.relname, a.attname IS NOT NULL,
       c.relrowsecurity AND c.relforcerowsecurity
       AND ARRAY(SELECT polname::text FROM pg_policy WHERE polrelid = c.oid) = '{tenant_scope}'
FROM pg_class c
LEFT JOIN pg_inherits i ON i.inhrelid = c.oid
LEFT JOIN pg_class parent ON parent.oid = i.inhparent
LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant_id' AND NOT a.attisdropped
WHERE c.relnamespace = %s::regnamespace AND c.relkind IN ('r', 'p', 'm', 'f')
"""


def assert_as_stated(database: TestDatabase, service: str) -> None:
    found = rights.real(database.admin_dsn, service)
    stated = rights.stated(service)
    assert {name: sorted(some) for name, some in found.items()} == {
        name: sorted(some) for name, some in stated.items()
    }
    others = rights.STATED[service]["others"]
    assert rights.sequences(database.admin_dsn, service) == others["sequences"]
    assert rights.definers(database.admin_dsn, service) == others["definers"]


def test_application_privileges_equal_the_stated_ones(mesh: TestDatabase, service: str) -> None:
    assert_as_stated(mesh, service)


def of_an_earlier_version(database: TestDatabase, service: str) -> None:
    """Creates a service's schema of the versions in which default privileges granted everything."""
    with psycopg.connect(database.admin_dsn, autocommit=True) as admin:
        for given in (
            "SELECT, INSERT, UPDATE, DELETE ON TABLES",
            "USAGE ON SEQUENCES",
            "EXECUTE ON FUNCTIONS",
        ):
            admin.execute(
                sql.SQL("ALTER DEFAULT PRIVILEGES FOR ROLE {} IN SCHEMA {} GRANT {} TO {}").format(
                    sql.Identifier(owner_role(service)),
                    sql.Identifier(service),
                    sql.SQL(given),
                    sql.Identifier(app_role(service)),
                )
            )
    old = [one for one in migrate.for_service(service) if one.number <= BEFORE[one.package]]
    migrate.apply(database.owner_dsn(service), service, old)


def upgrade(database: TestDatabase, service: str) -> None:
    migrate.apply(database.owner_dsn(service), service, migrate.for_service(service))


@pytest.mark.parametrize("provisioned", ["before", "after", "never"])
def test_upgraded_database_has_privileges_of_a_new_one(
    empty_database: TestDatabase, service: str, provisioned: str
) -> None:
    of_an_earlier_version(empty_database, service)
    assert "UPDATE" in rights.real(empty_database.admin_dsn, service)["inbox"]
    if provisioned == "before":
        empty_database.provision()
    upgrade(empty_database, service)
    if provisioned == "after":
        empty_database.provision()
    assert_as_stated(empty_database, service)
    with psycopg.connect(empty_database.admin_dsn) as admin:
        assert admin.execute(DEFAULTS).fetchall() == []


def test_later_partitions_grant_no_further_privileges(make_database: Callable[..., TestDatabase]) -> None:
    database = make_database("ingest")
    with psycopg.connect(database.admin_dsn, autocommit=True) as admin:
        made = admin.execute(
            "SELECT inhrelid::regclass::text FROM pg_inherits"
            " WHERE inhrelid::regclass::text ~ '^ingest\\.(events|event_details|outbox|inbox)_\\d+$'"
        ).fetchall()
        assert len(made) >= 14
        for (name,) in made:
            admin.execute(sql.SQL("DROP TABLE {}").format(sql.SQL(name)))
    with psycopg.connect(database.app_dsn("ingest"), autocommit=True) as app:
        again = app.execute("SELECT * FROM make_event_months()").fetchall()
        app.execute("SELECT maintain_messaging('7 days')")
        assert len(again) == 8
    assert_as_stated(database, "ingest")


def test_every_table_with_tenants_has_row_level_security(mesh: TestDatabase, service: str) -> None:
    assert unprotected(mesh, service) == []


def unprotected(database: TestDatabase, service: str) -> list[str]:
    """Tables without a tenant and without a stated reason; tables with a tenant that lack the policy."""
    with psycopg.connect(database.admin_dsn) as admin:
        rows = admin.execute(UNPROTECTED, (service,)).fetchall()
    found = []
    for name, parent, has_tenant, protected in rows:
        if has_tenant:
            explained = parent is not None and f"{parent}_*" in rights.STATED["without_policy"]
        else:
            explained = (parent or name) in rights.STATED["without_tenant"]
            protected = False
        if not protected and not explained:
            found.append(name)
    return sorted(found)


def test_every_stated_exception_names_an_existing_table(mesh: TestDatabase) -> None:
    names: set[str] = set()
    with psycopg.connect(mesh.admin_dsn) as admin:
        for service in SERVICES:
            rows = admin.execute(UNPROTECTED, (service,)).fetchall()
            names |= {name if parent is None else f"{parent}_*" for name, parent, *_ in rows}
    reasons: dict[str, Any] = {**rights.STATED["without_tenant"], **rights.STATED["without_policy"]}
    assert {name for name in reasons if name not in names} == set()


# Statements that would change recorded history.
@pytest.mark.parametrize(
    ("service", "statement"),
    [
        ("ingest", "UPDATE events SET quantity_1 = 0"),
        ("ingest", "DELETE FROM events"),
        ("ingest", "UPDATE events_rest SET quantity_1 = 0"),
        ("ingest", "DELETE FROM events_rest"),
        ("ingest", "SELECT FROM events_rest"),
        ("ingest", "UPDATE event_details SET body_digest = body_digest"),
        ("ingest", "DELETE FROM event_details"),
        ("ingest", "UPDATE batches SET event_count = 0"),
        ("ingest", "UPDATE audit_log SET principal = ''"),
        ("ingest", "DELETE FROM audit_log"),
        ("ingest", "DELETE FROM data_keys"),
        ("ingest", "UPDATE corrections SET old = '{}'"),
        ("ingest", "SELECT setval('batch_numbers', 1)"),
        ("identity", "UPDATE api_keys SET secret_digest = ''"),
        ("identity", "UPDATE api_keys SET permissions = '{admin}'"),
        ("identity", "UPDATE api_keys SET tenant_id = NULL"),
        ("identity", "DELETE FROM api_keys"),
        ("identity", "UPDATE signing_keys SET key_id = ''"),
        ("identity", "UPDATE tenant_accounts SET slug = 'x'"),
        ("identity", "DELETE FROM tenant_accounts"),
        ("aggregate", "UPDATE contributions SET event_count = 0"),
        ("aggregate", "DELETE FROM contributions"),
        ("aggregate", "DELETE FROM windows"),
        ("aggregate", "SELECT FROM windows_month"),
        ("aggregate", "UPDATE meters SET filter = '{}'"),
        ("publisher", "UPDATE calculations SET output = ''"),
        ("publisher", "DELETE FROM calculations"),
        ("publisher", "UPDATE prices SET body = ''"),
        ("publisher", "DELETE FROM prices"),
        ("publisher", "UPDATE rule_sets SET rules = '[]'"),
        ("publisher", "UPDATE publications SET value = 0"),
        ("publisher", "DELETE FROM publications"),
        ("publisher", "DELETE FROM invoices"),
        ("publisher", "UPDATE invoices SET currency = ''"),
    ],
)
def test_application_cannot_change_history(mesh: TestDatabase, service: str, statement: str) -> None:
    with psycopg.connect(mesh.app_dsn(service), autocommit=True) as app:
        app.execute("SELECT set_config('meterline.tenant_ids', '*', false)")
        with pytest.raises(InsufficientPrivilege, match="permission denied"):
            app.execute(statement.encode())


# --- planted bugs, each of which must be detected


@pytest.mark.parametrize(
    "mistake",
    [
        "GRANT DELETE ON ingest.events TO meterline_ingest",
        "GRANT UPDATE (occurred_at) ON ingest.events TO meterline_ingest",
        "GRANT SELECT ON ingest.events_rest TO meterline_ingest",
        "GRANT SELECT ON ingest.batches TO PUBLIC",
        "GRANT SELECT ON ingest.batches TO meterline_publisher",
        "GRANT UPDATE ON SEQUENCE ingest.batch_numbers TO meterline_ingest WITH GRANT OPTION;"
        " GRANT USAGE ON SEQUENCE ingest.limit_changes_change_seq TO meterline_ingest",
        "GRANT EXECUTE ON FUNCTION ingest.grant_rights(regclass, text) TO meterline_ingest",
        "CREATE TABLE ingest.notes (tenant_id integer); GRANT SELECT ON ingest.notes TO meterline_ingest",
    ],
)
def test_unstated_privilege_is_detected(make_database: Callable[..., TestDatabase], mistake: str) -> None:
    database = make_database("ingest")
    assert_as_stated(database, "ingest")
    with psycopg.connect(database.admin_dsn, autocommit=True) as admin:
        admin.execute(mistake.encode())
    with pytest.raises(AssertionError):
        assert_as_stated(database, "ingest")


@pytest.mark.parametrize(
    "mistake",
    [
        "CREATE TABLE publisher.notes (tenant_id integer)",
        "CREATE TABLE publisher.notes (note text)",
        "ALTER TABLE publisher.invoices NO FORCE ROW LEVEL SECURITY",
        "ALTER TABLE publisher.usage DISABLE ROW LEVEL SECURITY",
        "DROP POLICY tenant_scope ON publisher.publications",
        "CREATE POLICY everybody ON publisher.invoices USING (true)",
    ],
)
def test_table_without_row_level_security_is_detected(
    make_database: Callable[..., TestDatabase], mistake: str
) -> None:
    database = make_database("publisher")
    assert unprotected(database, "publisher") == []
    with psycopg.connect(database.admin_dsn, autocommit=True) as admin:
        admin.execute(mistake.encode())
    assert len(unprotected(database, "publisher")) == 1
