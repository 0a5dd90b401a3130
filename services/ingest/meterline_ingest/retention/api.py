"""RetentionService."""

from __future__ import annotations

from typing import Any

from grpc import aio
from meterline_protos.ingest.v1 import retention_pb2, retention_pb2_grpc

from meterline_ingest.audit.rules import ChangeRequest
from meterline_ingest.retention.holds import Holding
from meterline_ingest.retention.rules import LegalHold

Context = aio.ServicerContext[Any, Any]


class RetentionServicer(retention_pb2_grpc.RetentionServiceServicer):
    def __init__(self, holding: Holding) -> None:
        self._holding = holding

    async def PutLegalHold(
        self, request: retention_pb2.PutLegalHoldRequest, context: Context
    ) -> retention_pb2.PutLegalHoldResponse:
        change = ChangeRequest(request.requested_by, request.reason)
        hold = await self._holding.put(request.tenant_id, request.name, change)
        return retention_pb2.PutLegalHoldResponse(legal_hold=_to_proto(request.tenant_id, hold))

    async def ReleaseLegalHold(
        self, request: retention_pb2.ReleaseLegalHoldRequest, context: Context
    ) -> retention_pb2.ReleaseLegalHoldResponse:
        change = ChangeRequest(request.requested_by, request.reason)
        hold = await self._holding.release(request.tenant_id, request.name, change)
        return retention_pb2.ReleaseLegalHoldResponse(legal_hold=_to_proto(request.tenant_id, hold))

    async def ListLegalHolds(
        self, request: retention_pb2.ListLegalHoldsRequest, context: Context
    ) -> retention_pb2.ListLegalHoldsResponse:
        holds = await self._holding.list(request.tenant_id, released=request.released)
        return retention_pb2.ListLegalHoldsResponse(
            legal_holds=[_to_proto(request.tenant_id, hold) for hold in holds]
        )


def _to_proto(slug: str, hold: LegalHold) -> retention_pb2.LegalHold:
    message = retention_pb2.LegalHold(
        tenant_id=slug, name=hold.name, reason=hold.reason, requested_by=hold.requested_by
    )
    message.placed_at.FromDatetime(hold.placed_at)
    if hold.released_at is not None:
        message.released_at.FromDatetime(hold.released_at)
    return message
