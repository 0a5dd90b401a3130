"""Usage is never rated stale: what the aggregate service knows must have arrived here."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from meterline.db.pool import Database
from meterline.errors import AbortedError, FailedPreconditionError, NotFoundError
from meterline.tenants import Tenant

from meterline_publisher.domain.periods import Period
from meterline_publisher.domain.rule_sets import Rule
from meterline_publisher.peers import Aggregate
from meterline_publisher.repository import usage

_POLL_SECONDS: Final = 0.05


class Freshness:
    """Compares the replica of usage with the service that it is a replica of."""

    def __init__(self, database: Database, aggregate: Aggregate, wait_seconds: float) -> None:
        self._database = database
        self._aggregate = aggregate
        self._wait_seconds = wait_seconds

    async def require(self, tenant: Tenant, period: Period, rules: Sequence[Rule]) -> None:
        """Returns once the usage of these rules' meters is here as it was when this was called.

        Raises AbortedError if it is still on its way after the wait, FailedPreconditionError for a meter
        that does not exist (a misspelt one would be billed at 0), UnavailableError.
        """
        expected = dict(
            await asyncio.gather(
                *(self._revision(tenant, period, rule) for rule in rules if rule.needs_usage)
            )
        )
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._wait_seconds
        while late := await self._late(tenant, period, expected):
            if loop.time() >= deadline:
                raise AbortedError(f"usage of {', '.join(late)} is still on its way; try again")
            await asyncio.sleep(_POLL_SECONDS)

    async def _revision(self, tenant: Tenant, period: Period, rule: Rule) -> tuple[str, int]:
        try:
            window = await self._aggregate.month(tenant.slug, rule.meter, period)
        except NotFoundError as error:
            if error.kind != "meter":
                raise AbortedError(f"aggregate has not heard of {tenant.slug} yet; try again") from error
            raise FailedPreconditionError(
                f"meter {rule.meter}", f"plan {rule.plan} prices it, and it does not exist"
            ) from error
        return rule.meter, window.revision if window else 0

    async def _late(self, tenant: Tenant, period: Period, expected: dict[str, int]) -> list[str]:
        async with self._database.connection([tenant.tenant_id]) as connection:
            known = await usage.of_period(connection, tenant.tenant_id, period.start)
        return [
            meter
            for meter, revision in expected.items()
            if (known[meter].revision if meter in known else 0) < revision
        ]
