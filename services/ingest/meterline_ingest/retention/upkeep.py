"""Upkeep at the start and every hour."""

from __future__ import annotations

from typing import Final

from meterline.tasks import every

from meterline_ingest.capture.store.partitions import Partitions
from meterline_ingest.retention.job import Retention

_SECONDS: Final = 3600.0


class Upkeep:
    """Makes partitions of coming months, and deletes old events. `start` and `stop` may be called twice."""

    def __init__(self, partitions: Partitions, retention: Retention) -> None:
        self._partitions = partitions
        self._retention = retention
        self._making = every(_SECONDS, "ingest-upkeep", partitions.make)
        self._deleting = every(_SECONDS, "ingest-retention", retention.run)

    async def start(self) -> None:
        await self._partitions.make()
        await self._retention.announce()
        await self._making.start()
        await self._deleting.start()

    async def stop(self) -> None:
        await self._making.stop()
        await self._deleting.stop()
