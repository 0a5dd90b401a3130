"""Reading what was accepted, and sending it again."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import datetime

from meterline.errors import InvalidArgumentError, NotFoundError
from meterline.tenants import TenantReplica

from meterline_ingest.domain import event_ids
from meterline_ingest.domain.history import Correction
from meterline_ingest.repository.reading import EventFilter, EventReader, Key, StoredBatch, StoredEvent


async def get_event(
    tenants: TenantReplica, reader: EventReader, slug: str, event_id: str, source: str
) -> tuple[StoredEvent, StoredBatch, list[Correction]]:
    """An event as it stands, what made it stand so, and all that was done to it.

    Raises NotFoundError, also for an event of another tenant.
    """
    tenant = await tenants.get(slug)
    raw, _ = event_ids.parse_one(source, event_id)
    event, corrections = await reader.find(tenant.tenant_id, uuid.UUID(bytes=raw))
    if event is None:
        raise NotFoundError("event", event_id)
    (batch,) = await reader.batches(tenant.tenant_id, [event.batch_id])
    return event, batch, corrections


async def list_events(
    tenants: TenantReplica,
    reader: EventReader,
    slug: str,
    chosen: EventFilter,
    after: Key | None,
    limit: int,
) -> list[StoredEvent]:
    tenant = await tenants.get(slug)
    return await reader.select(tenant.tenant_id, chosen, after, limit)


async def get_batches(
    tenants: TenantReplica, reader: EventReader, slug: str, batch_ids: Sequence[uuid.UUID]
) -> list[StoredBatch]:
    tenant = await tenants.get(slug)
    return await reader.batches(tenant.tenant_id, batch_ids)


async def get_totals(tenants: TenantReplica, reader: EventReader, slug: str) -> dict[str, int]:
    """Accepted events by tenant; of one tenant, or of all when `slug` is empty."""
    if slug:
        tenant = await tenants.get(slug)
        totals = await reader.totals(tenant.tenant_id)
        return {slug: totals.get(tenant.tenant_id, 0)}
    names = {tenant.tenant_id: tenant.slug for tenant in await tenants.all()}
    return {names[number]: count for number, count in (await reader.totals(None)).items() if number in names}


async def replay(reader: EventReader, start: datetime, end: datetime) -> int:
    """Messages of [start, end) go out again with the ids they had."""
    if start >= end:
        raise InvalidArgumentError("range", "start_time before end_time")
    return await reader.replay(start, end)
