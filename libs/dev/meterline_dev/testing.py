"""Pytest plugin: real Postgres and NATS servers for tests.

Every process of a parallel run (pytest-xdist) has servers of its own: they start in under a second,
and sharing them would need a lock and an owner that outlives the others.
"""

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from meterline_dev.servers import NatsServer, PostgresServer
from meterline_dev.servers.postgres_settings import SMALL, THROWAWAY


def eventually(question: Callable[[], bool], seconds: float = 10.0) -> bool:
    """Whether the question is answered with yes within `seconds`; for what sends no signal of its own."""
    deadline = time.monotonic() + seconds
    while not question():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


@contextmanager
def scratch_directory() -> Iterator[Path]:
    """A temporary directory that a server's own account may pass through, removed afterwards."""
    place = Path(tempfile.mkdtemp(prefix="meterline-"))
    place.chmod(0o711)
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """Postgres for the session, without durability: a crash of the machine may lose what tests wrote."""
    with scratch_directory() as place, PostgresServer(place / "postgres", settings=THROWAWAY) as server:
        yield server


@pytest.fixture
def durable_postgres() -> Iterator[PostgresServer]:
    """A durable Postgres for one test, which may kill it."""
    with scratch_directory() as place, PostgresServer(place / "postgres", settings=SMALL) as server:
        yield server


@pytest.fixture(scope="session")
def nats_server() -> Iterator[NatsServer]:
    """NATS with JetStream for the session, flushing before each ack as in production."""
    with scratch_directory() as place, NatsServer(place / "nats") as server:
        yield server
