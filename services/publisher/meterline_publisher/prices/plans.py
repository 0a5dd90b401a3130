"""Archives and restores plans of the catalogue."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from meterline.auth.principals import current_principal
from meterline.clock import Clock, to_datetime
from meterline.db.pool import Connection, Database
from meterline.errors import FailedPreconditionError, NotFoundError
from meterline.transactions.unit_of_work import UnitOfWork

from meterline_publisher.prices.store import archivals, prices


@dataclass(frozen=True, slots=True)
class Plan:
    """A plan that has prices. `archived_at` is None if it is not archived."""

    name: str
    archived_by: str = ""
    archived_at: datetime | None = None


class Plans:
    """Reads use `database`, changes use `unit_of_work`."""

    def __init__(self, database: Database, unit_of_work: UnitOfWork, clock: Clock) -> None:
        self._database = database
        self._unit_of_work = unit_of_work
        self._clock = clock

    async def archive(self, plan: str) -> bool:
        """Returns False if it was archived already. Raises NotFoundError for a plan without prices."""
        return await self._set(plan, archived=True)

    async def restore(self, plan: str) -> bool:
        """Returns False if it was not archived. Raises NotFoundError for a plan without prices."""
        return await self._set(plan, archived=False)

    async def look_up(self, names: Collection[str]) -> Sequence[Plan]:
        """The named plans, ordered by name."""
        if not names:
            return []
        async with self._database.connection() as connection:
            archived = await archivals.archived(connection, names)
        return [Plan(name, *archived.get(name, ())) for name in sorted(names)]

    async def _set(self, plan: str, *, archived: bool) -> bool:
        async with self._unit_of_work.begin() as tx:
            # Keeps others from putting a price of the plan until the end.
            await prices.lock(tx.connection, plan)
            last = await archivals.of_plan(tx.connection, plan)
            if not last.version and not await prices.of_plan(tx.connection, plan):
                raise NotFoundError("plan", plan)
            if last.archived == archived:
                return False
            now, who = to_datetime(self._clock.now_us()), current_principal().name
            await archivals.insert(tx.connection, plan, last.version + 1, who, now, is_archived=archived)
            await tx.commit()
        return True


async def require_not_archived(connection: Connection, plan: str) -> None:
    """Raises FailedPreconditionError for an archived plan: its prices must not change."""
    if (await archivals.of_plan(connection, plan)).archived:
        raise FailedPreconditionError(
            f"plan {plan}", "is archived; RestorePlan makes it available again", "PLAN_ARCHIVED"
        )
