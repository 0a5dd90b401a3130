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

from tests.support.database_reset import ROLES, Pristine

# The server listens on loopback and runs as long as the tests.
PASSWORD = "for-tests-only"


@dataclass(frozen=True)
class TestDatabase:
    """A database with the roles of all services and the migrated schemas of some."""

    __test__ = False

    server: PostgresServer
    name: str
    _readers: dict[str, psycopg.Connection[tuple[Any, ...]]] = field(
        default_factory=dict, repr=False, compare=False
    )

    @property
    def admin_dsn(self) -> str:
        return self.server.dsn(self.name)

    def owner_dsn(self, service: str) -> str:
        return self.server.dsn(self.name, provision.owner_role(service), PASSWORD)

    def app_dsn(self, service: str) -> str:
        return self.server.dsn(self.name, provision.app_role(service), PASSWORD)

    def read(self, service: str, query: LiteralString, *parameters: object) -> list[tuple[Any, ...]]:
        """The result of a query in a service's schema, without row-level security: rows of all tenants.

        Its connection stays open for the next query, since tests poll.
        """
        try:
            return self._read(service, query, parameters)
        except psycopg.OperationalError:
            # The server was restarted.
            self.close()
            return self._read(service, query, parameters)

    def _read(
        self, service: str, query: LiteralString, parameters: Sequence[object]
    ) -> list[tuple[Any, ...]]:
        if service not in self._readers:
            self._readers[service] = psycopg.connect(
                self.admin_dsn, autocommit=True, options=f"-c search_path={service}"
            )
        return self._readers[service].execute(query, parameters or None).fetchall()

    def close(self) -> None:
        """Closes the connections of `read`."""
        while self._readers:
            self._readers.popitem()[1].close()

    async def change(self, statement: LiteralString, *parameters: object) -> None:
        """Changes rows without row-level security, to simulate time or a fault.

        Asynchronous, since a service in the same event loop may hold locks on them and must proceed.
        """
        async with await psycopg.AsyncConnection.connect(self.admin_dsn) as connection:
            await connection.execute(statement, parameters or None)

    def provision(self) -> None:
        provision.provision(self.admin_dsn, dict.fromkeys(ROLES, PASSWORD))


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
            self._pristine[key] = Pristine.of(database.admin_dsn)
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
        database.close()
        key = self._schemas[database]
        if self._pristine[key].restore(database.admin_dsn):
            self._restored.setdefault(key, []).append(database)
        else:
            del self._schemas[database]
            self._server.drop_database(database.name)

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
def databases(postgres_server: PostgresServer) -> Databases:
    return Databases(postgres_server)


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
