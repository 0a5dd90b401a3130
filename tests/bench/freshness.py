"""Freshness: the time until a captured event is visible, measured with single events of a separate tenant.

One event is due every interval, independent of earlier ones. Meanwhile the tenant's count is polled with
pauses of 10 ms: event number n is visible when an answer is n or more. Its freshness is the time since it was
due. It includes the call, the group commit, the outbox, the stream, the fold, and up to one pause and query.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import uuid_utils
from grpc import aio
from meterline_protos.ingest.v1 import capture_pb2, capture_pb2_grpc

from tests.bench import pace
from tests.bench.encoding import SOURCE
from tests.bench.usage import PAUSE_SECONDS, Usage
from tests.bench.workload import DIMENSION, EVENT_TYPE, QUANTITY, region_name, subject_name

INTERVAL_SECONDS = 0.025
_GIVE_UP_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Freshness:
    """Milliseconds from capture to visible, over `samples` events.

    gap: events sent less events seen at the end: lost (above 0) or counted twice (below)
    """

    p50_ms: float
    p99_ms: float
    max_ms: float
    samples: int
    gap: int


class Probe:
    """Sends events and polls their visibility. At most one for each tenant at a time."""

    def __init__(self, ingest: aio.Channel, usage: Usage, tenant: str) -> None:
        self._capture = capture_pb2_grpc.CaptureServiceStub(ingest)
        self._usage = usage
        self._tenant = tenant
        self._due: list[float] = []
        self._seen: list[float] = []
        self._sending = True

    async def run(self, stopped: asyncio.Event, seconds: float) -> Freshness:
        """Probes until `stopped`, in about `seconds`, then waits for events in flight."""
        base = await self._usage.count(self._tenant)
        watching = asyncio.create_task(self._watch(base, seconds + _GIVE_UP_SECONDS))
        try:
            await self._send(stopped)
            self._sending = False
            await watching
        finally:
            watching.cancel()
        waits = [seen - due for seen, due in zip(self._seen, self._due, strict=False)]
        p50, p99, most = (float(np.quantile(waits or [0.0], at)) * 1000 for at in (0.5, 0.99, 1.0))
        return Freshness(p50, p99, most, len(waits), len(self._due) - len(self._seen))

    async def _send(self, stopped: asyncio.Event) -> None:
        started = time.monotonic()
        async with asyncio.TaskGroup() as group:
            while not stopped.is_set():
                due = started + len(self._due) * INTERVAL_SECONDS
                await pace.until(due)
                self._due.append(due)
                group.create_task(self._report())

    async def _report(self) -> None:
        event = capture_pb2.Event(
            id=str(uuid.UUID(bytes=uuid_utils.uuid7().bytes)),
            type=EVENT_TYPE,
            subject=subject_name(0),
            dimensions={DIMENSION: region_name(0)},
            quantities={QUANTITY: "1"},
        )
        event.time.FromDatetime(datetime.now(UTC))
        rows = capture_pb2.EventRows(events=[event])
        await self._capture.Report(
            capture_pb2.ReportRequest(tenant_id=self._tenant, source=SOURCE, rows=rows), timeout=30
        )

    async def _watch(self, base: int, seconds: float) -> None:
        async def look() -> bool:
            visible = await self._usage.count(self._tenant) - base
            self._seen += [time.monotonic()] * (visible - len(self._seen))
            return not self._sending and len(self._seen) >= len(self._due)

        # Events that are not visible by then are reported as the gap.
        await pace.poll(look, every=PAUSE_SECONDS, seconds=seconds)
