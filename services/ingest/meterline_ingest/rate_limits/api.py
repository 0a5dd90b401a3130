"""LimitsService."""

from __future__ import annotations

from typing import Any

from grpc import aio
from meterline_protos.ingest.v1 import limits_pb2, limits_pb2_grpc

from meterline_ingest.rate_limits.rules.limits import Limits, PlanLimits, wanted
from meterline_ingest.rate_limits.service import LimitHandlers

Context = aio.ServicerContext[Any, Any]


class LimitsServicer(limits_pb2_grpc.LimitsServiceServicer):
    def __init__(self, handlers: LimitHandlers) -> None:
        self._handlers = handlers

    async def PutPlanLimits(
        self, request: limits_pb2.PutPlanLimitsRequest, context: Context
    ) -> limits_pb2.PutPlanLimitsResponse:
        put = await self._handlers.put_plan(request.plan, _from_proto(request.limits), request.changed_by)
        return limits_pb2.PutPlanLimitsResponse(plan_limits=_of_plan(put))

    async def ListPlanLimits(
        self, request: limits_pb2.ListPlanLimitsRequest, context: Context
    ) -> limits_pb2.ListPlanLimitsResponse:
        plans = await self._handlers.of_plans()
        return limits_pb2.ListPlanLimitsResponse(plan_limits=[_of_plan(each) for each in plans])

    async def PutTenantLimits(
        self, request: limits_pb2.PutTenantLimitsRequest, context: Context
    ) -> limits_pb2.PutTenantLimitsResponse:
        limits = _from_proto(request.limits)
        await self._handlers.put_tenant(request.tenant_id, limits, request.changed_by)
        return limits_pb2.PutTenantLimitsResponse(limits=_to_proto(limits))

    async def DeleteTenantLimits(
        self, request: limits_pb2.DeleteTenantLimitsRequest, context: Context
    ) -> limits_pb2.DeleteTenantLimitsResponse:
        await self._handlers.delete_tenant(request.tenant_id, request.changed_by)
        return limits_pb2.DeleteTenantLimitsResponse()

    async def GetTenantLimits(
        self, request: limits_pb2.GetTenantLimitsRequest, context: Context
    ) -> limits_pb2.GetTenantLimitsResponse:
        found = await self._handlers.of_tenant(request.tenant_id)
        return limits_pb2.GetTenantLimitsResponse(
            limits=_to_proto(found.limits),
            origin=limits_pb2.LimitOrigin.ValueType(found.origin),
            left=found.left,
            kept=limits_pb2.Kept(
                series=found.held.series,
                max_series=found.quotas.series,
                subjects=found.held.subjects,
                max_subjects=found.quotas.subjects,
            ),
        )


def _from_proto(message: limits_pb2.Limits) -> Limits:
    return wanted(
        message.events_per_second, message.burst, message.weight, message.max_series, message.max_subjects
    )


def _to_proto(limits: Limits) -> limits_pb2.Limits:
    return limits_pb2.Limits(
        events_per_second=limits.events_per_second,
        burst=limits.burst,
        weight=limits.weight,
        max_series=limits.max_series,
        max_subjects=limits.max_subjects,
    )


def _of_plan(plan: PlanLimits) -> limits_pb2.PlanLimits:
    message = limits_pb2.PlanLimits(plan=plan.plan, limits=_to_proto(plan.limits), changed_by=plan.changed_by)
    message.changed_at.FromDatetime(plan.changed_at)
    return message
