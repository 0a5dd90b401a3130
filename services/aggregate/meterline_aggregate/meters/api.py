"""The API of meters: protobuf to definitions and back."""

from __future__ import annotations

from typing import Any

from grpc import aio
from meterline.auth.principals import current_principal
from meterline.rpc import fields
from meterline_protos.aggregate.v1 import meters_pb2, meters_pb2_grpc
from meterline_protos.common.v1 import types_pb2

from meterline_aggregate.meters.rules.definitions import Aggregation, Definition, Meter
from meterline_aggregate.meters.service import Meters

METERS_SERVICE = meters_pb2.DESCRIPTOR.services_by_name["MetersService"].full_name

Context = aio.ServicerContext[Any, Any]


class MetersServicer(meters_pb2_grpc.MetersServiceServicer):
    """See protos/meterline/aggregate/v1/meters.proto. Failures become statuses in the server's wrapper."""

    def __init__(self, meters: Meters) -> None:
        self._meters = meters

    async def CreateMeter(
        self, request: meters_pb2.CreateMeterRequest, context: Context
    ) -> meters_pb2.CreateMeterResponse:
        meter, created = await self._meters.create(_to_definition(request.meter))
        return meters_pb2.CreateMeterResponse(meter=_to_meter(meter), created=created)

    async def ReferToMeter(
        self, request: meters_pb2.ReferToMeterRequest, context: Context
    ) -> meters_pb2.ReferToMeterResponse:
        return meters_pb2.ReferToMeterResponse(meter=_to_meter(await self._meters.refer_to(request.name)))

    async def DeleteMeter(
        self, request: meters_pb2.DeleteMeterRequest, context: Context
    ) -> meters_pb2.DeleteMeterResponse:
        await self._meters.delete(request.name, current_principal().name)
        return meters_pb2.DeleteMeterResponse()

    async def ListMeters(
        self, request: meters_pb2.ListMetersRequest, context: Context
    ) -> meters_pb2.ListMetersResponse:
        meters = await self._meters.list(request.tenant_id)
        return meters_pb2.ListMetersResponse(meters=[_to_meter(meter) for meter in meters])


def _to_definition(meter: meters_pb2.Meter) -> Definition:
    return Definition(
        meter.name,
        meter.event_type,
        fields.choice("meter.aggregation", Aggregation, meter.aggregation),
        meter.quantity,
        meter.unique_dimension,
        tuple(meter.group_by),
        tuple(sorted(meter.filter.items())),
    )


def _to_meter(meter: Meter) -> meters_pb2.Meter:
    definition = meter.definition
    return meters_pb2.Meter(
        name=definition.name,
        event_type=definition.event_type,
        aggregation=types_pb2.Aggregation.ValueType(definition.aggregation),
        quantity=definition.quantity,
        unique_dimension=definition.unique_dimension,
        group_by=definition.group_by,
        filter=dict(definition.filter),
    )
