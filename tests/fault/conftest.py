"""A whole mesh for each fault test, and the length of the runs."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

import pytest
from meterline_dev.mesh import SERVICES as ALL_SERVICES
from meterline_dev.mesh import Mesh, MeshOptions
from meterline_dev.servers.postgres_settings import SMALL
from meterline_dev.testing import scratch_directory

from tests.fault.load import prepare

MakeMesh = Callable[..., AbstractAsyncContextManager[Mesh]]

# All of a mesh of a test but what the test is not about.
SERVICES = ("identity", "ingest", "aggregate")
# The database survives kills of the processes around it either way; only speed is at stake.
# Messages of whoever was killed come again soon.
QUICK_MESSAGES = {"METERLINE_ACK_WAIT_SECONDS": "4"}


@dataclass(frozen=True)
class Lengths:
    """How much is done: much with `make fault`, little with `make test`."""

    events: int
    rounds: int


LONG = os.environ.get("METERLINE_FAULTS") == "long"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Of what a planted bug does to a mesh it is enough to know after a change to what it breaks."""
    if not LONG:
        planted = [item for item in items if item.get_closest_marker("planted")]
        config.hook.pytest_deselected(items=planted)
        items[:] = [item for item in items if item not in planted]


@pytest.fixture(scope="session")
def lengths() -> Lengths:
    return Lengths(12_000, 20) if LONG else Lengths(1_500, 3)


@pytest.fixture
def start_mesh() -> MakeMesh:
    """`async with start_mesh(services=…, environment=…, programs=…) as mesh`: prepared for load."""

    @asynccontextmanager
    async def start(
        environment: Mapping[str, Mapping[str, str]] | None = None, **options: object
    ) -> AsyncIterator[Mesh]:
        chosen = {
            "services": SERVICES,
            "postgres_settings": SMALL,
            "environment": {
                service: QUICK_MESSAGES | dict((environment or {}).get(service, {}))
                for service in ALL_SERVICES
            },
        } | options
        with scratch_directory() as place:
            async with Mesh(place, MeshOptions(**chosen)) as mesh:  # type: ignore[arg-type]
                await prepare(mesh)
                yield mesh

    return start
