"""EventTypesService."""

from __future__ import annotations

from typing import Any

from grpc import aio
from meterline.db.unit_of_work import UnitOfWork
from meterline_protos.ingest.v1 import event_types_pb2, event_types_pb2_grpc

from meterline_ingest import handlers
from meterline_ingest.domain.event_types import Dimension, EventType, Quantity
from meterline_ingest.registry import TypeRegistry
from meterline_ingest.repository.event_types import EventTypeRepository

Context = aio.ServicerContext[Any, Any]


class EventTypesServicer(event_types_pb2_grpc.EventTypesServiceServicer):
    def __init__(
        self, unit_of_work: UnitOfWork, repository: EventTypeRepository, registry: TypeRegistry
    ) -> None:
        self._unit_of_work = unit_of_work
        self._repository = repository
        self._registry = registry

    async def PutEventType(
        self, request: event_types_pb2.PutEventTypeRequest, context: Context
    ) -> event_types_pb2.PutEventTypeResponse:
        wanted = _from_proto(request.event_type)
        put = await handlers.put_event_type(self._unit_of_work, self._repository, self._registry, wanted)
        return event_types_pb2.PutEventTypeResponse(event_type=_to_proto(put))

    async def ListEventTypes(
        self, request: event_types_pb2.ListEventTypesRequest, context: Context
    ) -> event_types_pb2.ListEventTypesResponse:
        types = await self._repository.all()
        return event_types_pb2.ListEventTypesResponse(event_types=[_to_proto(each) for each in types])


def _from_proto(message: event_types_pb2.EventType) -> EventType:
    return EventType(
        message.name,
        tuple(Quantity(q.name, q.scale, q.required, q.signed) for q in message.quantities),
        tuple(Dimension(d.name, d.required) for d in message.dimensions),
        message.subject_required,
    )


def _to_proto(event_type: EventType) -> event_types_pb2.EventType:
    return event_types_pb2.EventType(
        name=event_type.name,
        quantities=[
            event_types_pb2.QuantityDefinition(
                name=q.name, scale=q.scale, required=q.required, signed=q.signed
            )
            for q in event_type.quantities
        ],
        dimensions=[
            event_types_pb2.DimensionDefinition(name=d.name, required=d.required)
            for d in event_type.dimensions
        ],
        subject_required=event_type.subject_required,
    )
