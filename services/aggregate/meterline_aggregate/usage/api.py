"""The API of usage."""

from __future__ import annotations

from typing import Any, Final

from grpc import aio
from meterline.clock import to_datetime, to_us
from meterline.decimals import to_text
from meterline.rpc import fields, paging
from meterline.telemetry import traceparent
from meterline_protos.aggregate.v1 import usage_pb2, usage_pb2_grpc
from meterline_protos.common.v1 import types_pb2

from meterline_aggregate.usage.preview import Previews, WindowPreview
from meterline_aggregate.usage.rules.answers import Contribution, Window
from meterline_aggregate.usage.service import Range, Usage
from meterline_aggregate.windows.calendar import Grain, end_of, lineage_end

Context = aio.ServicerContext[Any, Any]

_WINDOWS: Final = 1_000
_MOST_WINDOWS: Final = 10_000


class UsageServicer(usage_pb2_grpc.UsageServiceServicer):
    """See protos/meterline/aggregate/v1/usage.proto."""

    def __init__(self, usage: Usage, previews: Previews) -> None:
        self._usage = usage
        self._previews = previews

    async def QueryUsage(
        self, request: usage_pb2.QueryUsageRequest, context: Context
    ) -> usage_pb2.QueryUsageResponse:
        where = _to_range(request.tenant_id, request.meter, request.range)
        grain = fields.choice("grain", Grain, request.grain)
        limit = paging.size(request.page_size, default=_WINDOWS, most=_MOST_WINDOWS)
        # One more than requested shows whether there is a next page.
        if request.by_group:
            place = paging.key(request.page_token, paging.instant, paging.int8)
            after = (to_us(place[0]), place[1]) if place else None
            zone, windows = await self._usage.groups(where, grain, after, limit + 1)
        else:
            key = paging.key(request.page_token, paging.instant)
            zone, windows = await self._usage.totals(where, grain, to_us(key[0]) if key else None, limit + 1)
        page = windows[:limit]
        token = ""
        if len(windows) > limit:
            last = page[-1]
            token = paging.token(last.start_us, *((last.group_id,) if request.by_group else ()))
        return usage_pb2.QueryUsageResponse(
            windows=[_to_window(where.meter, grain, zone, window) for window in page], next_page_token=token
        )

    async def ListContributions(
        self, request: usage_pb2.ListContributionsRequest, context: Context
    ) -> usage_pb2.ListContributionsResponse:
        where = _to_range(request.tenant_id, request.meter, request.range)
        limit = paging.size(request.page_size)
        key = paging.key(request.page_token, paging.instant, paging.identifier)
        after = (to_us(key[0]), key[1]) if key else None
        zone, found = await self._usage.contributions(where, after, limit + 1)
        page = found[:limit]
        token = paging.token(page[-1].start_us, page[-1].batch_id) if len(found) > limit else ""
        return usage_pb2.ListContributionsResponse(
            contributions=[_to_contribution(zone, one) for one in page], next_page_token=token
        )

    async def FindContributions(
        self, request: usage_pb2.FindContributionsRequest, context: Context
    ) -> usage_pb2.FindContributionsResponse:
        batch_id = fields.identifier("batch_id", request.batch_id)
        zone, found = await self._usage.contributions_of_batch(request.tenant_id, batch_id)
        return usage_pb2.FindContributionsResponse(
            contributions=[_to_contribution(zone, one) for one in found]
        )

    async def PreviewChanges(
        self, request: usage_pb2.PreviewChangesRequest, context: Context
    ) -> usage_pb2.PreviewChangesResponse:
        tenant, found = await self._previews.preview(request.tenant_id, request.events)
        return usage_pb2.PreviewChangesResponse(
            windows=[_to_preview(tenant.time_zone, window) for window in found]
        )


def _to_range(tenant: str, meter: str, given: types_pb2.TimeRange) -> Range:
    fields.tenant("tenant_id", tenant)
    fields.name("meter", meter)
    start, end = fields.closed_range("range", given)
    return Range(tenant, meter, to_us(start), to_us(end))


def _to_window(meter: str, grain: Grain, zone: str, window: Window) -> usage_pb2.Window:
    message = usage_pb2.Window(
        group=window.dimensions,
        rest=window.rest,
        value=to_text(window.value),
        event_count=window.event_count,
        revision=window.revision,
        aggregation=types_pb2.Aggregation.ValueType(window.aggregation),
        trace=traceparent.to_proto(window.traceparent) if window.traceparent else None,
        rebuilding=window.rebuilding,
        window_id=f"{meter}/{grain.name.lower()}/{window.start_us // 1_000_000}/{window.group_id}",
    )
    message.start_time.FromDatetime(to_datetime(window.start_us))
    message.end_time.FromDatetime(to_datetime(end_of(grain, zone, window.start_us)))
    return message


def _to_preview(zone: str, window: WindowPreview) -> usage_pb2.WindowPreview:
    message = usage_pb2.WindowPreview(
        meter=window.meter,
        grain=types_pb2.Grain.ValueType(window.grain),
        value_before=to_text(window.before),
        value_after="" if window.after is None else to_text(window.after),
        value_delta="" if window.delta is None else to_text(window.delta),
        event_count_before=window.events_before,
        event_count_after=window.events_after,
        needs_rebuild=window.after is None,
    )
    message.start_time.FromDatetime(to_datetime(window.start_us))
    message.end_time.FromDatetime(to_datetime(end_of(window.grain, zone, window.start_us)))
    return message


def _to_contribution(zone: str, one: Contribution) -> usage_pb2.Contribution:
    message = usage_pb2.Contribution(
        batch_id=str(one.batch_id),
        meter=one.meter,
        event_count=one.event_count,
        value="" if one.value is None else to_text(one.value),
    )
    message.hour_start.FromDatetime(to_datetime(one.start_us))
    message.hour_end.FromDatetime(to_datetime(lineage_end(zone, one.start_us)))
    return message
