"""The API of reconciliation: comparisons to protobuf."""

from __future__ import annotations

from typing import Any

from grpc import aio
from meterline_protos.aggregate.v1 import reconciliation_pb2, reconciliation_pb2_grpc

from meterline_aggregate.reconciliation.service import Reconciler

Context = aio.ServicerContext[Any, Any]


class ReconciliationServicer(reconciliation_pb2_grpc.ReconciliationServiceServicer):
    """See protos/meterline/aggregate/v1/reconciliation.proto."""

    def __init__(self, reconciler: Reconciler) -> None:
        self._reconciler = reconciler

    async def Compare(
        self, request: reconciliation_pb2.CompareRequest, context: Context
    ) -> reconciliation_pb2.CompareResponse:
        comparisons = await self._reconciler.compare(request.tenant_id)
        return reconciliation_pb2.CompareResponse(
            tenants=[
                reconciliation_pb2.TenantComparison(
                    tenant_id=one.tenant, accepted=one.accepted, aggregated=one.aggregated, gap=one.gap
                )
                for one in comparisons
            ]
        )
