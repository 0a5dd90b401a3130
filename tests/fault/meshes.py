"""Meshes that start and end quickly: from a copy of a migrated database, and ended by SIGKILL."""

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
from tests.support.forks import ForkingSupervisor, Forks

# The services of a test's mesh by default.
SERVICES: Final = ("identity", "ingest", "aggregate")
# Killed services lose nothing with these settings either; they only save time.
# Messages of a killed service are redelivered soon.
QUICK_MESSAGES: Final = {"METERLINE_ACK_WAIT_SECONDS": "4"}


class Meshes:
    """Starts meshes with the options of tests, all from the same initial state.

    place: a directory for the initial state, which the database's own account may traverse
    forks: starts the services; None: as in production
    """

    def __init__(self, place: Path, forks: Forks | None) -> None:
        self._beginning = place / "mesh"
        self._forks = forks

    @asynccontextmanager
    async def start(
        self, environment: Mapping[str, Mapping[str, str]] | None = None, **options: Any
    ) -> AsyncIterator[Mesh]:
        """Runs a mesh prepared for load; see `MeshOptions`. Kills its processes at the end."""
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
            mesh = Mesh(place / "mesh", MeshOptions(**chosen))
            if self._forks is not None:
                mesh.supervisor = ForkingSupervisor(self._forks)
            async with mesh:
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
        # The files belong to two accounts, which the copy preserves.
        copy = ["cp", "-a", str(self._beginning), str(place)]
        await asyncio.to_thread(subprocess.run, copy, check=True)


async def _kill(mesh: Mesh) -> None:
    """Kills all processes; other tests check graceful shutdown."""
    await asyncio.gather(*map(mesh.supervisor.kill, mesh.supervisor.names()))
