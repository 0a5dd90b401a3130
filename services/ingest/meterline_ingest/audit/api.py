"""AuditService."""

from __future__ import annotations

from typing import Any

from google.protobuf.json_format import ParseDict
from grpc import aio
from meterline.rpc import fields, paging
from meterline.tenants import TenantReplica
from meterline_protos.ingest.v1 import audit_pb2, audit_pb2_grpc

from meterline_ingest.audit import service as handlers
from meterline_ingest.audit.rules import AuditEntry, AuditFilter
from meterline_ingest.audit.store import AuditReader

Context = aio.ServicerContext[Any, Any]


class AuditServicer(audit_pb2_grpc.AuditServiceServicer):
    def __init__(self, tenants: TenantReplica, reader: AuditReader) -> None:
        self._tenants = tenants
        self._reader = reader

    async def ListAuditEntries(
        self, request: audit_pb2.ListAuditEntriesRequest, context: Context
    ) -> audit_pb2.ListAuditEntriesResponse:
        limit = paging.size(request.page_size)
        key = paging.key(request.page_token, paging.identifier)
        chosen = AuditFilter(
            request.action,
            request.principal,
            request.subject,
            *fields.time_range("time", request.time),
        )
        found = await handlers.list_audit_entries(
            self._tenants, self._reader, request.tenant_id, chosen, key[0] if key else None, limit + 1
        )
        page = found[:limit]
        return audit_pb2.ListAuditEntriesResponse(
            entries=map(_to_proto, page),
            next_page_token=paging.token(page[-1].audit_id) if len(found) > limit else "",
        )


def _to_proto(entry: AuditEntry) -> audit_pb2.AuditEntry:
    message = audit_pb2.AuditEntry(
        audit_id=str(entry.audit_id),
        principal=entry.principal,
        action=entry.action,
        subject=entry.subject,
        reason=entry.reason,
    )
    message.at.FromDatetime(entry.at)
    ParseDict(dict(entry.details), message.details)
    return message
