"""Reads windows and contributions."""

from __future__ import annotations

import uuid
from dataclasses import dataclass

from meterline.db.pool import Connection, Database
from meterline.errors import InvalidArgumentError, NotFoundError, UnavailableError
from meterline.tenants import TenantReplica

from meterline_aggregate.meters import store as meters_store
from meterline_aggregate.meters.rules.definitions import UnknownMeter
from meterline_aggregate.usage.rules.answers import Contribution, Window
from meterline_aggregate.usage.store import windows
from meterline_aggregate.usage.store.windows import Slice
from meterline_aggregate.windows.calendar import Grain


@dataclass(frozen=True, slots=True)
class Range:
    """Windows of a meter of a tenant that start in [start_us, end_us)."""

    tenant: str
    meter: str
    start_us: int
    end_us: int


class Usage:
    def __init__(self, database: Database, tenants: TenantReplica) -> None:
        self._database = database
        self._tenants = tenants

    async def totals(
        self, where: Range, grain: Grain, after_us: int | None, limit: int
    ) -> tuple[str, list[Window]]:
        """The tenant's time zone, and at most `limit` windows that start after `after_us`.

        Raises NotFoundError, and UnavailableError for a meter that only a newer release can read.
        """
        tenant = await self._tenants.get(where.tenant)
        async with self._database.connection([tenant.tenant_id]) as connection:
            part = await self._slice(connection, tenant.tenant_id, where)
            return tenant.time_zone, await windows.totals_of_windows(connection, part, grain, after_us, limit)

    async def groups(
        self, where: Range, grain: Grain, after: tuple[int, int] | None, limit: int
    ) -> tuple[str, list[Window]]:
        """As `totals`, by group. Raises InvalidArgumentError for a meter without groups."""
        tenant = await self._tenants.get(where.tenant)
        async with self._database.connection([tenant.tenant_id]) as connection:
            part = await self._slice(connection, tenant.tenant_id, where)
            if not part.meter.definition.group_by:
                raise InvalidArgumentError("by_group", "the meter has no dimensions in group_by")
            return tenant.time_zone, await windows.groups_of_windows(connection, part, grain, after, limit)

    async def contributions(
        self, where: Range, after: tuple[int, uuid.UUID] | None, limit: int
    ) -> tuple[str, list[Contribution]]:
        """The tenant's time zone, and at most `limit` contributions after (start, batch) `after`, in this
        order.

        Raises NotFoundError, and UnavailableError for a meter that only a newer release can read.
        """
        tenant = await self._tenants.get(where.tenant)
        async with self._database.connection([tenant.tenant_id]) as connection:
            part = await self._slice(connection, tenant.tenant_id, where)
            found = await windows.contributions_of_meter(connection, part, after, limit)
            return tenant.time_zone, found

    async def contributions_of_batch(self, name: str, batch_id: uuid.UUID) -> tuple[str, list[Contribution]]:
        """The tenant's time zone, and the contributions of a batch to all meters. Raises NotFoundError for an
        unknown tenant."""
        tenant = await self._tenants.get(name)
        async with self._database.connection([tenant.tenant_id]) as connection:
            found = await windows.contributions_of_batch(connection, tenant.tenant_id, batch_id)
            return tenant.time_zone, found

    async def _slice(self, connection: Connection, tenant_id: int, where: Range) -> Slice:
        # Read each time: the meter may have been deleted, and another one created with its name.
        meter = await meters_store.find(connection, where.meter)
        if meter is None:
            raise NotFoundError("meter", where.meter)
        if isinstance(meter, UnknownMeter):
            # Retryable: another replica may have that release.
            raise UnavailableError(f"only a newer release can read meter {where.meter!r}")
        return Slice(tenant_id, meter, where.start_us, where.end_us)
