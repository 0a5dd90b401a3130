"""What has to be done now and then, at the start and every hour."""

from __future__ import annotations

from typing import Final

from meterline.app import Periodic

from meterline_ingest.repository.partitions import Partitions

_SECONDS: Final = 3600.0


class Upkeep:
    """Makes the partitions of coming months. `start` and `stop` may be called twice."""

    def __init__(self, partitions: Partitions) -> None:
        self._partitions = partitions
        self._periodic = Periodic("ingest-upkeep", _SECONDS, partitions.make)

    async def start(self) -> None:
        await self._partitions.make()
        await self._periodic.start()

    async def stop(self) -> None:
        await self._periodic.stop()
