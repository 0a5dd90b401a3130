"""TimersService."""

from __future__ import annotations

from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from grpc import aio
from meterline.clock import to_datetime, to_us
from meterline.decimals import units_to_text
from meterline.errors import InvalidArgumentError
from meterline.rpc import fields, paging
from meterline_protos.ingest.v1 import timers_pb2, timers_pb2_grpc

from meterline_ingest.event_types.rules.types import TIMER_SCALE
from meterline_ingest.timers.rules import Content, Timer, TimerFilter, TimerState
from meterline_ingest.timers.service import Timers

Context = aio.ServicerContext[Any, Any]


class TimersServicer(timers_pb2_grpc.TimersServiceServicer):
    """See protos/meterline/ingest/v1/timers.proto."""

    def __init__(self, timers: Timers) -> None:
        self._timers = timers

    async def StartTimer(
        self, request: timers_pb2.StartTimerRequest, context: Context
    ) -> timers_pb2.StartTimerResponse:
        content = Content(
            request.source,
            request.type,
            request.subject,
            dict(request.dimensions),
            dict(request.quantities),
            dict(request.properties),
        )
        started_us = (
            _microseconds("started_at", request.started_at) if request.HasField("started_at") else None
        )
        timer, created = await self._timers.start(request.tenant_id, request.timer_id, content, started_us)
        return timers_pb2.StartTimerResponse(timer=_to_proto(request.tenant_id, timer), created=created)

    async def HeartbeatTimer(
        self, request: timers_pb2.HeartbeatTimerRequest, context: Context
    ) -> timers_pb2.HeartbeatTimerResponse:
        timer = await self._timers.heartbeat(request.tenant_id, request.timer_id)
        return timers_pb2.HeartbeatTimerResponse(timer=_to_proto(request.tenant_id, timer))

    async def StopTimer(
        self, request: timers_pb2.StopTimerRequest, context: Context
    ) -> timers_pb2.StopTimerResponse:
        stopped_us = (
            _microseconds("stopped_at", request.stopped_at) if request.HasField("stopped_at") else None
        )
        timer = await self._timers.stop(request.tenant_id, request.timer_id, stopped_us)
        return timers_pb2.StopTimerResponse(timer=_to_proto(request.tenant_id, timer))

    async def GetTimer(
        self, request: timers_pb2.GetTimerRequest, context: Context
    ) -> timers_pb2.GetTimerResponse:
        timer = await self._timers.get(request.tenant_id, request.timer_id)
        return timers_pb2.GetTimerResponse(timer=_to_proto(request.tenant_id, timer))

    async def ListTimers(
        self, request: timers_pb2.ListTimersRequest, context: Context
    ) -> timers_pb2.ListTimersResponse:
        limit = paging.size(request.page_size)
        key = paging.key(request.page_token, paging.text)
        chosen = TimerFilter(
            fields.choice("state", TimerState, request.state) if request.state else None,
            request.type or None,
            request.subject or None,
        )
        # One more than asked for shows whether there is a next page.
        found = await self._timers.page(request.tenant_id, chosen, key[0] if key else "", limit + 1)
        page = found[:limit]
        return timers_pb2.ListTimersResponse(
            timers=[_to_proto(request.tenant_id, timer) for timer in page],
            next_page_token=paging.token(page[-1].timer_id) if len(found) > limit else "",
        )


def _microseconds(field: str, moment: Timestamp) -> int:
    us = to_us(fields.instant(field, moment))
    if us < 1_000_000:
        raise InvalidArgumentError(field, "after 1970", "TIME_OUT_OF_RANGE")
    return us


def _to_proto(slug: str, timer: Timer) -> timers_pb2.Timer:
    content = timer.content
    message = timers_pb2.Timer(
        tenant_id=slug,
        timer_id=timer.timer_id,
        source=content.source,
        type=content.event_type,
        subject=content.subject,
        dimensions=content.dimensions,
        quantities=content.quantities,
        properties=content.properties,
        state=timers_pb2.TimerState.ValueType(timer.state),
        event_id="" if timer.event_id is None else str(timer.event_id),
        seconds="" if timer.stopped_us is None else units_to_text(timer.duration_us, TIMER_SCALE),
        problem=timer.problem,
    )
    message.started_at.FromDatetime(to_datetime(timer.started_us))
    message.last_heartbeat_at.FromDatetime(to_datetime(timer.last_heartbeat_us))
    if timer.stopped_us is not None:
        message.stopped_at.FromDatetime(to_datetime(timer.stopped_us))
    return message
