"""A second ingest beside the mesh's own, on the same database and broker."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from meterline_dev.mesh import Mesh
from meterline_dev.servers.ports import reserve_port

SECOND: Final = "ingest-second"


class Replica:
    """Keeps its port over restarts."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self._lease = reserve_port()

    @property
    def port(self) -> int:
        return self._lease.port

    async def start(self, **environment: str) -> None:
        more = {"METERLINE_GRPC_PORT": str(self.port), "METERLINE_METRICS_PORT": "0", **environment}
        spec = self._mesh._service("ingest", more)
        log = spec.log_file and spec.log_file.with_name(f"{SECOND}.log")
        await self._mesh.supervisor.start(replace(spec, name=SECOND, log_file=log))
