"""Stores the history of tenants' plans."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from meterline.db.pool import Connection
from meterline.db.queries import Queries

queries = Queries("meterline_publisher.tenants", "store.sql")


@dataclass(frozen=True, slots=True)
class PlanVersion:
    """The plan of a tenant from `changed_at` on, from one version of the tenant; empty for none."""

    tenant_id: int
    version: int
    plan: str
    changed_at: datetime


async def insert(connection: Connection, versions: Sequence[PlanVersion]) -> None:
    """Adds to the history. Known versions stay unchanged."""
    await connection.execute(
        queries.insert,
        (
            [one.tenant_id for one in versions],
            [one.version for one in versions],
            [one.plan for one in versions],
            [one.changed_at for one in versions],
        ),
    )


async def at(connection: Connection, tenant_id: int, instant: datetime) -> str:
    """The plan at an instant; if the tenant had none then, the first one that it got later; empty if it never
    had one."""
    parameters = {"tenant_id": tenant_id, "at": instant}
    ((plan,),) = await (await connection.execute(queries.plan_at, parameters, binary=True)).fetchall()
    return str(plan)
