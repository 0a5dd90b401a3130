"""CatalogueService."""

from __future__ import annotations

from typing import Any

from grpc import aio
from meterline.errors import InvalidArgumentError
from meterline.rpc import paging
from meterline_protos.ingest.v1 import catalogue_pb2, catalogue_pb2_grpc

from meterline_ingest.catalogue.service import Catalogue, check_count
from meterline_ingest.event_types.rules.enrichment import StoredEntry

Context = aio.ServicerContext[Any, Any]


class CatalogueServicer(catalogue_pb2_grpc.CatalogueServiceServicer):
    """See protos/meterline/ingest/v1/catalogue.proto."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue

    async def PutEntries(
        self, request: catalogue_pb2.PutEntriesRequest, context: Context
    ) -> catalogue_pb2.PutEntriesResponse:
        # Before they are copied: a request has room for half a million, which would block the event loop.
        check_count("entries", len(request.entries))
        entries = {(each.namespace, each.key): dict(each.attributes) for each in request.entries}
        if len(entries) < len(request.entries):
            raise InvalidArgumentError("entries", "one of each namespace and key")
        return catalogue_pb2.PutEntriesResponse(changed=await self._catalogue.put(request.tenant_id, entries))

    async def GetEntry(
        self, request: catalogue_pb2.GetEntryRequest, context: Context
    ) -> catalogue_pb2.GetEntryResponse:
        entry = await self._catalogue.get(request.tenant_id, request.namespace, request.key)
        return catalogue_pb2.GetEntryResponse(entry=_to_proto(entry))

    async def ListEntries(
        self, request: catalogue_pb2.ListEntriesRequest, context: Context
    ) -> catalogue_pb2.ListEntriesResponse:
        limit = paging.size(request.page_size)
        key = paging.key(request.page_token, paging.text)
        # One more than asked for shows whether there is a next page.
        found = await self._catalogue.page(
            request.tenant_id, request.namespace, key[0] if key else "", limit + 1
        )
        page = found[:limit]
        return catalogue_pb2.ListEntriesResponse(
            entries=[_to_proto(entry) for entry in page],
            next_page_token=paging.token(page[-1].key) if len(found) > limit else "",
        )

    async def DeleteEntries(
        self, request: catalogue_pb2.DeleteEntriesRequest, context: Context
    ) -> catalogue_pb2.DeleteEntriesResponse:
        deleted = await self._catalogue.delete(request.tenant_id, request.namespace, list(request.keys))
        return catalogue_pb2.DeleteEntriesResponse(deleted=deleted)


def _to_proto(entry: StoredEntry) -> catalogue_pb2.CatalogueEntry:
    message = catalogue_pb2.CatalogueEntry(
        namespace=entry.namespace, key=entry.key, version=entry.version, attributes=entry.attributes
    )
    message.changed_at.FromDatetime(entry.changed_at)
    return message
