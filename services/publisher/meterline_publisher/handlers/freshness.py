"""Usage is never rated stale: what the aggregate service knows must have arrived here."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final

from meterline.db.pool import Database
from meterline.errors import AbortedError, NotFoundError
from meterline.tenants import Tenant

from meterline_publisher.domain.periods import Period
from meterline_publisher.domain.rule_sets import Rule
from meterline_publisher.domain.unbillable import UnbillableMeterError, unknown_meter
from meterline_publisher.peers import Aggregate
from meterline_publisher.repository import usage

_POLL_SECONDS: Final = 0.05


class Freshness:
    """Compares the replica of usage with the service that it is a replica of."""

    def __init__(self, database: Database, aggregate: Aggregate, wait_seconds: float) -> None:
        self._database = database
        self._aggregate = aggregate
        self._wait_seconds = wait_seconds

    async def require(
        self, tenant: Tenant, period: Period, rules: Sequence[Rule]
    ) -> Mapping[str, UnbillableMeterError]:
        """Returns once the usage of these rules' meters is here as it was when this was called; by meter why
        those cannot be billed that do not exist.

        Raises AbortedError if usage is still on its way after the wait, UnavailableError.
        """
        needed = [rule for rule in rules if rule.needs_usage]
        found = await asyncio.gather(*(self._revision(tenant, period, rule) for rule in needed))
        expected = {
            rule.meter: revision for rule, revision in zip(needed, found, strict=True) if revision is not None
        }
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._wait_seconds
        while late := await self._late(tenant, period, expected):
            if loop.time() >= deadline:
                raise AbortedError(f"usage of {', '.join(late)} is still on its way; try again")
            await asyncio.sleep(_POLL_SECONDS)
        return {rule.meter: unknown_meter(rule) for rule in needed if rule.meter not in expected}

    async def _revision(self, tenant: Tenant, period: Period, rule: Rule) -> int | None:
        """Of the meter's window as aggregate has it, 0 without one; None when there is no such meter."""
        try:
            window = await self._aggregate.month(tenant.slug, rule.meter, period)
        except NotFoundError as error:
            if error.kind != "meter":
                raise AbortedError(f"aggregate has not heard of {tenant.slug} yet; try again") from error
            return None
        return window.revision if window else 0

    async def _late(self, tenant: Tenant, period: Period, expected: dict[str, int]) -> list[str]:
        async with self._database.connection() as connection:
            known = await usage.of_period(connection, tenant.tenant_id, period.start)
        return [
            meter
            for meter, revision in expected.items()
            if (known[meter].revision if meter in known else 0) < revision
        ]
