"""A whole mesh for each fault test, and the length of the runs."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

import pytest
import pytest_asyncio
from meterline_dev.mesh import SERVICES, Mesh
from meterline_dev.testing import scratch_directory

from tests.fault.meshes import Meshes
from tests.support.forks import Forks

MakeMesh = Callable[..., AbstractAsyncContextManager[Mesh]]


@dataclass(frozen=True)
class Lengths:
    """Lengths of runs: long with `make fault`, short with `make test`."""

    events: int
    rounds: int


# Tests that use `shared_mesh` run on one worker, so that only one such mesh runs.
SHARED = pytest.mark.xdist_group("shared mesh")
QUICK = {
    "aggregate": {"METERLINE_EMIT_SECONDS": "0.2"},
    "publisher": {"METERLINE_PUBLISH_WAIT_SECONDS": "0.2", "METERLINE_FRESHNESS_WAIT_SECONDS": "0.2"},
}
LONG = os.environ.get("METERLINE_FAULTS") == "long"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skips planted bugs by default: they need to run only after a change of the code that they break."""
    if not LONG:
        planted = [item for item in items if item.get_closest_marker("planted")]
        config.hook.pytest_deselected(items=planted)
        items[:] = [item for item in items if item not in planted]


@pytest.fixture(scope="session")
def lengths() -> Lengths:
    return Lengths(12_000, 20) if LONG else Lengths(600, 2)


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    with Forks() as started:
        yield started


@pytest.fixture(scope="session")
def meshes(request: pytest.FixtureRequest) -> Iterator[Meshes]:
    """Services are forked where that works, which is quicker; the long form starts them as in production."""
    forks = None if LONG or sys.platform != "linux" else request.getfixturevalue("forks")
    with scratch_directory() as place:
        yield Meshes(place, forks)


@pytest.fixture
def start_mesh(meshes: Meshes) -> MakeMesh:
    """`async with start_mesh(services=…, environment=…, programs=…) as mesh`: prepared for load."""
    return meshes.start


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def shared_mesh(meshes: Meshes) -> AsyncIterator[Mesh]:
    """A whole mesh, prepared for load, for tests that restore its state.

    A test uses its own tenants, stops nothing and measures nothing. It is marked with `SHARED`.
    """
    async with meshes.start(services=SERVICES, environment=QUICK) as mesh:
        yield mesh
