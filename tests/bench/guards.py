"""Guards of capture: the rules of an event type, and limits for every tenant; on, or off for comparison.

Replicas learn of a change within a second or two. After a change `Guards` therefore waits until two separate
tenants without load are treated by the new state.
"""

from __future__ import annotations

import uuid
from typing import Final

import grpc
from grpc import aio
from meterline_protos.ingest.v1 import (
    capture_pb2,
    capture_pb2_grpc,
    event_types_pb2,
    event_types_pb2_grpc,
    limits_pb2,
    limits_pb2_grpc,
)

from tests.bench.encoding import SOURCE
from tests.bench.workload import DIMENSION, EVENT_TYPE, MAX_UNITS, QUANTITY, REGIONS, SCALE, region_name
from tests.support.polling import eventually

PLAN: Final = "basic"
_JUDGED: Final = "bench-judged"
_LIMITED: Final = "bench-limited"
TENANTS: Final = (_JUDGED, _LIMITED)

# In force but never reached: the benchmark measures the cost of enforcement.
_RATE: Final = 100_000_000
_GIVE_UP_SECONDS: Final = 30.0


class Guards:
    """The guards of one mesh, whose tenants are on `PLAN`."""

    def __init__(self, ingest: aio.Channel) -> None:
        self._types = event_types_pb2_grpc.EventTypesServiceStub(ingest)
        self._limits = limits_pb2_grpc.LimitsServiceStub(ingest)
        self._capture = capture_pb2_grpc.CaptureServiceStub(ingest)
        self._on: bool | None = None

    async def put(self, *, on: bool) -> None:
        """Changes the guards; returns when the new state applies to every event. `TENANTS` must exist."""
        if on is self._on:
            return
        await self._types.PutEventType(event_types_pb2.PutEventTypeRequest(event_type=_event_type(on=on)))
        await eventually(lambda: self._limit_tenant(1 if on else 0), seconds=_GIVE_UP_SECONDS)
        await self._limits.PutPlanLimits(
            limits_pb2.PutPlanLimitsRequest(plan=PLAN, limits=_limits(_RATE if on else 0), changed_by=SOURCE)
        )
        await eventually(self._seen, seconds=_GIVE_UP_SECONDS, until=lambda seen: seen == (on, on))
        self._on = on

    async def _limit_tenant(self, events_per_second: int) -> bool:
        """False while ingest does not know the newly onboarded tenant yet."""
        limits = _limits(events_per_second)
        request = limits_pb2.PutTenantLimitsRequest(tenant_id=_LIMITED, limits=limits, changed_by=SOURCE)
        try:
            await self._limits.PutTenantLimits(request)
        except aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                raise
            return False
        return True

    async def _seen(self) -> tuple[bool, bool]:
        """Whether an invalid event is rejected, and whether a limit is enforced."""
        answer = await self._capture.Report(_false_event(_JUDGED))
        try:
            for _ in range(2):
                await self._capture.Report(_false_event(_LIMITED))
        except aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                raise
            return answer.rejected == 1, True
        return answer.rejected == 1, False


def _limits(events_per_second: int) -> limits_pb2.Limits:
    return limits_pb2.Limits(events_per_second=events_per_second, burst=events_per_second)


def _event_type(*, on: bool) -> event_types_pb2.EventType:
    """The event type of the load: with all rules if guards are on, else only with the required fields."""
    quantity = event_types_pb2.QuantityDefinition(name=QUANTITY, scale=SCALE)
    dimension = event_types_pb2.DimensionDefinition(name=DIMENSION)
    if on:
        quantity.required, quantity.minimum, quantity.maximum = True, "0", str(MAX_UNITS)
        dimension.required = True
        dimension.values.extend(region_name(number) for number in range(REGIONS))
    return event_types_pb2.EventType(
        name=EVENT_TYPE, quantities=[quantity], dimensions=[dimension], subject_required=on
    )


def _false_event(tenant: str) -> capture_pb2.ReportRequest:
    """An event that is valid except for its unknown region."""
    event = capture_pb2.Event(
        id=str(uuid.uuid4()),
        type=EVENT_TYPE,
        subject=tenant,
        dimensions={DIMENSION: "nowhere"},
        quantities={QUANTITY: "1"},
    )
    event.time.GetCurrentTime()
    return capture_pb2.ReportRequest(
        tenant_id=tenant, source=SOURCE, rows=capture_pb2.EventRows(events=[event])
    )
