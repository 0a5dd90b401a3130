"""The audit log: adds entries in the transaction of the change that they record, and reads them."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from meterline.db.pool import Connection, Database
from meterline.db.queries import Queries
from meterline.ids import new_id
from psycopg.types.json import Jsonb

from meterline_ingest.audit.rules import AuditEntry, AuditFilter

queries = Queries("meterline_ingest.audit", "store.sql")


async def record(
    connection: Connection,
    tenant_id: int,
    *,
    action: str,
    subject: str,
    principal: str,
    reason: str,
    details: Mapping[str, Any],
) -> uuid.UUID:
    """Records a change in its own transaction, which must be one of the tenant's; returns the entry's id."""
    audit_id = new_id()
    await connection.execute(
        queries.record,
        {
            "tenant_id": tenant_id,
            "audit_id": audit_id,
            "principal": principal,
            "action": action,
            "subject": subject,
            "reason": reason,
            "details": Jsonb(dict(details)),
        },
    )
    return audit_id


class AuditReader:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def entries(
        self, tenant_id: int, chosen: AuditFilter, before: uuid.UUID | None, limit: int
    ) -> list[AuditEntry]:
        """The newest first, made before the entry `before`."""
        rows = await self._database.fetch(
            queries.entries,
            {
                "tenant_id": tenant_id,
                "before": before,
                "action": chosen.action,
                "principal": chosen.principal,
                "subject": chosen.subject,
                "start": chosen.start,
                "end": chosen.end,
                "limit": limit,
            },
            tenants=[tenant_id],
        )
        return [AuditEntry(*row) for row in rows]
