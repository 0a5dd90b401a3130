"""Fixtures of the runtime tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from meterline import migrate
from meterline.db.provision import SERVICES

from tests.support.databases import Databases, TestDatabase


@pytest.fixture(scope="module")
def mesh(databases: Databases) -> Iterator[TestDatabase]:
    """The schemas of all services, as in production. Tests of a module share it, and do not change it."""
    database = databases.create([(service, migrate.packages(service)) for service in SERVICES])
    yield database
    databases.release(database)


@pytest.fixture(params=SERVICES)
def service(request: pytest.FixtureRequest) -> str:
    return str(request.param)
