"""A migrated database for each test, with the roles of production.

Schemas are migrated once for each combination that tests ask for, into a template that is then copied.
Roles belong to the server, but a copy does not include their settings and the rights on a database, so each
copy is provisioned again. The database of a finished test is emptied and reused by the next test.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, LiteralString

import psycopg
import pytest
from meterline import migrate
from meterline.db import provision
from meterline_dev.servers import PostgresServer

from tests.support.database_reset import KEPT_SESSION, ROLES, Connection, Pristine

# The server listens on loopback and runs as long as the tests.
PASSWORD = "for-tests-only"


@dataclass(frozen=True)
class TestDatabase:
    """A database with the roles of all services and the migrated schemas of some."""

    __test__ = False

    server: PostgresServer
    name: str
    # Sessions of the superuser by search path. They are kept, since a new one costs 4 ms of CPU.
    _sessions: dict[str, Connection] = field(default_factory=dict, init=False, compare=False, repr=False)

    @property
    def admin_dsn(self) -> str:
        return self.server.dsn(self.name)

    def owner_dsn(self, service: str) -> str:
        return self.server.dsn(self.name, provision.owner_role(service), PASSWORD)

    def app_dsn(self, service: str) -> str:
        return self.server.dsn(self.name, provision.app_role(service), PASSWORD)

    def read(self, service: str, query: LiteralString, *parameters: object) -> list[tuple[Any, ...]]:
        """The result of a query in a service's schema, without row-level security: rows of all tenants."""
        return self.session(service).execute(query, parameters or None).fetchall()

    def session(self, search_path: str = "public") -> Connection:
        """A session of the superuser in autocommit mode, which later calls and tests use as well."""
        kept = self._sessions.get(search_path)
        if kept is None or not _is_alive(kept):
            kept = self._sessions[search_path] = psycopg.connect(
                self.admin_dsn,
                autocommit=True,
                prepare_threshold=None,
                options=f"-c search_path={search_path}",
                application_name=KEPT_SESSION,
            )
        return kept

    def close_sessions(self) -> None:
        while self._sessions:
            self._sessions.popitem()[1].close()

    async def change(self, statement: LiteralString, *parameters: object) -> None:
        """Changes rows without row-level security, to simulate time or a fault.

        Asynchronous, since a service in the same event loop may hold locks on them and must proceed.
        """
        async with await psycopg.AsyncConnection.connect(self.admin_dsn) as connection:
            await connection.execute(statement, parameters or None)

    def provision(self) -> None:
        provision.provision(self.admin_dsn, dict.fromkeys(ROLES, PASSWORD))


def _is_alive(session: Connection) -> bool:
    """Not after a restart of the server, or if a test has ended all sessions."""
    try:
        session.execute("")
    except psycopg.OperationalError:
        return False
    return True


# (schema, packages of its migrations in order): the arguments of `migrate.load`.
Schema = tuple[str, tuple[str, ...]]

COMMON = ("meterline.db", "meterline.tenants")


class Databases:
    """Provides databases: copies of a template that is created on first use, or reset ones."""

    def __init__(self, server: PostgresServer) -> None:
        self._server = server
        self._templates: dict[tuple[Schema, ...], str] = {}
        self._pristine: dict[tuple[Schema, ...], Pristine] = {}
        self._schemas: dict[TestDatabase, tuple[Schema, ...]] = {}
        self._restored: dict[tuple[Schema, ...], list[TestDatabase]] = {}

    def create(self, schemas: Sequence[Schema]) -> TestDatabase:
        key = tuple(schemas)
        if self._restored.get(key):
            return self._restored[key].pop()
        if key not in self._templates:
            self._templates[key] = self._template(key)
        database = TestDatabase(self._server, f"test_{uuid.uuid4().hex[:16]}")
        self._server.create_database(database.name, self._templates[key])
        database.provision()
        self._schemas[database] = key
        if key not in self._pristine:
            self._pristine[key] = Pristine.of(database.session())
        return database

    @contextmanager
    def lent(self, *services: str) -> Iterator[TestDatabase]:
        """A database with the schemas of these services, as in production, for the time of the context."""
        database = self.create([(service, migrate.packages(service)) for service in services])
        try:
            yield database
        finally:
            self.release(database)

    def release(self, database: TestDatabase) -> None:
        """Resets the database for reuse, or drops it if that fails."""
        key = self._schemas[database]
        if self._pristine[key].restore(database.session()):
            self._restored.setdefault(key, []).append(database)
        else:
            del self._schemas[database]
            database.close_sessions()
            self._server.drop_database(database.name)

    def close(self) -> None:
        """Closes the sessions to all databases."""
        for database in self._schemas:
            database.close_sessions()

    def _template(self, schemas: tuple[Schema, ...]) -> str:
        database = TestDatabase(self._server, f"template_{uuid.uuid4().hex[:16]}")
        self._server.create_database(database.name)
        database.provision()
        for schema, packages in schemas:
            migrations = [migration for package in packages for migration in migrate.load(package)]
            migrate.apply(database.owner_dsn(schema), schema, migrations)
        self._server.freeze_template(database.name)
        return database.name


@pytest.fixture(scope="session")
def databases(postgres_server: PostgresServer) -> Iterator[Databases]:
    databases = Databases(postgres_server)
    yield databases
    databases.close()


@pytest.fixture
def make_database(databases: Databases) -> Iterator[Callable[..., TestDatabase]]:
    """A function `(*services: str) -> TestDatabase`: a database with the schemas of these services, as in
    production.

    Example: `make_database("identity").app_dsn("identity")`. Released after the test.
    """
    made: list[TestDatabase] = []

    def make(*services: str) -> TestDatabase:
        made.append(databases.create([(service, migrate.packages(service)) for service in services]))
        return made[-1]

    yield make
    for database in made:
        databases.release(database)


@pytest.fixture
def bare_database(databases: Databases) -> Iterator[TestDatabase]:
    """A database with all roles and schemas, and only the runtime's tables in each schema."""
    database = databases.create([(service, COMMON) for service in provision.SERVICES])
    yield database
    databases.release(database)


@pytest.fixture
def empty_database(databases: Databases) -> Iterator[TestDatabase]:
    """A database with all roles and schemas, without any migration."""
    database = databases.create([])
    yield database
    databases.release(database)
