"""Adds spans for the invoice to the traces that captured its events, and links the invoice's span to them.

The trace of any recorded call then shows which invoices bill it. Traces are a convenience; the database is
authoritative. So spans are written after the commit, in the background, and dropped when the queue is full
or a service does not answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from cachetools import LRUCache
from meterline import tasks
from meterline.calendar import Period
from meterline.errors import MeterlineError
from meterline.telemetry import propagation, traceparent
from meterline.telemetry.logging import logger
from meterline.telemetry.tracing import MAX_LINKS, tracer
from meterline_protos.common.v1 import types_pb2
from meterline_protos.ingest.v1 import events_pb2
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

from meterline_publisher.invoices.rules import Invoice, Line
from meterline_publisher.peers import Aggregate, Ingest, all_contributions

log = logger()

_WAITING: Final = 1_000
_REMEMBERED: Final = 100_000
_DAY: Final = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class _Job:
    tenant: str
    invoice: Invoice
    meters: tuple[str, ...]


class Lineage:
    """A background task. `start` and `stop` may be called twice; `stop` drops what is queued."""

    def __init__(self, aggregate: Aggregate, ingest: Ingest) -> None:
        self._aggregate = aggregate
        self._ingest = ingest
        self._jobs: asyncio.Queue[_Job] = asyncio.Queue(_WAITING)
        self._done: LRUCache[tuple[str, str, str], bool] = LRUCache(_REMEMBERED)
        self._loop = tasks.Loop("lineage", self._step)

    async def start(self) -> None:
        await self._loop.start()

    async def stop(self) -> None:
        await self._loop.stop()

    def submit(self, tenant: str, invoice: Invoice, lines: Sequence[Line]) -> None:
        """Queues the rated lines. Never waits and never fails."""
        if not spans_are_recorded():
            return
        job = _Job(tenant, invoice, tuple(line.meter for line in lines if line.event_count))
        try:
            self._jobs.put_nowait(job)
        except asyncio.QueueFull:
            log.warning("lineage.dropped", invoice_id=str(invoice.invoice_id))

    async def _step(self) -> float:
        """Writes the spans of the next job; failures are logged and not retried."""
        job = await self._jobs.get()
        try:
            await self._write(job)
        except MeterlineError as error:
            log.warning("lineage.failed", invoice_id=str(job.invoice.invoice_id), error=str(error))
        except Exception:
            log.exception("lineage.fault", invoice_id=str(job.invoice.invoice_id))
        return 0.0

    async def _write(self, job: _Job) -> None:
        links: list[trace.Link] = []
        for meter in job.meters:
            batch_ids = await self._newest_batches(job, meter)
            for batch in await self._ingest.batches(job.tenant, batch_ids):
                capture = self._mark(job, meter, batch)
                if capture is not None and len(links) < MAX_LINKS:
                    links.append(trace.Link(capture))
        if links:
            parent = propagation.to_span_context(traceparent.to_proto(job.invoice.trace))
            span = tracer().start_span(
                "invoice",
                context=propagation.context_of(parent),
                links=links,
                attributes=_attributes(job),
            )
            span.end()

    async def _newest_batches(self, job: _Job, meter: str) -> list[str]:
        """At most MAX_LINKS newest batches: reads day by day from the end, to avoid reading old
        contributions.
        """
        found: set[str] = set()
        end = job.invoice.period_end
        while end > job.invoice.period_start and len(found) < MAX_LINKS:
            start = max(end - _DAY, job.invoice.period_start)
            async for contribution in all_contributions(
                self._aggregate, job.tenant, meter, Period(start, end)
            ):
                found.add(contribution.batch_id)
            end = start
        # The ids are UUIDv7, so the greatest are the newest.
        return sorted(found, reverse=True)[:MAX_LINKS]

    def _mark(self, job: _Job, meter: str, batch: events_pb2.Batch) -> trace.SpanContext | None:
        """Adds the invoice's span to a batch's trace, once; returns the context of the capture, if it was
        sampled.
        """
        capture = propagation.to_span_context(batch.trace)
        if capture is None or not batch.trace.sampled:
            return None
        key = (str(job.invoice.invoice_id), meter, batch.batch_id)
        if key not in self._done:
            self._done[key] = True
            span = tracer().start_span(
                f"invoice {meter}",
                context=propagation.context_of(capture),
                attributes=_attributes(job) | {"meterline.batch_id": batch.batch_id},
                links=_back(traceparent.to_proto(job.invoice.trace)),
            )
            span.end()
        return capture


def spans_are_recorded() -> bool:
    """Whether this process records spans."""
    provider = trace.get_tracer_provider()
    return isinstance(provider, TracerProvider) and provider.sampler is not ALWAYS_OFF


def _attributes(job: _Job) -> dict[str, str]:
    return {"meterline.tenant_id": job.tenant, "meterline.invoice_id": str(job.invoice.invoice_id)}


def _back(invoice: types_pb2.TraceContext) -> list[trace.Link]:
    rated = propagation.to_span_context(invoice)
    return [trace.Link(rated)] if rated is not None else []
