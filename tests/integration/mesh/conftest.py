"""One mesh of all services for the tests of this folder."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio
from meterline_dev.mesh import Mesh
from meterline_dev.testing import scratch_directory


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def mesh() -> AsyncIterator[Mesh]:
    """A running mesh. Each test has its own tenant, or none. Its users belong to the group `mesh`."""
    with scratch_directory() as place:
        async with Mesh(place) as running:
            yield running
