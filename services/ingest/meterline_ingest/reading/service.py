"""Reads accepted events and batches."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Sequence

from meterline.errors import NotFoundError
from meterline.tenants import Tenant, TenantReplica

from meterline_ingest.corrections.rules.history import Correction
from meterline_ingest.event import ids
from meterline_ingest.reading import time_pages
from meterline_ingest.reading.store import EventFilter, EventReader, StoredBatch, StoredEvent
from meterline_ingest.reading.time_pages import Page, Position

EXPORTED_EVENTS = 1_000


async def get_event(
    reader: EventReader, tenant: Tenant, event_id: str, source: str
) -> tuple[StoredEvent, StoredBatch, list[Correction]]:
    """An event in its present state, the batch of that state, and all corrections of the event.

    Raises NotFoundError, also for an event of another tenant.
    """
    raw, is_uuid = ids.parse_one(source, event_id)
    event, corrections = await reader.find(tenant.tenant_id, uuid.UUID(bytes=raw))
    if event is None:
        raise NotFoundError("event", event_id, ids.hint(source, is_uuid=is_uuid))
    (batch,) = await reader.batches(tenant.tenant_id, [event.batch_id])
    return event, batch, corrections


async def list_events(
    reader: EventReader, tenant: Tenant, chosen: EventFilter, after: Position, limit: int
) -> Page[StoredEvent]:
    return await time_pages.page(reader.select(tenant.tenant_id, chosen), after, limit)


async def export_events(
    reader: EventReader, tenant: Tenant, chosen: EventFilter, after: Position
) -> AsyncIterator[Page[StoredEvent]]:
    """Page after page. Holds no snapshot and no connection in between."""
    following: Position | None = after
    while following is not None:
        page = await list_events(reader, tenant, chosen, following, EXPORTED_EVENTS)
        following = page.following
        yield page


async def get_batches(
    reader: EventReader, tenant: Tenant, batch_ids: Sequence[uuid.UUID]
) -> list[StoredBatch]:
    return await reader.batches(tenant.tenant_id, batch_ids)


async def get_totals(tenants: TenantReplica, reader: EventReader, slug: str) -> dict[str, int]:
    """Accepted events by tenant; of one tenant, or of all when `slug` is empty."""
    if slug:
        tenant = await tenants.get(slug)
        totals = await reader.totals(tenant.tenant_id)
        return {slug: totals.get(tenant.tenant_id, 0)}
    names = {tenant.tenant_id: tenant.slug for tenant in await tenants.all()}
    return {names[number]: count for number, count in (await reader.totals(None)).items() if number in names}
