"""Stores which plans are archived. Versions are immutable; the latest one of a plan is current."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from meterline.db.pool import Connection
from meterline.db.queries import Queries

queries = Queries("meterline_publisher.prices.store", "archivals.sql")


@dataclass(frozen=True, slots=True)
class Archival:
    """The state of a plan since `changed_at`. Version 0: it was never archived."""

    version: int = 0
    archived: bool = False
    changed_by: str = ""
    changed_at: datetime | None = None


async def of_plan(connection: Connection, plan: str) -> Archival:
    cursor = await connection.execute(queries.of_plan, (plan,), binary=True)
    row = await cursor.fetchone()
    return Archival(*row) if row else Archival()


async def archived(connection: Connection, plans: Collection[str]) -> dict[str, tuple[str, datetime]]:
    """Those of the plans that are archived: by whom, and since when."""
    cursor = await connection.execute(queries.archived, (list(plans),), binary=True)
    return {plan: (by, at) for plan, by, at in await cursor.fetchall()}


async def insert(
    connection: Connection, plan: str, version: int, changed_by: str, at: datetime, *, is_archived: bool
) -> None:
    await connection.execute(queries.insert, (plan, version, is_archived, changed_by, at))
