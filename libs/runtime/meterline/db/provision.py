"""Roles and schemas, made once by an administrator: an owner and an application role for each service.

The owner runs migrations. The application role may use its own schema, and do with each table there what the
table's migration grants; by default that is nothing. Nobody else can see into the schema.
"""

from __future__ import annotations

from collections.abc import Mapping

import psycopg
from psycopg import sql

SERVICES = ("ingest", "identity", "aggregate", "publisher")


def owner_role(service: str) -> str:
    return f"meterline_{service}_owner"


def app_role(service: str) -> str:
    return f"meterline_{service}"


def provision(admin_dsn: str, passwords: Mapping[str, str]) -> None:
    """Creates what is missing. `passwords` maps each role to its password. Idempotent."""
    with psycopg.connect(admin_dsn, autocommit=True) as connection:
        database = connection.info.dbname
        connection.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(sql.Identifier(database)))
        connection.execute("REVOKE ALL ON SCHEMA public FROM PUBLIC")
        for service in SERVICES:
            _provision_service(connection, database, service, passwords)


def _provision_service(
    connection: psycopg.Connection[tuple[object, ...]],
    database: str,
    service: str,
    passwords: Mapping[str, str],
) -> None:
    owner, app, schema = (sql.Identifier(name) for name in (owner_role(service), app_role(service), service))
    for role in (owner_role(service), app_role(service)):
        exists = connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (role,)).fetchone()
        verb = sql.SQL("ALTER" if exists else "CREATE")
        connection.execute(
            sql.SQL("{} ROLE {} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOBYPASSRLS PASSWORD {}").format(
                verb, sql.Identifier(role), sql.Literal(passwords[role])
            )
        )
    statements = (
        "GRANT CONNECT ON DATABASE {database} TO {owner}, {app}",
        "CREATE SCHEMA IF NOT EXISTS {schema} AUTHORIZATION {owner}",
        "REVOKE ALL ON SCHEMA {schema} FROM PUBLIC",
        "GRANT USAGE ON SCHEMA {schema} TO {app}",
        "ALTER ROLE {owner} IN DATABASE {database} SET search_path = {schema}",
        "ALTER ROLE {app} IN DATABASE {database} SET search_path = {schema}",
        # Earlier versions granted everything by default.
        "ALTER DEFAULT PRIVILEGES FOR ROLE {owner} IN SCHEMA {schema} REVOKE ALL ON TABLES FROM {app}",
        "ALTER DEFAULT PRIVILEGES FOR ROLE {owner} IN SCHEMA {schema} REVOKE ALL ON SEQUENCES FROM {app}",
        "ALTER DEFAULT PRIVILEGES FOR ROLE {owner} IN SCHEMA {schema} REVOKE ALL ON FUNCTIONS FROM {app}",
    )
    names = {"database": sql.Identifier(database), "owner": owner, "app": app, "schema": schema}
    for statement in statements:
        connection.execute(sql.SQL(statement).format(**names))
