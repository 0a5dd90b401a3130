"""EventTypesService."""

from __future__ import annotations

from typing import Any

from grpc import aio
from meterline.db.unit_of_work import UnitOfWork
from meterline.tenants import TenantReplica
from meterline_protos.ingest.v1 import event_types_pb2, event_types_pb2_grpc

from meterline_ingest.handlers import event_types as handlers
from meterline_ingest.registry import TypeRegistry
from meterline_ingest.repository.event_types import EventTypeRepository
from meterline_ingest.servicers import event_type_messages as messages

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
            messages.read(request.event_type),
            request.changed_by,
        )
        return event_types_pb2.PutEventTypeResponse(event_type=messages.write(put))

    async def ListEventTypes(
        self, request: event_types_pb2.ListEventTypesRequest, context: Context
    ) -> event_types_pb2.ListEventTypesResponse:
        types = await handlers.list_event_types(self._tenants, self._registry, request.tenant_id)
        return event_types_pb2.ListEventTypesResponse(event_types=[messages.write(each) for each in types])

    async def ListEventTypeVersions(
        self, request: event_types_pb2.ListEventTypeVersionsRequest, context: Context
    ) -> event_types_pb2.ListEventTypeVersionsResponse:
        versions = await handlers.list_event_type_versions(
            self._tenants, self._repository, request.tenant_id, request.name
        )
        response = event_types_pb2.ListEventTypeVersionsResponse()
        for each in versions:
            message = response.versions.add(
                version=each.version, event_type=messages.write(each.event_type), changed_by=each.changed_by
            )
            message.changed_at.FromDatetime(each.changed_at)
        return response

    async def DescribeEventType(
        self, request: event_types_pb2.DescribeEventTypeRequest, context: Context
    ) -> event_types_pb2.DescribeEventTypeResponse:
        found = await handlers.describe_event_type(self._registry, request.name)
        return event_types_pb2.DescribeEventTypeResponse(
            quantities=found.quantities,
            dimensions=[
                event_types_pb2.DimensionDescription(name=name, values=values)
                for name, values in found.dimensions.items()
            ],
            partial=found.partial,
        )
