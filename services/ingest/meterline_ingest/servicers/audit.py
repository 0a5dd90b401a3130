"""AuditService."""

from __future__ import annotations

import uuid
from typing import Any

from google.protobuf.json_format import ParseDict
from grpc import aio
from meterline.errors import InvalidArgumentError
from meterline.rpc import paging
from meterline.tenants import TenantReplica
from meterline_protos.ingest.v1 import audit_pb2, audit_pb2_grpc

from meterline_ingest.domain.audit import AuditEntry, AuditFilter
from meterline_ingest.handlers import audit as handlers
from meterline_ingest.repository.audit import AuditReader
from meterline_ingest.servicers import ranges

Context = aio.ServicerContext[Any, Any]


class AuditServicer(audit_pb2_grpc.AuditServiceServicer):
    def __init__(self, tenants: TenantReplica, reader: AuditReader) -> None:
        self._tenants = tenants
        self._reader = reader

    async def ListAuditEntries(
        self, request: audit_pb2.ListAuditEntriesRequest, context: Context
    ) -> audit_pb2.ListAuditEntriesResponse:
        limit = paging.size(request.page_size)
        chosen = AuditFilter(
            request.action,
            request.principal,
            request.subject,
            *ranges.from_proto(request.time if request.HasField("time") else None),
        )
        found = await handlers.list_audit_entries(
            self._tenants, self._reader, request.tenant_id, chosen, _before(request.page_token), limit + 1
        )
        page = found[:limit]
        return audit_pb2.ListAuditEntriesResponse(
            entries=map(_to_proto, page),
            next_page_token=paging.token(str(page[-1].audit_id)) if len(found) > limit else "",
        )


def _before(token: str) -> uuid.UUID | None:
    key = paging.key(token, str)
    if key is None:
        return None
    try:
        return uuid.UUID(str(key[0]))
    except ValueError:
        raise InvalidArgumentError("page_token", "must be the next_page_token of an earlier answer") from None


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
