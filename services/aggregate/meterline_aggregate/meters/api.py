"""The API of meters."""

from __future__ import annotations

from typing import Any

from grpc import aio
from meterline.auth.principals import current_principal
from meterline_protos.aggregate.v1 import meters_pb2, meters_pb2_grpc

from meterline_aggregate.meters.messages import to_definition, to_meter
from meterline_aggregate.meters.service import Meters

Context = aio.ServicerContext[Any, Any]


class MetersServicer(meters_pb2_grpc.MetersServiceServicer):
    """See protos/meterline/aggregate/v1/meters.proto. The server's wrapper turns exceptions into statuses."""

    def __init__(self, meters: Meters) -> None:
        self._meters = meters

    async def CreateMeter(
        self, request: meters_pb2.CreateMeterRequest, context: Context
    ) -> meters_pb2.CreateMeterResponse:
        meter, created = await self._meters.create(to_definition(request.meter))
        return meters_pb2.CreateMeterResponse(meter=to_meter(meter), created=created)

    async def ReferToMeter(
        self, request: meters_pb2.ReferToMeterRequest, context: Context
    ) -> meters_pb2.ReferToMeterResponse:
        return meters_pb2.ReferToMeterResponse(meter=to_meter(await self._meters.refer_to(request.name)))

    async def DeleteMeter(
        self, request: meters_pb2.DeleteMeterRequest, context: Context
    ) -> meters_pb2.DeleteMeterResponse:
        await self._meters.delete(request.name, current_principal().name)
        return meters_pb2.DeleteMeterResponse()

    async def ListMeters(
        self, request: meters_pb2.ListMetersRequest, context: Context
    ) -> meters_pb2.ListMetersResponse:
        meters = await self._meters.list(request.tenant_id)
        return meters_pb2.ListMetersResponse(meters=[to_meter(meter) for meter in meters])
