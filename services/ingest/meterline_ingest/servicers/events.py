"""EventsService: reading and replay."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from typing import Any

from grpc import aio
from meterline.clock import to_datetime, to_us
from meterline.errors import InvalidArgumentError
from meterline.rpc import paging
from meterline.tenants import TenantReplica
from meterline_protos.common.v1 import types_pb2
from meterline_protos.ingest.v1 import events_pb2, events_pb2_grpc

from meterline_ingest.domain import decimals
from meterline_ingest.handlers import events as handlers
from meterline_ingest.registry import TypeRegistry
from meterline_ingest.repository.reading import EventFilter, EventReader, StoredBatch, StoredEvent
from meterline_ingest.servicers import ranges

Context = aio.ServicerContext[Any, Any]

MAX_IDS = 1_000


class EventsServicer(events_pb2_grpc.EventsServiceServicer):
    def __init__(self, tenants: TenantReplica, reader: EventReader, types: TypeRegistry) -> None:
        self._tenants = tenants
        self._reader = reader
        self._types = types

    async def GetEvent(
        self, request: events_pb2.GetEventRequest, context: Context
    ) -> events_pb2.GetEventResponse:
        event, batch = await handlers.get_event(
            self._tenants, self._reader, request.tenant_id, request.event_id, request.source
        )
        (message,) = await self._events(request.tenant_id, [event])
        return events_pb2.GetEventResponse(event=message, batch=_batch(request.tenant_id, batch))

    async def ListEvents(
        self, request: events_pb2.ListEventsRequest, context: Context
    ) -> events_pb2.ListEventsResponse:
        limit = paging.size(request.page_size)
        chosen = EventFilter(
            _uuids(request.batch_ids),
            request.type or None,
            *ranges.from_proto(request.time if request.HasField("time") else None),
        )
        key = paging.key(request.page_token, int, str)
        after = (to_datetime(int(key[0])), uuid.UUID(str(key[1]))) if key else None
        found = await handlers.list_events(
            self._tenants, self._reader, request.tenant_id, chosen, after, limit + 1
        )
        page = found[:limit]
        return events_pb2.ListEventsResponse(
            events=await self._events(request.tenant_id, page),
            next_page_token=paging.token(*_sort_key(page[-1])) if len(found) > limit else "",
        )

    async def GetBatches(
        self, request: events_pb2.GetBatchesRequest, context: Context
    ) -> events_pb2.GetBatchesResponse:
        batches = await handlers.get_batches(
            self._tenants, self._reader, request.tenant_id, _uuids(request.batch_ids)
        )
        return events_pb2.GetBatchesResponse(batches=[_batch(request.tenant_id, each) for each in batches])

    async def GetTotals(
        self, request: events_pb2.GetTotalsRequest, context: Context
    ) -> events_pb2.GetTotalsResponse:
        totals = await handlers.get_totals(self._tenants, self._reader, request.tenant_id)
        return events_pb2.GetTotalsResponse(
            totals=[events_pb2.TenantTotal(tenant_id=slug, accepted=count) for slug, count in totals.items()]
        )

    async def Replay(self, request: events_pb2.ReplayRequest, context: Context) -> events_pb2.ReplayResponse:
        start, end = ranges.from_proto(request.range)
        if start is None or end is None:
            raise InvalidArgumentError("range", "start_time and end_time")
        return events_pb2.ReplayResponse(messages=await handlers.replay(self._reader, start, end))

    async def _events(self, slug: str, stored: Iterable[StoredEvent]) -> list[events_pb2.StoredEvent]:
        stored = list(stored)
        types = await self._types.current({event.event_type for event in stored})
        tenant = await self._tenants.get(slug)
        messages = []
        for event in stored:
            definition = types.find(tenant.tenant_id, event.event_type)
            quantities = () if definition is None else definition.quantities
            message = events_pb2.StoredEvent(
                event_id=event.text_id or str(event.event_id),
                tenant_id=slug,
                type=event.event_type,
                subject=event.subject,
                dimensions=event.dimensions,
                quantities={
                    quantity.name: decimals.to_text(units, quantity.scale)
                    for quantity, units in zip(quantities, event.units, strict=False)
                    if units is not None
                },
                batch_id=str(event.batch_id),
            )
            message.time.FromDatetime(event.occurred_at)
            messages.append(message)
        return messages


def _batch(slug: str, batch: StoredBatch) -> events_pb2.Batch:
    message = events_pb2.Batch(
        batch_id=str(batch.batch_id),
        tenant_id=slug,
        source=batch.source,
        event_count=batch.event_count,
        trace=types_pb2.TraceContext(trace_id=batch.trace_id, span_id=batch.span_id, sampled=batch.sampled),
        message_id=str(batch.message_id),
    )
    message.received_at.FromDatetime(batch.received_at)
    return message


def _uuids(texts: Iterable[str]) -> list[uuid.UUID]:
    try:
        ids = [uuid.UUID(text) for text in texts]
    except ValueError:
        raise InvalidArgumentError("batch_ids", "UUIDs") from None
    if not 0 < len(ids) <= MAX_IDS:
        raise InvalidArgumentError("batch_ids", f"1 to {MAX_IDS}")
    return ids


def _sort_key(event: StoredEvent) -> tuple[int, str]:
    return to_us(event.occurred_at), str(event.event_id)
