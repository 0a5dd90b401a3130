"""A fake of ingest for aggregate, with corrections: its published messages, and its answers."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import grpc
from grpc import aio
from meterline.ids import new_id
from meterline_protos.events.v1 import events_pb2 as facts_pb2
from meterline_protos.ingest.v1 import event_types_pb2, event_types_pb2_grpc, events_pb2, events_pb2_grpc

from tests.support.aggregate import Event, accepted, timestamp

Context = aio.ServicerContext[Any, Any]


@dataclass(frozen=True)
class Kept:
    """The current state of an event, and the batch that wrote it."""

    event: Event
    batch_id: uuid.UUID


@dataclass(frozen=True)
class _Row:
    tenant: int
    batch_id: uuid.UUID
    event: Event
    retracted: bool
    origin: uuid.UUID | None = None


def _types() -> dict[str, event_types_pb2.DescribeEventTypeResponse]:
    dimensions = [event_types_pb2.DimensionDescription(name=name) for name in ("cabin", "class", "origin")]
    return {"flight": event_types_pb2.DescribeEventTypeResponse(quantities=["miles"], dimensions=dimensions)}


@dataclass
class History:
    """All accepted events, and the remaining ones. `tenants` are names by number."""

    tenants: Mapping[int, str]
    rows: list[_Row] = field(default_factory=list)
    left: list[Kept] = field(default_factory=list)
    page_limit: int = 1_000
    # The fields of each event type; other types do not exist.
    types: Mapping[str, event_types_pb2.DescribeEventTypeResponse] = field(default_factory=_types)
    # Called with the ids of batches before their events are returned.
    before_answer: Callable[[Sequence[str]], Any] | None = None

    def reset(self, tenants: Mapping[int, str], page_limit: int) -> None:
        """Deletes all events, and replaces the tenants."""
        self.tenants, self.page_limit = tenants, page_limit
        self.rows.clear()
        self.left.clear()

    def accept(
        self, added: Sequence[Event], retracted: Sequence[Kept] = (), batch_id: uuid.UUID | None = None
    ) -> facts_pb2.EventsAccepted:
        """Records a batch that retracts some events and adds others; returns its message."""
        batch_id = batch_id or new_id()
        for kept in retracted:
            self.left.remove(kept)
            self.rows.append(_Row(kept.event.tenant, batch_id, kept.event, True, kept.batch_id))
        for event in added:
            self.left.append(Kept(event, batch_id))
            self.rows.append(_Row(event.tenant, batch_id, event, False))
        return accepted(
            [*(kept.event for kept in retracted), *added],
            batch_ids=[batch_id],
            origins=[[kept.batch_id for kept in retracted]],
        )

    def events(self) -> list[Event]:
        """The remaining events."""
        return [kept.event for kept in self.left]


class _Servicer(events_pb2_grpc.EventsServiceServicer):
    def __init__(self, history: History) -> None:
        self._history = history

    async def ListEvents(
        self, request: events_pb2.ListEventsRequest, context: Context
    ) -> events_pb2.ListEventsResponse:
        if self._history.before_answer is not None:
            await self._history.before_answer(request.batch_ids)
        first = request.time.start_time.ToDatetime(tzinfo=UTC)
        last = request.time.end_time.ToDatetime(tzinfo=UTC)
        wanted = set(request.batch_ids)
        found = [
            row
            for row in self._history.rows
            if self._history.tenants[row.tenant] == request.tenant_id
            and str(row.batch_id) in wanted
            and request.type in ("", row.event.type)
            and first <= row.event.time < last
        ]
        found.sort(key=_when)
        size = min(request.page_size, self._history.page_limit)
        start = int(request.page_token or 0)
        return events_pb2.ListEventsResponse(
            events=[_stored(self._history.tenants[row.tenant], row) for row in found[start : start + size]],
            next_page_token=str(start + size) if start + size < len(found) else "",
        )

    async def GetTotals(
        self, request: events_pb2.GetTotalsRequest, context: Context
    ) -> events_pb2.GetTotalsResponse:
        sums = dict.fromkeys(self._history.tenants.values(), 0)
        for row in self._history.rows:
            sums[self._history.tenants[row.tenant]] += -1 if row.retracted else 1
        return events_pb2.GetTotalsResponse(
            totals=[events_pb2.TenantTotal(tenant_id=slug, accepted=count) for slug, count in sums.items()]
        )


class _Types(event_types_pb2_grpc.EventTypesServiceServicer):
    def __init__(self, history: History) -> None:
        self._history = history

    async def DescribeEventType(
        self, request: event_types_pb2.DescribeEventTypeRequest, context: Context
    ) -> event_types_pb2.DescribeEventTypeResponse:
        if request.name not in self._history.types:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such type")
        return self._history.types[request.name]


def _when(row: _Row) -> datetime:
    return row.event.time


def _stored(slug: str, row: _Row) -> events_pb2.StoredEvent:
    return events_pb2.StoredEvent(
        event_id=str(new_id()),
        tenant_id=slug,
        type=row.event.type,
        subject=row.event.subject,
        time=timestamp(row.event.time),
        dimensions=row.event.dimensions,
        quantities=row.event.quantities,
        batch_id=str(row.batch_id),
        retracted=row.retracted,
        origin_batch_id=str(row.origin or ""),
    )


@asynccontextmanager
async def serving(history: History) -> AsyncIterator[str]:
    """Runs a server of the fake; yields its address."""
    server = aio.server()
    # RPCs that aggregate never calls keep their generated answer: UNIMPLEMENTED.
    servicer: Any = _Servicer(history)  # type: ignore[abstract]
    events_pb2_grpc.add_EventsServiceServicer_to_server(servicer, server)
    types: Any = _Types(history)  # type: ignore[abstract]
    event_types_pb2_grpc.add_EventTypesServiceServicer_to_server(types, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)
