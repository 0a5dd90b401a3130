"""Explains a line by its events, and an event by its lines.

Each step reads stored facts: lines and publications here, windows and contributions from aggregate, batches
and events from ingest. Nothing is sampled.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC

from meterline.calendar import Period, month_of
from meterline.db.pool import Database
from meterline.errors import NotFoundError
from meterline.metering import Counting
from meterline.tenants import Tenant, TenantReplica
from meterline_protos.aggregate.v1 import usage_pb2
from meterline_protos.ingest.v1 import events_pb2

from meterline_publisher.gaps import store as gaps_store
from meterline_publisher.gaps.rules import GapReason
from meterline_publisher.invoices import store as invoices_store
from meterline_publisher.invoices.rules import Invoice, Line
from meterline_publisher.ledger import store as ledger_store
from meterline_publisher.ledger.rules.publications import Publication
from meterline_publisher.peers import Aggregate, Ingest


@dataclass(frozen=True, slots=True)
class Cursor:
    """The start of a page: a page token of contributions, and a page token of the events of their batches.
    Aggregate and ingest made these tokens."""

    contributions: str = ""
    events: str = ""


@dataclass(frozen=True, slots=True)
class ExplainedBatch:
    """A batch with those of its events that the line counts, or that the batch retracted from it. A batch may
    occur on several pages with different events; each event occurs once."""

    batch: events_pb2.Batch
    events: Sequence[events_pb2.StoredEvent]


@dataclass(frozen=True, slots=True)
class ExplainedLine:
    """A page of the explanation of a line. Only the first page has `windows`."""

    tenant: Tenant
    invoice: Invoice
    line: Line
    windows: Sequence[usage_pb2.Window]
    batches: Sequence[ExplainedBatch]
    publications: Sequence[Publication]
    next: Cursor | None


@dataclass(frozen=True, slots=True)
class EventUse:
    """A meter that counted an event. `invoice` is None until the period is rated. `gap_reason`: why no line
    bills the event, if known."""

    meter: str
    window_id: str
    invoice: Invoice | None
    line: Line | None
    publications: Sequence[Publication]
    gap_reason: GapReason | None


@dataclass(frozen=True, slots=True)
class ExplainedEvent:
    tenant: Tenant
    event: events_pb2.StoredEvent
    batch: events_pb2.Batch
    uses: Sequence[EventUse]


class Explaining:
    """Explains lines and events. Everything here only reads."""

    def __init__(
        self, database: Database, tenants: TenantReplica, aggregate: Aggregate, ingest: Ingest
    ) -> None:
        self._database = database
        self._tenants = tenants
        self._aggregate = aggregate
        self._ingest = ingest

    async def line(self, slug: str, line_id: uuid.UUID, batches: int, cursor: Cursor) -> ExplainedLine:
        """A page of at most `batches` batches or 1,000 events, whichever ends first. Raises NotFoundError,
        UnavailableError."""
        tenant = await self._tenants.get(slug)
        invoice, line, publications = await self._stored(tenant, line_id)
        counting = (await self._aggregate.meters([line.meter])).get(line.meter)
        first = cursor == Cursor()
        windows = await self._aggregate.days(slug, line.meter, invoice.period) if first and counting else []
        found: Sequence[ExplainedBatch] = []
        following = None
        if counting is not None:
            found, following = await self._batches(
                slug, line.meter, counting, invoice.period, batches, cursor
            )
        return ExplainedLine(tenant, invoice, line, windows, found, publications, following)

    async def event(self, slug: str, event_id: str, source: str) -> ExplainedEvent:
        """The current version of an event with all meters that count it; none if the event is retracted.

        Raises NotFoundError, UnavailableError.
        """
        tenant = await self._tenants.get(slug)
        found = await self._ingest.event(slug, event_id, source)
        if found.event.retracted:
            return ExplainedEvent(tenant, found.event, found.batch, [])
        contributions = await self._aggregate.contributions_of(slug, found.event.batch_id)
        candidates = {one.meter for one in contributions if _is_within([_slice(one)], found.event)}
        meters = await self._aggregate.meters(candidates)
        names = {name for name in candidates & meters.keys() if _is_counted(meters[name], found.event)}
        period = month_of(found.event.time.ToDatetime(tzinfo=UTC), tenant.zone)
        uses = await asyncio.gather(*(self._use(tenant, name, period) for name in sorted(names)))
        return ExplainedEvent(tenant, found.event, found.batch, uses)

    async def _stored(
        self, tenant: Tenant, line_id: uuid.UUID
    ) -> tuple[Invoice, Line, Sequence[Publication]]:
        async with self._database.connection([tenant.tenant_id]) as connection:
            line = await invoices_store.line(connection, tenant.tenant_id, line_id)
            if line is None:
                raise NotFoundError("invoice line", str(line_id))
            invoice = await invoices_store.by_id(connection, tenant.tenant_id, line.invoice_id)
            if invoice is None:
                raise NotFoundError("invoice", str(line.invoice_id))
            rows = await ledger_store.of_period(connection, tenant.tenant_id, invoice.period_start)
        return invoice, line, [row for row in rows if row.meter == line.meter]

    async def _batches(
        self, slug: str, meter: str, counting: Counting, period: Period, limit: int, cursor: Cursor
    ) -> tuple[Sequence[ExplainedBatch], Cursor | None]:
        contributions, more = await self._aggregate.contributions(
            slug, meter, period, limit, cursor.contributions
        )
        if not contributions:
            return [], Cursor(more) if more else None
        slices = _slices_by_batch(contributions)
        batch_ids = sorted(slices)
        parts = [part for batch in slices.values() for part in batch]
        span = Period(min(part.start for part in parts), max(part.end for part in parts))
        (page, token), batches = await asyncio.gather(
            self._ingest.events(slug, batch_ids, counting.event_type, span, cursor.events),
            self._ingest.batches(slug, batch_ids),
        )
        # Contributions are paged by slice of time: an event of another slice belongs to another page.
        counted = [
            event
            for event in page
            if _is_counted(counting, event) and _is_within(slices.get(event.batch_id, []), event)
        ]
        explained = _grouped(batches, counted, every=not cursor.events)
        if token:
            return explained, Cursor(cursor.contributions, token)
        return explained, Cursor(more) if more else None

    async def _use(self, tenant: Tenant, meter: str, period: Period) -> EventUse:
        window = await self._aggregate.month(tenant.slug, meter, period)
        window_id = window.window_id if window else ""
        async with self._database.connection([tenant.tenant_id]) as connection:
            invoice = await invoices_store.by_period(connection, tenant.tenant_id, period.start)
            ids = [invoice.invoice_id] if invoice else []
            lines = await invoices_store.lines(connection, tenant.tenant_id, ids)
            rows = await ledger_store.of_period(connection, tenant.tenant_id, period.start)
            reason = await gaps_store.reason_of(connection, tenant.tenant_id, period.start, meter)
        line = next((line for found in lines.values() for line in found if line.meter == meter), None)
        mine = [row for row in rows if row.meter == meter]
        return EventUse(meter, window_id, invoice if line else None, line, mine, None if line else reason)


def _slice(contribution: usage_pb2.Contribution) -> Period:
    """The slice of time of a contribution: an hour, or its part before or after the tenant's midnight."""
    return Period(
        contribution.hour_start.ToDatetime(tzinfo=UTC), contribution.hour_end.ToDatetime(tzinfo=UTC)
    )


def _is_counted(counting: Counting, event: events_pb2.StoredEvent) -> bool:
    return counting.takes(event.type, event.dimensions, event.subject, event.quantities)


def _slices_by_batch(contributions: Sequence[usage_pb2.Contribution]) -> dict[str, list[Period]]:
    found: dict[str, list[Period]] = {}
    for contribution in contributions:
        found.setdefault(contribution.batch_id, []).append(_slice(contribution))
    return found


def _is_within(slices: Sequence[Period], event: events_pb2.StoredEvent) -> bool:
    time = event.time.ToDatetime(tzinfo=UTC)
    return any(time in one for one in slices)


def _grouped(
    batches: Sequence[events_pb2.Batch], events: Sequence[events_pb2.StoredEvent], *, every: bool
) -> list[ExplainedBatch]:
    """Events by batch, in the order of batches. `every` keeps batches without events: events may have been
    deleted by retention, while their windows are kept."""
    by_batch: Mapping[str, list[events_pb2.StoredEvent]] = {batch.batch_id: [] for batch in batches}
    for event in events:
        if event.batch_id in by_batch:
            by_batch[event.batch_id].append(event)
    return [
        ExplainedBatch(batch, by_batch[batch.batch_id])
        for batch in batches
        if every or by_batch[batch.batch_id]
    ]
