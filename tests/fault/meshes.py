"""Meshes that start and end quickly: on a copy of a database that is migrated, and without farewells."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from meterline_dev.mesh import SERVICES as ALL_SERVICES
from meterline_dev.mesh import Mesh, MeshOptions
from meterline_dev.servers.postgres_settings import SMALL
from meterline_dev.testing import scratch_directory

from tests.fault.load import prepare

# All of a mesh of a test but what the test is not about.
SERVICES: Final = ("identity", "ingest", "aggregate")
# The database survives kills of the processes around it either way; only speed is at stake.
# Messages of whoever was killed come again soon.
QUICK_MESSAGES: Final = {"METERLINE_ACK_WAIT_SECONDS": "4"}


class Meshes:
    """Starts meshes that differ in what tests ask for, and not in what they begin with.

    place: a directory for what they begin with, which the database's own account may pass through
    """

    def __init__(self, place: Path) -> None:
        self._beginning = place / "mesh"

    @asynccontextmanager
    async def start(
        self, environment: Mapping[str, Mapping[str, str]] | None = None, **options: Any
    ) -> AsyncIterator[Mesh]:
        """A mesh that is prepared for load; see `MeshOptions`. What is left of it in the end is killed."""
        chosen: dict[str, Any] = {
            "services": SERVICES,
            "postgres_settings": SMALL,
            "environment": {
                service: QUICK_MESSAGES | dict((environment or {}).get(service, {}))
                for service in ALL_SERVICES
            },
        } | options
        with scratch_directory() as place:
            await self._begin(place)
            async with Mesh(place / "mesh", MeshOptions(**chosen)) as mesh:
                try:
                    await prepare(mesh)
                    yield mesh
                finally:
                    await _kill(mesh)

    async def _begin(self, place: Path) -> None:
        """A copy of a mesh's directory, with its keys and its migrated database."""
        if not self._beginning.exists():
            async with Mesh(self._beginning, MeshOptions(services=(), postgres_settings=SMALL)):
                pass
        # Its files belong to two accounts, and go on doing so.
        copy = ["cp", "-a", str(self._beginning), str(place)]
        await asyncio.to_thread(subprocess.run, copy, check=True)


async def _kill(mesh: Mesh) -> None:
    """Nobody needs the services any more; how they end by themselves is shown elsewhere."""
    await asyncio.gather(*map(mesh.supervisor.kill, mesh.supervisor.names()))
