"""Calls that correct events, and queries of the remaining events."""

from __future__ import annotations

from typing import Any

from grpc import aio
from meterline_protos.events.v1 import events_pb2 as facts_pb2
from meterline_protos.ingest.v1 import corrections_pb2 as pb
from meterline_protos.ingest.v1 import corrections_pb2_grpc, events_pb2

from tests.support.capture import RunningIngest, Sample

WHO: dict[str, Any] = {"requested_by": "ann@example.com", "reason": "because the test says so"}


class Corrections:
    """Corrects events of one tenant."""

    def __init__(self, ingest: RunningIngest, tenant_id: str = "") -> None:
        """`tenant_id`: by default the tenant of `ingest`."""
        self._ingest = ingest
        self.tenant_id = tenant_id or ingest.tenant
        self.stub = corrections_pb2_grpc.CorrectionsServiceStub(ingest.channel)

    async def amend(self, event_id: str, changes: pb.EventChanges, **more: Any) -> pb.AmendEventResponse:
        request = pb.AmendEventRequest(
            tenant_id=self.tenant_id, event_id=event_id, changes=changes, **(WHO | more)
        )
        answer: pb.AmendEventResponse = await self.stub.AmendEvent(request, timeout=20)
        return answer

    async def retract(self, event_id: str, **more: Any) -> pb.RetractEventResponse:
        request = pb.RetractEventRequest(tenant_id=self.tenant_id, event_id=event_id, **(WHO | more))
        answer: pb.RetractEventResponse = await self.stub.RetractEvent(request, timeout=20)
        return answer

    async def correct(self, *, timeout: float = 60, **more: Any) -> pb.CorrectEventsResponse:
        request = pb.CorrectEventsRequest(tenant_id=self.tenant_id, **(WHO | more))
        answer: pb.CorrectEventsResponse = await self.stub.CorrectEvents(request, timeout=timeout)
        return answer

    async def import_events(
        self, import_id: str, *samples: Sample, source: str = "test", **more: Any
    ) -> pb.ImportEventsResponse:
        request = pb.ImportEventsRequest(
            tenant_id=self.tenant_id, source=source, import_id=import_id, **(WHO | more)
        )
        request.rows.events.extend(sample.to_row() for sample in samples)
        answer: pb.ImportEventsResponse = await self.stub.ImportEvents(request, timeout=20)
        return answer

    async def knows_tenant(self) -> bool:
        """Whether ingest knows the tenant."""
        try:
            await self.listed()
        except aio.AioRpcError:
            return False
        return True

    async def listed(self, *, page_size: int = 0, **chosen: Any) -> list[pb.Correction]:
        """All items of all pages."""
        request = pb.ListCorrectionsRequest(tenant_id=self.tenant_id, page_size=page_size, **chosen)
        found: list[pb.Correction] = []
        while True:
            answer = await self.stub.ListCorrections(request, timeout=20)
            found += answer.corrections
            if not answer.next_page_token:
                return found
            request.page_token = answer.next_page_token

    async def get(self, event_id: str, source: str = "") -> events_pb2.GetEventResponse:
        answer: events_pb2.GetEventResponse = await self._ingest.events.GetEvent(
            events_pb2.GetEventRequest(tenant_id=self.tenant_id, event_id=event_id, source=source)
        )
        return answer

    async def rows_of(self, *batch_ids: str, page_size: int = 0) -> list[events_pb2.StoredEvent]:
        """All events of the batches, from all pages."""
        request = events_pb2.ListEventsRequest(
            tenant_id=self.tenant_id, batch_ids=batch_ids, page_size=page_size
        )
        found: list[events_pb2.StoredEvent] = []
        while True:
            answer = await self._ingest.events.ListEvents(request, timeout=20)
            found += answer.events
            if not answer.next_page_token:
                return found
            request.page_token = answer.next_page_token

    async def total(self) -> int:
        answer = await self._ingest.events.GetTotals(events_pb2.GetTotalsRequest(tenant_id=self.tenant_id))
        return sum(total.accepted for total in answer.totals)


def signs(fact: facts_pb2.EventsAccepted) -> list[tuple[int, int]]:
    """(rows, retracted rows) of each batch of a message."""
    return [(batch.rows, batch.retracted) for batch in fact.batches]
