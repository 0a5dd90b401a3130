"""Legal holds of tenants."""

from __future__ import annotations

from meterline.db.pool import Connection
from meterline.db.queries import Queries

from meterline_ingest.audit.rules import ChangeRequest
from meterline_ingest.retention.rules import LegalHold

queries = Queries("meterline_ingest.retention", "store.sql")


class LegalHolds:
    """Methods need a transaction of the tenant."""

    async def placed(self, connection: Connection, tenant_id: int) -> list[str]:
        """Names of the holds in force."""
        return [f"legal hold {hold.name}" for hold in await self.all(connection, tenant_id)]

    async def all(self, connection: Connection, tenant_id: int, *, released: bool = False) -> list[LegalHold]:
        """The holds in force, and the released ones if wanted, by name."""
        cursor = await connection.execute(queries.holds, (tenant_id, released))
        return [LegalHold(*row) for row in await cursor.fetchall()]

    async def put(
        self, connection: Connection, tenant_id: int, name: str, change: ChangeRequest
    ) -> LegalHold | None:
        """None when it is in force already."""
        cursor = await connection.execute(
            queries.put_hold,
            {
                "tenant_id": tenant_id,
                "name": name,
                "reason": change.reason,
                "requested_by": change.requested_by,
            },
        )
        row = await cursor.fetchone()
        return LegalHold(*row) if row else None

    async def release(self, connection: Connection, tenant_id: int, name: str) -> LegalHold | None:
        """None when no hold of this name is in force."""
        cursor = await connection.execute(queries.release_hold, (tenant_id, name))
        row = await cursor.fetchone()
        return LegalHold(*row) if row else None
