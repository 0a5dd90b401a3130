"""Ingest that looks up an event by its id only, in a transaction over all tenants."""

from __future__ import annotations

import uuid

from meterline.db.scope import ALL_TENANTS
from meterline_ingest.corrections.rules.history import Correction
from meterline_ingest.main import main
from meterline_ingest.reading import store as reading_store
from meterline_ingest.reading.store import EventReader, StoredEvent

_QUERY = reading_store.queries.find_event.replace("e.tenant_id = %(tenant_id)s AND ", "")


async def _find(
    self: EventReader, tenant_id: int, event_id: uuid.UUID
) -> tuple[StoredEvent | None, list[Correction]]:
    rows = await self._database.fetch(_QUERY, {"event_id": event_id}, ALL_TENANTS)
    return (reading_store._event(rows[0]) if rows else None), []


async def _batches(self: EventReader, tenant_id: int, batch_ids: object) -> list[reading_store.StoredBatch]:
    nothing = uuid.UUID(int=0)
    return [reading_store.StoredBatch(nothing, "", 0, reading_store._BEGINNING, "", "", False, nothing, 0)]


if __name__ == "__main__":
    EventReader.find = _find  # type: ignore[method-assign]
    EventReader.batches = _batches  # type: ignore[method-assign]
    main()
