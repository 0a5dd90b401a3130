"""Tenants by name: from memory where possible, else from the replica or identity."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from grpc import aio
from meterline.remembered.answers import Answers
from meterline.remembered.lookup import Lookup
from meterline.remembered.single_flight import SingleFlight
from meterline.rpc.client import as_unavailable
from meterline.slugs import is_slug
from meterline.tenants import Tenant, TenantReplica
from meterline.transactions.unit_of_work import UnitOfWork
from meterline_protos.events.v1 import events_pb2
from meterline_protos.identity.v1 import tenants_pb2, tenants_pb2_grpc

# An unknown name is looked up again after this long; before a call is admitted, after twice as long.
UNKNOWN_SECONDS = 1.0
# How many names identity accepts at once.
NAMES_A_CALL = 1_000
_MOST_UNKNOWN = 10_000


class TenantDirectory:
    """Tenants by name. Those that the replica lacks are requested from identity, which may have newer ones,
    and added to it: so a tenant's settings apply from its first call on."""

    def __init__(self, replica: TenantReplica, unit_of_work: UnitOfWork, identity: aio.Channel) -> None:
        self._replica = replica
        self._unit_of_work = unit_of_work
        self._identity: tenants_pb2_grpc.TenantsServiceAsyncStub = tenants_pb2_grpc.TenantsServiceStub(
            identity
        )
        # What is found is in the replica's memory then.
        self._names: Lookup[str, Tenant] = Lookup(
            self._asked, absent=Answers(UNKNOWN_SECONDS, most=_MOST_UNKNOWN)
        )

    def cached(self, name: str) -> Tenant | None:
        """The tenant, if it is in memory."""
        return self._replica.cached(name)

    async def find_many(self, names: Iterable[str]) -> dict[str, Tenant]:
        """Those that exist, by name.

        However many names there are, one query finds those that are not in memory, and identity is asked for
        a thousand at a time: a flush has many callers, and any of them may send unknown names.

        Raises UnavailableError when a name is not known here and identity does not answer.
        """
        wanted = set(names)
        found = await self._replica.find_many(wanted)
        # Other names are invalid, and of any length: they are not kept in memory.
        asking = [name for name in sorted(wanted - found.keys()) if is_slug(name)]
        return found | await self._names.find_many(asking)

    async def numbers(self, names: Iterable[str]) -> dict[str, int | None]:
        """In the form that `validation.Check` needs: unknown names are left out, inactive tenants are None.

        Raises as `find_many`.
        """
        return {
            name: tenant.tenant_id if tenant.active else None
            for name, tenant in (await self.find_many(names)).items()
        }

    async def _asked(self, names: Collection[str]) -> dict[str, Tenant]:
        asking, added = list(names), []
        for start in range(0, len(asking), NAMES_A_CALL):
            for fact in await self._ask(asking[start : start + NAMES_A_CALL]):
                # One transaction each, so that two processes cannot deadlock: new tenants are few.
                async with self._unit_of_work.begin() as transaction:
                    await self._replica.apply(transaction, fact)
                    await transaction.commit()
                added.append(fact.slug)
        return await self._replica.find_many(added)

    async def _ask(self, names: Sequence[str]) -> Sequence[events_pb2.TenantChanged]:
        """The state of these tenants in identity, in the form in which it publishes changes."""
        request = tenants_pb2.BatchGetTenantsRequest(tenant_ids=names)
        try:
            answer = await self._identity.BatchGetTenants(request, timeout=2)
        except aio.AioRpcError as error:
            raise as_unavailable("identity", error) from error
        return [_fact(tenant) for tenant in answer.tenants]


def _fact(tenant: tenants_pb2.Tenant) -> events_pb2.TenantChanged:
    return events_pb2.TenantChanged(
        tenant_id=tenant.number,
        slug=tenant.tenant_id,
        version=tenant.version,
        time_zone=tenant.time_zone,
        currency=tenant.currency,
        plan=tenant.plan,
        external_customer_id=tenant.external_customer_id,
        external_subscription_id=tenant.external_subscription_id,
        active=tenant.active,
        close_lead_seconds=tenant.close_lead_seconds,
        changed_at=tenant.updated_at,
        billed_from=tenant.billed_from,
    )


class KnownTenants:
    """Tenants before a call is admitted: from memory, else by one query for all waiting calls."""

    def __init__(self, directory: TenantDirectory) -> None:
        self._directory = directory
        self._looks: SingleFlight[frozenset[str], dict[str, Tenant]] = SingleFlight(directory.find_many)
        self._names: Lookup[str, Tenant] = Lookup(
            lambda names: self._looks.get(frozenset(names)),
            absent=Answers(UNKNOWN_SECONDS, most=_MOST_UNKNOWN),
        )

    async def find(self, name: str) -> Tenant | None:
        """The tenant; None if no tenant has that name. Raises UnavailableError."""
        known = self._directory.cached(name)
        if known is not None or not is_slug(name):
            return known
        return (await self.find_many([name])).get(name)

    async def find_many(self, names: Iterable[str]) -> Mapping[str, Tenant]:
        """Those that exist, by name: one query for all that are not in memory. Raises UnavailableError."""
        found: dict[str, Tenant] = {}
        missing = []
        for name in names:
            known = self._directory.cached(name)
            if known is not None:
                found[name] = known
            elif is_slug(name):
                missing.append(name)
        return found | await self._names.find_many(missing) if missing else found
