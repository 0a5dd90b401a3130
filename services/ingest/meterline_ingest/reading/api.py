"""EventsService: reading and replay."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

from grpc import aio
from meterline.auth.principals import Permission
from meterline.auth.rules import demand
from meterline.clock import Clock, to_datetime, to_us
from meterline.errors import InvalidArgumentError
from meterline.rpc import fields, paging
from meterline.tenants import Tenant, TenantReplica
from meterline_protos.ingest.v1 import events_pb2, events_pb2_grpc

from meterline_ingest.audit.rules import ChangeRequest
from meterline_ingest.corrections import messages as corrections_messages
from meterline_ingest.event_types.cache import TypeRegistry
from meterline_ingest.reading import service as handlers
from meterline_ingest.reading.messages import batch_to_proto, events_to_proto
from meterline_ingest.reading.replay import Replayed, Replayer
from meterline_ingest.reading.store import EventFilter, EventReader, StoredEvent
from meterline_ingest.reading.time_pages import Page, Position
from meterline_ingest.reading.unseal import Unsealer

Context = aio.ServicerContext[Any, Any]
Choice = events_pb2.ListEventsRequest | events_pb2.ExportEventsRequest

MAX_IDS: Final = 1_000
# By default clients accept messages of up to 4 MiB.
ANSWER_BYTES: Final = 3 << 20


class EventsServicer(events_pb2_grpc.EventsServiceServicer):
    def __init__(
        self,
        tenants: TenantReplica,
        reader: EventReader,
        types: TypeRegistry,
        unsealer: Unsealer,
        replayer: Replayer,
        clock: Clock,
    ) -> None:
        self._tenants = tenants
        self._reader = reader
        self._types = types
        self._unsealer = unsealer
        self._replayer = replayer
        self._clock = clock

    async def GetEvent(
        self, request: events_pb2.GetEventRequest, context: Context
    ) -> events_pb2.GetEventResponse:
        asked = _asked(request)
        tenant = await self._tenants.get(request.tenant_id)
        event, batch, made = await handlers.get_event(self._reader, tenant, request.event_id, request.source)
        (message,) = await self._messages(tenant, [event], asked)
        types = await self._types.current([event.event_type])
        definition = types.find(tenant.tenant_id, event.event_type)
        return events_pb2.GetEventResponse(
            event=message,
            batch=batch_to_proto(tenant.slug, batch),
            corrections=[corrections_messages.correction(each, definition) for each in made],
        )

    async def ListEvents(
        self, request: events_pb2.ListEventsRequest, context: Context
    ) -> events_pb2.ListEventsResponse:
        asked = _asked(request)
        batch_ids = fields.identifiers("batch_ids", request.batch_ids, most=MAX_IDS, least=0)
        chosen, start = self._choice(request, batch_ids)
        after = _position("page_token", request.page_token) or start
        tenant = await self._tenants.get(request.tenant_id)
        page = await handlers.list_events(self._reader, tenant, chosen, after, paging.size(request.page_size))
        first, *_ = _cut(await self._messages(tenant, page.events, asked))
        return events_pb2.ListEventsResponse(events=first, next_page_token=_token(page, len(first)))

    async def ExportEvents(
        self, request: events_pb2.ExportEventsRequest, context: Context
    ) -> AsyncIterator[events_pb2.ExportEventsResponse]:
        asked = _asked(request)
        chosen, start = self._choice(request, [])
        after = _position("resume_token", request.resume_token) or start
        tenant = await self._tenants.get(request.tenant_id)
        async for page in handlers.export_events(self._reader, tenant, chosen, after):
            sent = 0
            for events in _cut(await self._messages(tenant, page.events, asked)):
                sent += len(events)
                yield events_pb2.ExportEventsResponse(events=events, resume_token=_token(page, sent))

    async def GetBatches(
        self, request: events_pb2.GetBatchesRequest, context: Context
    ) -> events_pb2.GetBatchesResponse:
        batch_ids = fields.identifiers("batch_ids", request.batch_ids, most=MAX_IDS)
        tenant = await self._tenants.get(request.tenant_id)
        batches = await handlers.get_batches(self._reader, tenant, batch_ids)
        return events_pb2.GetBatchesResponse(batches=[batch_to_proto(tenant.slug, each) for each in batches])

    async def GetTotals(
        self, request: events_pb2.GetTotalsRequest, context: Context
    ) -> events_pb2.GetTotalsResponse:
        totals = await handlers.get_totals(self._tenants, self._reader, request.tenant_id)
        return events_pb2.GetTotalsResponse(
            totals=[events_pb2.TenantTotal(tenant_id=slug, accepted=count) for slug, count in totals.items()]
        )

    async def Replay(self, request: events_pb2.ReplayRequest, context: Context) -> events_pb2.ReplayResponse:
        found = await self._replay(request)
        return events_pb2.ReplayResponse(messages=found.again, waiting=found.waiting)

    async def _replay(self, request: events_pb2.ReplayRequest) -> Replayed:
        given = [bool(request.event_ids), bool(request.batch_ids), request.HasField("range")]
        if sum(given) != 1:
            raise InvalidArgumentError("range, event_ids, batch_ids", "one of them")
        if request.HasField("range"):
            return await self._replayer.range(*fields.closed_range("range", request.range))
        tenant = await self._tenants.get(request.tenant_id)
        if request.batch_ids:
            batch_ids = fields.identifiers("batch_ids", request.batch_ids, most=MAX_IDS)
            return await self._replayer.batches(tenant, batch_ids)
        if len(request.event_ids) > MAX_IDS:
            raise InvalidArgumentError("event_ids", f"1 to {MAX_IDS}")
        return await self._replayer.events(tenant, request.source, request.event_ids)

    def _choice(self, request: Choice, batch_ids: Sequence[uuid.UUID]) -> tuple[EventFilter, Position]:
        """The filter of a request, and the position where it begins."""
        start, end = fields.time_range("time", request.time)
        if not batch_ids:
            if start is None:
                raise InvalidArgumentError("time.start_time", "needed without batch_ids")
            end = end or to_datetime(self._clock.now_us())
        chosen = EventFilter(
            batch_ids,
            end,
            request.type or None,
            request.subject or None,
            request.source or None,
            dict(request.dimensions),
        )
        return chosen, Position.before(to_us(start or fields.EARLIEST))

    async def _messages(
        self, tenant: Tenant, events: Sequence[StoredEvent], asked: ChangeRequest | None
    ) -> list[events_pb2.StoredEvent]:
        types = await self._types.current({event.event_type for event in events})
        opened = await self._unsealer.open(tenant.tenant_id, events, asked)
        return events_to_proto(tenant.slug, tenant.tenant_id, events, types, opened)


def _cut(events: Sequence[events_pb2.StoredEvent]) -> list[list[events_pb2.StoredEvent]]:
    """Splits events into responses of a size that clients accept; at least one."""
    answers: list[list[events_pb2.StoredEvent]] = [[]]
    size = 0
    for event in events:
        size += event.ByteSize()
        if answers[-1] and size > ANSWER_BYTES:
            answers.append([])
            size = event.ByteSize()
        answers[-1].append(event)
    return answers


def _asked(request: events_pb2.GetEventRequest | Choice) -> ChangeRequest | None:
    """Who requests to see sealed values, if anyone."""
    if not request.HasField("unseal"):
        return None
    demand(Permission.UNSEAL)
    return ChangeRequest(request.unseal.requested_by, request.unseal.reason)


def _position(field: str, token: str) -> Position | None:
    """Reads a token of `_token`; None for an empty one."""
    key = paging.key(token, paging.instant, paging.identifier, paging.int4, field=field)
    return None if key is None else Position(to_us(key[0]), *key[1:])


def _token(page: Page[StoredEvent], sent: int) -> str:
    """The token of what follows the first events of a page."""
    following = page.following if sent == len(page.events) else page.events[sent - 1].position
    return "" if following is None else paging.token(following.time_us, following.event_id, following.step)
