"""Resets a used database to its initial state, several times faster than creating a new one.

A database is reused only if everything except its rows is unchanged: after a test that changes tables, rights
or roles it is dropped.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, LiteralString

import psycopg
from meterline.db import provision
from psycopg import sql

Connection = psycopg.Connection[tuple[Any, ...]]

# The application name of sessions that outlive a test.
KEPT_SESSION: Final = "kept by tests"

SCHEMAS: Final = [*provision.SERVICES, "public"]
ROLES: Final = [
    role(name) for name in provision.SERVICES for role in (provision.owner_role, provision.app_role)
]

# Everything except rows, as texts.
_DESCRIPTION: Final[LiteralString] = """
WITH spaces AS (SELECT oid, nspname FROM pg_namespace WHERE nspname = ANY(%(schemas)s)),
relations AS (SELECT c.* FROM pg_class c JOIN spaces s ON s.oid = c.relnamespace),
descriptions (kind, texts) AS (
    SELECT 'relation',
        concat_ws(' ', relname, relkind, relowner, relacl, relrowsecurity, relforcerowsecurity, reloptions)
        FROM relations
    UNION ALL SELECT 'column',
        concat_ws(' ', attrelid::regclass, attname, atttypid, attnotnull, attacl, atthasdef)
        FROM pg_attribute JOIN relations r ON r.oid = attrelid WHERE attnum > 0
    UNION ALL SELECT 'constraint', concat_ws(' ', conrelid::regclass, conname, pg_get_constraintdef(c.oid))
        FROM pg_constraint c JOIN relations r ON r.oid = conrelid
    UNION ALL SELECT 'policy',
        concat_ws(' ', polrelid::regclass, polname, polcmd, polroles, polqual, polwithcheck)
        FROM pg_policy JOIN relations r ON r.oid = polrelid
    UNION ALL SELECT 'trigger', concat_ws(' ', tgrelid::regclass, tgname, tgenabled, tgfoid)
        FROM pg_trigger JOIN relations r ON r.oid = tgrelid
    UNION ALL SELECT 'function', concat_ws(' ', p.oid, proname, proacl, proowner, md5(prosrc))
        FROM pg_proc p JOIN spaces s ON s.oid = pronamespace
    UNION ALL SELECT 'schema', concat_ws(' ', nspname, nspowner, nspacl)
        FROM pg_namespace WHERE nspname !~ '^pg_'
    UNION ALL SELECT 'default', concat_ws(' ', defaclrole, defaclnamespace, defaclobjtype, defaclacl)
        FROM pg_default_acl
    UNION ALL SELECT 'role',
        concat_ws(' ', rolname, rolsuper, rolcreatedb, rolcreaterole, rolcanlogin, rolbypassrls)
        FROM pg_roles WHERE rolname = ANY(%(roles)s)
    UNION ALL SELECT 'membership', concat_ws(' ', roleid, member, admin_option) FROM pg_auth_members
    UNION ALL SELECT 'setting', concat_ws(' ', setrole, setconfig)
        FROM pg_db_role_setting JOIN pg_database b ON b.oid = setdatabase WHERE datname = current_database()
    UNION ALL SELECT 'database', datacl::text FROM pg_database WHERE datname = current_database()
)
SELECT kind || ' ' || texts FROM descriptions
"""

# A small table is emptied by deletion: TRUNCATE makes a new file for it and for each of its indexes. One with
# statistics is truncated all the same, since the planner would go on by its former size.
_SMALL_BYTES: Final = 128 * 1024

_TABLES: Final[LiteralString] = """
SELECT c.oid::regclass::text, relispartition, pg_relation_size(c.oid), relpages > 0
    FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
    WHERE nspname = ANY(%s) AND relkind IN ('r', 'p')
"""

_END_SESSIONS: Final[LiteralString] = """
SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
    WHERE datname = current_database() AND application_name <> %s
"""

_RESTART_SEQUENCES: Final[LiteralString] = """
SELECT setval(format('%%I.%%I', schemaname, sequencename)::regclass, start_value, false)
    FROM pg_sequences WHERE schemaname = ANY(%s) AND last_value IS NOT NULL
"""


@dataclass(frozen=True)
class _Table:
    """`bytes` is 0 if it has no rows. `analysed`: at a time when it had rows."""

    is_partition: bool
    bytes: int
    analysed: bool


@dataclass(frozen=True)
class Pristine:
    """The initial state of a database: its description, its tables, and a digest of those tables that have
    rows."""

    description: frozenset[str]
    tables: frozenset[str]
    seeds: dict[str, str]

    @classmethod
    def of(cls, connection: Connection) -> Pristine:
        with connection.transaction():
            tables = _tables(connection)
            seeded = [name for name, table in tables.items() if table.bytes]
            seeds = {name: _digest(connection, name) for name in seeded}
            return cls(_description(connection), frozenset(tables), seeds)

    def restore(self, connection: Connection) -> bool:
        """Deletes all rows that a test has added; returns whether the database is in its initial state."""
        with connection.transaction():
            connection.execute(_END_SESSIONS, (KEPT_SESSION,))
            # Disables triggers, which a superuser may do.
            connection.execute("SET LOCAL session_replication_role = replica")
            tables = _tables(connection)
            added = [name for name in tables if name not in self.tables]
            if not all(tables[name].is_partition for name in added):
                return False
            for name in added:
                connection.execute(sql.SQL("DROP TABLE {}").format(sql.SQL(name)))
            kept = self.tables - self.seeds.keys()
            _empty(
                connection, {name: table for name, table in tables.items() if name in kept and table.bytes}
            )
            connection.execute(_RESTART_SEQUENCES, (SCHEMAS,))
            return _description(connection) == self.description and all(
                _digest(connection, name) == digest for name, digest in self.seeds.items()
            )


def _empty(connection: Connection, filled: dict[str, _Table]) -> None:
    deleted = [name for name, table in filled.items() if not table.analysed and table.bytes <= _SMALL_BYTES]
    if deleted:
        connection.execute(sql.SQL("; ").join(sql.SQL("DELETE FROM {}").format(sql.SQL(n)) for n in deleted))
    truncated = [name for name in filled if name not in deleted]
    if truncated:
        names = sql.SQL(", ").join(map(sql.SQL, truncated))
        connection.execute(sql.SQL("TRUNCATE {} CASCADE").format(names))
        # Plans of the next test must not use statistics of this test's rows.
        connection.execute("DELETE FROM pg_statistic WHERE starelid = ANY(%s::regclass[])", (truncated,))


def _tables(connection: Connection) -> dict[str, _Table]:
    """By name, with the schema."""
    return {name: _Table(*values) for name, *values in connection.execute(_TABLES, (SCHEMAS,))}


def _description(connection: Connection) -> frozenset[str]:
    found = connection.execute(_DESCRIPTION, {"schemas": SCHEMAS, "roles": ROLES})
    return frozenset(text for (text,) in found)


def _digest(connection: Connection, table: str) -> str:
    query = "SELECT md5(coalesce(string_agg(t::text, '|' ORDER BY t::text), '')) FROM {} t"
    ((digest,),) = connection.execute(sql.SQL(query).format(sql.SQL(table))).fetchall()
    return str(digest)
