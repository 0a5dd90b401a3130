"""Usage from the aggregate service."""

from __future__ import annotations

import time
from decimal import Decimal

from grpc import aio
from meterline_protos.aggregate.v1 import usage_pb2, usage_pb2_grpc
from meterline_protos.common.v1 import types_pb2


async def month_total(channel: aio.Channel, tenant_id: str, meter: str) -> Decimal:
    """The total of a meter over the months of the last 40 days."""
    request = usage_pb2.QueryUsageRequest(tenant_id=tenant_id, meter=meter, grain=types_pb2.GRAIN_MONTH)
    request.range.start_time.FromSeconds(int(time.time()) - 40 * 86_400)
    request.range.end_time.FromSeconds(int(time.time()) + 86_400)
    stub = usage_pb2_grpc.UsageServiceStub(channel)
    answer = await stub.QueryUsage(request, timeout=10, wait_for_ready=True)
    return sum((Decimal(window.value) for window in answer.windows), Decimal(0))
