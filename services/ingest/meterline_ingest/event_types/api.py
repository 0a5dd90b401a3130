"""EventTypesService."""

from __future__ import annotations

from typing import Any

from grpc import aio
from meterline.tenants import TenantReplica
from meterline.transactions.unit_of_work import UnitOfWork
from meterline_protos.ingest.v1 import event_types_pb2, event_types_pb2_grpc

from meterline_ingest.event_types import messages
from meterline_ingest.event_types import service as handlers
from meterline_ingest.event_types.cache import TypeRegistry
from meterline_ingest.event_types.store import EventTypeRepository

Context = aio.ServicerContext[Any, Any]


class EventTypesServicer(event_types_pb2_grpc.EventTypesServiceServicer):
    def __init__(
        self,
        unit_of_work: UnitOfWork,
        tenants: TenantReplica,
        repository: EventTypeRepository,
        registry: TypeRegistry,
    ) -> None:
        self._store = handlers.TypeStore(unit_of_work, tenants, repository, registry)

    async def PutEventType(
        self, request: event_types_pb2.PutEventTypeRequest, context: Context
    ) -> event_types_pb2.PutEventTypeResponse:
        wanted = messages.read(request.event_type)
        put = await handlers.put_event_type(self._store, request.tenant_id, wanted, request.changed_by)
        return event_types_pb2.PutEventTypeResponse(event_type=messages.write(put))

    async def ListEventTypes(
        self, request: event_types_pb2.ListEventTypesRequest, context: Context
    ) -> event_types_pb2.ListEventTypesResponse:
        store = self._store
        types = await handlers.list_event_types(store.tenants, store.registry, request.tenant_id)
        return event_types_pb2.ListEventTypesResponse(event_types=[messages.write(each) for each in types])

    async def ListEventTypeVersions(
        self, request: event_types_pb2.ListEventTypeVersionsRequest, context: Context
    ) -> event_types_pb2.ListEventTypeVersionsResponse:
        versions = await handlers.list_event_type_versions(
            self._store.tenants, self._store.repository, request.tenant_id, request.name
        )
        response = event_types_pb2.ListEventTypeVersionsResponse()
        for each in versions:
            message = response.versions.add(
                version=each.version,
                event_type=messages.write(each.event_type),
                changed_by=each.changed_by,
                change=event_types_pb2.EventTypeChange.ValueType(each.change),
            )
            message.changed_at.FromDatetime(each.changed_at)
        return response

    async def ArchiveEventType(
        self, request: event_types_pb2.ArchiveEventTypeRequest, context: Context
    ) -> event_types_pb2.ArchiveEventTypeResponse:
        archived = await handlers.archive_event_type(
            self._store, request.tenant_id, request.name, request.changed_by, archived=True
        )
        return event_types_pb2.ArchiveEventTypeResponse(event_type=messages.write(archived))

    async def RestoreEventType(
        self, request: event_types_pb2.RestoreEventTypeRequest, context: Context
    ) -> event_types_pb2.RestoreEventTypeResponse:
        restored = await handlers.archive_event_type(
            self._store, request.tenant_id, request.name, request.changed_by, archived=False
        )
        return event_types_pb2.RestoreEventTypeResponse(event_type=messages.write(restored))

    async def DeleteEventType(
        self, request: event_types_pb2.DeleteEventTypeRequest, context: Context
    ) -> event_types_pb2.DeleteEventTypeResponse:
        await handlers.delete_event_type(self._store, request.tenant_id, request.name, request.changed_by)
        return event_types_pb2.DeleteEventTypeResponse()

    async def DescribeEventType(
        self, request: event_types_pb2.DescribeEventTypeRequest, context: Context
    ) -> event_types_pb2.DescribeEventTypeResponse:
        found = await handlers.describe_event_type(self._store.registry, request.name)
        return event_types_pb2.DescribeEventTypeResponse(
            quantities=found.quantities,
            dimensions=[
                event_types_pb2.DimensionDescription(name=name, values=values)
                for name, values in found.dimensions.items()
            ],
            partial=found.partial,
        )
