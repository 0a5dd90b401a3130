"""Which plan a tenant had when."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from meterline.db.pool import Connection
from meterline.db.queries import Queries

queries = Queries("meterline_publisher.tenants", "store.sql")


@dataclass(frozen=True, slots=True)
class PlanVersion:
    """The plan of a tenant from `changed_at` on, as one version of the tenant says; empty for none."""

    tenant_id: int
    version: int
    plan: str
    changed_at: datetime


async def insert(connection: Connection, versions: Sequence[PlanVersion]) -> None:
    """Adds to the history. What is known already is left as it is."""
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
    """The plan at an instant or, when the tenant had none by then, the first that it got later; empty
    without any."""
    parameters = {"tenant_id": tenant_id, "at": instant}
    ((plan,),) = await (await connection.execute(queries.plan_at, parameters, binary=True)).fetchall()
    return str(plan)
