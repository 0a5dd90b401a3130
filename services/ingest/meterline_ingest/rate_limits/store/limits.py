"""The limits of plans and tenants."""

from __future__ import annotations

from dataclasses import asdict, fields

from meterline.db.pool import Connection, Database
from meterline.db.queries import Queries
from meterline.db.scope import ALL_TENANTS

from meterline_ingest.event.names import NOBODY
from meterline_ingest.rate_limits.rules.limits import LimitBook, Limits, PlanLimits

queries = Queries("meterline_ingest.rate_limits.store", "limits.sql")

_NO_VALUES = dict.fromkeys(each.name for each in fields(Limits))


class LimitRepository:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def last_change(self) -> int:
        """A number that rises with every change of any limit; 0 before the first."""
        ((change,),) = await self._database.fetch(queries.last_limit_change, tenants=ALL_TENANTS)
        return change or 0

    async def book(self) -> LimitBook:
        plans = {each.plan: each.limits for each in await self.of_plans()}
        rows = await self._database.fetch(queries.tenant_limits, tenants=ALL_TENANTS)
        return LimitBook(plans, {tenant_id: Limits(*values) for tenant_id, *values in rows})

    async def of_plans(self) -> list[PlanLimits]:
        rows = await self._database.fetch(queries.plan_limits)
        return [PlanLimits(plan, Limits(*values), by, at) for plan, *values, by, at in rows]

    async def put_plan(
        self, connection: Connection, plan: str, limits: Limits, changed_by: str
    ) -> PlanLimits:
        """Needs a transaction for all tenants."""
        parameters = {"tenant_id": NOBODY, "plan": plan, "changed_by": changed_by, **asdict(limits)}
        await connection.execute(queries.lock_limits)
        cursor = await connection.execute(queries.put_plan_limits, parameters)
        ((changed_at,),) = await cursor.fetchall()
        await connection.execute(queries.add_limit_change, parameters)
        return PlanLimits(plan, limits, changed_by, changed_at)

    async def put_tenant(
        self, connection: Connection, tenant_id: int, limits: Limits, changed_by: str
    ) -> None:
        parameters = {"tenant_id": tenant_id, "plan": "", "changed_by": changed_by, **asdict(limits)}
        await connection.execute(queries.lock_limits)
        await connection.execute(queries.put_tenant_limits, parameters)
        await connection.execute(queries.add_limit_change, parameters)

    async def delete_tenant(self, connection: Connection, tenant_id: int, changed_by: str) -> None:
        parameters = {"tenant_id": tenant_id, "plan": "", "changed_by": changed_by, **_NO_VALUES}
        await connection.execute(queries.lock_limits)
        cursor = await connection.execute(queries.delete_tenant_limits, parameters)
        if cursor.rowcount:
            await connection.execute(queries.add_limit_change, parameters)
