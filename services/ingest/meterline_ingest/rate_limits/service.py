"""Changes and reads limits of plans and tenants."""

from __future__ import annotations

from dataclasses import dataclass

from meterline.db.scope import ALL_TENANTS
from meterline.errors import InvalidArgumentError
from meterline.names import check_name
from meterline.tenants import TenantReplica
from meterline.transactions.unit_of_work import UnitOfWork

from meterline_ingest.dictionaries.rules import Quotas
from meterline_ingest.dictionaries.store import Dictionaries
from meterline_ingest.event.bounds import MAX_SOURCE
from meterline_ingest.rate_limits.cache import LimitRegistry
from meterline_ingest.rate_limits.rules.limits import Limits, Origin, PlanLimits
from meterline_ingest.rate_limits.store.buckets import BucketRepository
from meterline_ingest.rate_limits.store.limits import LimitRepository


@dataclass(frozen=True, slots=True)
class TenantLimits:
    """The limits that apply to a tenant, and their origin.

    left: of the burst; None without a rate
    held: how much of `quotas` is used; these are the service's where the limits set none
    """

    limits: Limits
    origin: Origin
    left: int | None
    held: Quotas
    quotas: Quotas


class LimitHandlers:
    def __init__(
        self,
        unit_of_work: UnitOfWork,
        tenants: TenantReplica,
        repository: LimitRepository,
        buckets: BucketRepository,
        registry: LimitRegistry,
        dictionaries: Dictionaries,
        *,
        default_quotas: Quotas,
    ) -> None:
        self._unit_of_work = unit_of_work
        self._tenants = tenants
        self._repository = repository
        self._buckets = buckets
        self._registry = registry
        self._dictionaries = dictionaries
        self._default_quotas = default_quotas

    async def put_plan(self, plan: str, limits: Limits, changed_by: str) -> PlanLimits:
        """Raises InvalidArgumentError, also for an invalid name of a plan."""
        check_name("plan", plan)
        _check_text("changed_by", changed_by, MAX_SOURCE)
        async with self._unit_of_work.begin(ALL_TENANTS) as transaction:
            put = await self._repository.put_plan(transaction.connection, plan, limits, changed_by)
            transaction.after_commit(self._registry.forget)
            await transaction.commit()
        return put

    async def of_plans(self) -> list[PlanLimits]:
        return await self._repository.of_plans()

    async def put_tenant(self, slug: str, limits: Limits, changed_by: str) -> None:
        """Raises NotFoundError for an unknown tenant."""
        _check_text("changed_by", changed_by, MAX_SOURCE)
        tenant = await self._tenants.get(slug)
        async with self._unit_of_work.begin([tenant.tenant_id]) as transaction:
            await self._repository.put_tenant(transaction.connection, tenant.tenant_id, limits, changed_by)
            transaction.after_commit(self._registry.forget)
            await transaction.commit()

    async def delete_tenant(self, slug: str, changed_by: str) -> None:
        """Raises NotFoundError for an unknown tenant; changes nothing if it has no limits of its own."""
        _check_text("changed_by", changed_by, MAX_SOURCE)
        tenant = await self._tenants.get(slug)
        async with self._unit_of_work.begin([tenant.tenant_id]) as transaction:
            await self._repository.delete_tenant(transaction.connection, tenant.tenant_id, changed_by)
            transaction.after_commit(self._registry.forget)
            await transaction.commit()

    async def of_tenant(self, slug: str) -> TenantLimits:
        """Raises NotFoundError for an unknown tenant."""
        tenant = await self._tenants.get(slug)
        limits, origin = (await self._registry.latest()).find(tenant.tenant_id, tenant.plan)
        left = await self._buckets.level(tenant.tenant_id, limits) if limits.limited else None
        held = await self._dictionaries.held(tenant.tenant_id)
        return TenantLimits(limits, origin, left, held, limits.quotas.or_else(self._default_quotas))


def _check_text(field: str, value: str, most: int) -> None:
    if len(value) > most:
        raise InvalidArgumentError(field, f"at most {most} characters")
