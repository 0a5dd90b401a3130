"""The metric of dead letters that wait."""

from __future__ import annotations

from meterline.consuming import dead_letters
from meterline.db.pool import Database
from meterline.telemetry import metrics


class DeadLetterReport:
    """Sets the metric to each consumer's number of open dead letters, also to 0. Only reads."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._reported: set[str] = set()

    async def report(self) -> None:
        counts = await dead_letters.count_open(self._database)
        for consumer in self._reported | counts.keys():
            metrics.DEAD_LETTERS.labels(consumer).set(counts.get(consumer, 0))
        self._reported |= counts.keys()
