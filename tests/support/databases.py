"""A migrated database for each test, with the roles of production.

Schemas are migrated once for each combination that tests ask for, into a template that is then copied.
Roles belong to the server, but their settings and the rights on a database do not travel with a copy, so
each copy is provisioned again. A database whose test has ended is given to the next one, without its rows.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg
import pytest
from meterline import migrate
from meterline.db import provision
from meterline_dev.servers import PostgresServer

from tests.support.database_reset import ROLES, Pristine

# The server listens on loopback and lives as long as the tests.
PASSWORD = "for-tests-only"


@dataclass(frozen=True)
class TestDatabase:
    """A database with the roles of all services and the migrated schemas of some."""

    __test__ = False

    server: PostgresServer
    name: str

    @property
    def admin_dsn(self) -> str:
        return self.server.dsn(self.name)

    def owner_dsn(self, service: str) -> str:
        return self.server.dsn(self.name, provision.owner_role(service), PASSWORD)

    def app_dsn(self, service: str) -> str:
        return self.server.dsn(self.name, provision.app_role(service), PASSWORD)

    def read(self, service: str, query: LiteralString, *parameters: object) -> list[tuple[Any, ...]]:
        """What a query finds in a service's schema, past all rules: rows of all tenants."""
        with psycopg.connect(self.admin_dsn, options=f"-c search_path={service}") as connection:
            return connection.execute(query, parameters or None).fetchall()

    async def change(self, statement: LiteralString, *parameters: object) -> None:
        """Changes rows past all rules, as time or a fault would.

        Asynchronously, since a service that runs in the same loop may hold them and must be able to go on.
        """
        async with await psycopg.AsyncConnection.connect(self.admin_dsn) as connection:
            await connection.execute(statement, parameters or None)

    def provision(self) -> None:
        provision.provision(self.admin_dsn, dict.fromkeys(ROLES, PASSWORD))


# (schema, packages of its migrations in order), as `migrate.load` takes them.
Schema = tuple[str, tuple[str, ...]]

COMMON = ("meterline.db", "meterline.tenants")


class Databases:
    """Makes databases, each a copy of a template that is made on first use, or one that was used before."""

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

    def release(self, database: TestDatabase) -> None:
        """For another test, if it can be made as it was."""
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
    """A function `(*services: str) -> TestDatabase`: the schemas of these services, as in production.

    Example: `make_database("identity").app_dsn("identity")`. Given back after the test.
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
    """All roles and schemas, and in each schema nothing but what the runtime itself keeps there."""
    database = databases.create([(service, COMMON) for service in provision.SERVICES])
    yield database
    databases.release(database)


@pytest.fixture
def empty_database(databases: Databases) -> Iterator[TestDatabase]:
    """All roles and schemas; no migration has run."""
    database = databases.create([])
    yield database
    databases.release(database)
