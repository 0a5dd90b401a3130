"""Reads the audit log."""

from __future__ import annotations

import uuid

from meterline.tenants import TenantReplica

from meterline_ingest.audit.rules import AuditEntry, AuditFilter
from meterline_ingest.audit.store import AuditReader
from meterline_ingest.event.names import NOBODY


async def list_audit_entries(
    tenants: TenantReplica,
    reader: AuditReader,
    slug: str,
    chosen: AuditFilter,
    before: uuid.UUID | None,
    limit: int,
) -> list[AuditEntry]:
    """The newest first; those that concern all tenants when `slug` is empty. Raises NotFoundError."""
    tenant_id = (await tenants.get(slug)).tenant_id if slug else NOBODY
    return await reader.entries(tenant_id, chosen, before, limit)
