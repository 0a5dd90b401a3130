"""Compares the numbers of events that ingest accepted and aggregate folded."""

from __future__ import annotations

from dataclasses import dataclass

from meterline.db.pool import Database
from meterline.db.scope import ALL_TENANTS
from meterline.errors import NotFoundError, UnavailableError
from meterline.telemetry import metrics
from meterline.telemetry.logging import logger
from meterline.tenants import TenantReplica

from meterline_aggregate.peers import Ingest
from meterline_aggregate.reconciliation import store

log = logger()


@dataclass(frozen=True, slots=True)
class Comparison:
    """The numbers of one tenant's events."""

    tenant: str
    accepted: int
    aggregated: int

    @property
    def gap(self) -> int:
        """Positive: events still in transit or lost. Negative: events counted twice."""
        return self.accepted - self.aggregated


class Reconciler:
    """Compares, and sets the metric of events that should have arrived by now."""

    def __init__(self, database: Database, tenants: TenantReplica, ingest: Ingest) -> None:
        self._database = database
        self._tenants = tenants
        self._ingest = ingest
        self._accepted_before: dict[str, int] | None = None

    async def compare(self, tenant: str = "") -> list[Comparison]:
        """Compares all tenants, or the one named, by name. Raises UnavailableError and NotFoundError."""
        # Aggregated first: events in transit can then look missing, but never look counted twice.
        aggregated = await self._aggregated(tenant)
        accepted = await self._ingest.totals(tenant)
        if tenant and tenant not in aggregated and tenant not in accepted:
            raise NotFoundError("tenant", tenant)
        if not tenant:
            self._measure(accepted, aggregated)
        return [
            Comparison(name, accepted.get(name, 0), aggregated.get(name, 0))
            for name in sorted(accepted.keys() | aggregated.keys())
        ]

    async def _aggregated(self, name: str) -> dict[str, int]:
        """Numbers of folded events by tenant name; empty if the named tenant is unknown here."""
        if not name:
            async with self._database.connection(ALL_TENANTS) as connection:
                return await store.of_all(connection)
        tenant = await self._tenants.find(name)
        if tenant is None:
            return {}
        async with self._database.connection([tenant.tenant_id]) as connection:
            return {name: await store.of_tenant(connection, tenant.tenant_id)}

    async def watch(self) -> None:
        """Compares in order to update the metric."""
        try:
            await self.compare()
        except UnavailableError as error:
            log.warning("reconciliation.unavailable", error=str(error))

    def _measure(self, accepted: dict[str, int], aggregated: dict[str, int]) -> None:
        """Events accepted before the previous comparison should have arrived (at the first comparison: all of
        them). Events folded twice are an error at once."""
        due = accepted if self._accepted_before is None else self._accepted_before
        missing = sum(max(0, count - aggregated.get(name, 0)) for name, count in due.items())
        doubled = sum(max(0, count - accepted.get(name, 0)) for name, count in aggregated.items())
        metrics.CONSERVATION_GAP.set(missing + doubled)
        self._accepted_before = accepted
