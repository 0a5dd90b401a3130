"""EventTypesService."""

from __future__ import annotations

from typing import Any

from grpc import aio
from meterline.db.unit_of_work import UnitOfWork
from meterline.errors import InvalidArgumentError
from meterline.tenants import TenantReplica
from meterline_protos.ingest.v1 import event_types_pb2, event_types_pb2_grpc

from meterline_ingest.domain import decimals
from meterline_ingest.domain.event_types import Dimension, EventType, Quantity
from meterline_ingest.domain.limits import MAX_DIMENSION_VALUE
from meterline_ingest.handlers import event_types as handlers
from meterline_ingest.registry import TypeRegistry
from meterline_ingest.repository.event_types import EventTypeRepository

Context = aio.ServicerContext[Any, Any]


class EventTypesServicer(event_types_pb2_grpc.EventTypesServiceServicer):
    def __init__(
        self,
        unit_of_work: UnitOfWork,
        tenants: TenantReplica,
        repository: EventTypeRepository,
        registry: TypeRegistry,
    ) -> None:
        self._unit_of_work = unit_of_work
        self._tenants = tenants
        self._repository = repository
        self._registry = registry

    async def PutEventType(
        self, request: event_types_pb2.PutEventTypeRequest, context: Context
    ) -> event_types_pb2.PutEventTypeResponse:
        put = await handlers.put_event_type(
            self._unit_of_work,
            self._tenants,
            self._repository,
            self._registry,
            request.tenant_id,
            _from_proto(request.event_type),
            request.changed_by,
        )
        return event_types_pb2.PutEventTypeResponse(event_type=_to_proto(put))

    async def ListEventTypes(
        self, request: event_types_pb2.ListEventTypesRequest, context: Context
    ) -> event_types_pb2.ListEventTypesResponse:
        types = await handlers.list_event_types(self._tenants, self._registry, request.tenant_id)
        return event_types_pb2.ListEventTypesResponse(event_types=[_to_proto(each) for each in types])

    async def ListEventTypeVersions(
        self, request: event_types_pb2.ListEventTypeVersionsRequest, context: Context
    ) -> event_types_pb2.ListEventTypeVersionsResponse:
        versions = await handlers.list_event_type_versions(
            self._tenants, self._repository, request.tenant_id, request.name
        )
        response = event_types_pb2.ListEventTypeVersionsResponse()
        for each in versions:
            message = response.versions.add(
                version=each.version, event_type=_to_proto(each.event_type), changed_by=each.changed_by
            )
            message.changed_at.FromDatetime(each.changed_at)
        return response


def _from_proto(message: event_types_pb2.EventType) -> EventType:
    return EventType(
        message.name,
        tuple(_quantity(each) for each in message.quantities),
        tuple(
            Dimension(each.name, each.required, tuple(each.values), each.max_length or MAX_DIMENSION_VALUE)
            for each in message.dimensions
        ),
        message.subject_required,
    )


def _quantity(message: event_types_pb2.QuantityDefinition) -> Quantity:
    return Quantity(
        message.name,
        message.scale,
        message.required,
        message.signed,
        _bound(message, "minimum", message.minimum),
        _bound(message, "maximum", message.maximum),
    )


def _bound(message: event_types_pb2.QuantityDefinition, name: str, text: str) -> int | None:
    if not text:
        return None
    field = f"event_type.quantities[{message.name[:64]}].{name}"
    try:
        units, scale = decimals.parse(text)
    except decimals.DecimalError as error:
        raise InvalidArgumentError(field, str(error)) from error
    if scale > message.scale:
        raise InvalidArgumentError(field, f"at most {message.scale} decimals")
    return units * decimals.POWERS[message.scale - scale]


def _to_proto(event_type: EventType) -> event_types_pb2.EventType:
    return event_types_pb2.EventType(
        name=event_type.name,
        quantities=[
            event_types_pb2.QuantityDefinition(
                name=each.name,
                scale=each.scale,
                required=each.required,
                signed=each.signed,
                minimum="" if each.minimum is None else decimals.to_text(each.minimum, each.scale),
                maximum="" if each.maximum is None else decimals.to_text(each.maximum, each.scale),
            )
            for each in event_type.quantities
        ],
        dimensions=[
            event_types_pb2.DimensionDefinition(
                name=each.name, required=each.required, values=each.values, max_length=each.max_length
            )
            for each in event_type.dimensions
        ],
        subject_required=event_type.subject_required,
    )
