"""Calls from aggregate to ingest. All of them only read."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Sequence
from typing import Final

import grpc
from grpc import aio
from meterline.clock import to_datetime
from meterline.rpc.client import Caller, Link, as_unavailable, is_not_found
from meterline_protos.common.v1 import types_pb2
from meterline_protos.ingest.v1 import event_types_pb2, event_types_pb2_grpc, events_pb2, events_pb2_grpc

_PAGE: Final = 1_000


class Ingest(Link):
    """The ingest service."""

    def __init__(self, address: str, caller: Caller) -> None:
        super().__init__("ingest", address, caller)

    async def totals(self, tenant: str) -> dict[str, int]:
        """Numbers of accepted events by tenant; `tenant` limits it to one. Raises UnavailableError."""
        try:
            answer = await self._stub.GetTotals(events_pb2.GetTotalsRequest(tenant_id=tenant))
        except aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return {}
            raise as_unavailable(self.name, error) from error
        return {total.tenant_id: total.accepted for total in answer.totals}

    async def events(
        self, tenant: str, batch_ids: Sequence[uuid.UUID], event_type: str, start_us: int, end_us: int
    ) -> AsyncIterator[Sequence[events_pb2.StoredEvent]]:
        """Pages of the events of at most 1,000 batches, of one type, in [start_us, end_us).

        Raises UnavailableError.
        """
        time = types_pb2.TimeRange()
        time.start_time.FromDatetime(to_datetime(start_us))
        time.end_time.FromDatetime(to_datetime(end_us))
        request = events_pb2.ListEventsRequest(
            tenant_id=tenant,
            batch_ids=[str(batch_id) for batch_id in batch_ids],
            type=event_type,
            time=time,
            page_size=_PAGE,
        )
        while True:
            answer = await self.ask(self._stub.ListEvents(request))
            if answer.events:
                yield answer.events
            if not answer.next_page_token:
                return
            request.page_token = answer.next_page_token

    async def describe(self, event_type: str) -> event_types_pb2.DescribeEventTypeResponse | None:
        """The fields that events of this type may have; None if the type is unknown.

        Raises UnavailableError.
        """
        stub = event_types_pb2_grpc.EventTypesServiceStub(self.channel)
        request = event_types_pb2.DescribeEventTypeRequest(name=event_type)
        try:
            return await stub.DescribeEventType(request)
        except aio.AioRpcError as error:
            if is_not_found(error):
                return None
            raise as_unavailable(self.name, error) from error

    @property
    def _stub(self) -> events_pb2_grpc.EventsServiceAsyncStub:
        return events_pb2_grpc.EventsServiceStub(self.channel)
