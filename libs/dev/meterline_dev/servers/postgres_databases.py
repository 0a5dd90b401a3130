"""Databases made and dropped quickly: one for each test, copied from a prepared template."""

import psycopg
from psycopg import sql


def create(dsn: str, name: str, template: str | None, owner: str | None) -> None:
    """Create database `name`, as a copy of `template` when one is named.

    Raises psycopg.errors.DuplicateDatabase when it exists already, and psycopg.errors.ObjectInUse when
    the template has sessions.
    """
    parts: list[sql.Composable] = [sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name))]
    if owner is not None:
        parts.append(sql.SQL("OWNER {}").format(sql.Identifier(owner)))
    if template is not None:
        parts.append(sql.SQL("TEMPLATE {}").format(sql.Identifier(template)))
    _run(dsn, sql.SQL(" ").join(parts))


def drop(dsn: str, name: str) -> None:
    """Drop database `name` and end its sessions, template or not; harmless when there is none."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        row = connection.execute(
            "SELECT datistemplate FROM pg_database WHERE datname = %s", [name]
        ).fetchone()
        if row == (True,):
            connection.execute(sql.SQL("ALTER DATABASE {} IS_TEMPLATE false").format(sql.Identifier(name)))
        connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


def freeze(dsn: str, name: str) -> None:
    """Make `name` a template that no session can connect to, so that copying it never finds it in use."""
    database = sql.Identifier(name)
    _run(dsn, sql.SQL("ALTER DATABASE {} WITH IS_TEMPLATE true ALLOW_CONNECTIONS false").format(database))
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s", [name]
        )


def _run(dsn: str, statement: sql.Composed) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(statement)
