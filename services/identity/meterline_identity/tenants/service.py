"""Onboards, reads and changes tenants."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from meterline.clock import Clock
from meterline.db.pool import Connection, Database
from meterline.db.scope import ALL_TENANTS
from meterline.errors import AlreadyExistsError, NotFoundError
from meterline.transactions.unit_of_work import UnitOfWork

from meterline_identity.tenants import message, store
from meterline_identity.tenants.peers import Plans
from meterline_identity.tenants.rules.tenants import Changes, Onboarding, Tenant


class Tenants:
    """Reads use `database`, changes `unit_of_work`.

    All run for all tenants: callers give names, whose tenants are not known before they are read.
    """

    def __init__(self, database: Database, unit_of_work: UnitOfWork, clock: Clock, plans: Plans) -> None:
        self._database = database
        self._unit_of_work = unit_of_work
        self._clock = clock
        self._plans = plans

    async def onboard(self, onboarding: Onboarding) -> tuple[Tenant, bool]:
        """The tenant, and whether it is new.

        Raises AlreadyExistsError when the name or the customer is another's, FailedPreconditionError for a
        plan that cannot bill it, UnavailableError. A tenant that exists is returned without checking these.
        """
        async with self._database.connection(ALL_TENANTS) as connection:
            if await store.find_statement(connection, onboarding.slug) is not None:
                return await _repeated(connection, onboarding), False
        await self._plans.require(onboarding.plan, onboarding.currency)
        async with self._unit_of_work.begin(ALL_TENANTS) as tx:
            customer = onboarding.external_customer_id
            is_free = await store.claim_customer(tx.connection, customer, onboarding.slug)
            if not is_free and await store.find_statement(tx.connection, onboarding.slug) is None:
                raise _customer_taken(customer)
            tenant = await store.insert(tx.connection, onboarding, self._clock.now_us())
            if tenant is None:
                return await _repeated(tx.connection, onboarding), False
            message.emit_changed(tx, tenant)
            await tx.commit()
        return tenant, True

    async def get(self, slug: str) -> Tenant:
        """Raises NotFoundError."""
        async with self._database.connection(ALL_TENANTS) as connection:
            return _found(await store.find(connection, slug), slug)

    async def find(self, slugs: Collection[str]) -> Sequence[Tenant]:
        """Those that exist, in the order of onboarding."""
        async with self._database.connection(ALL_TENANTS) as connection:
            return await store.find_many(connection, slugs)

    async def list(self, after: int, limit: int) -> list[Tenant]:
        """At most `limit` tenants with numbers above `after`, in the order of onboarding."""
        async with self._database.connection(ALL_TENANTS) as connection:
            return await store.page(connection, after, limit)

    async def update(self, slug: str, expected_version: int, changes: Changes) -> Tenant:
        """The updated tenant. Raises NotFoundError, AbortedError when `expected_version` is neither 0 nor the
        present one, and as `onboard` for another plan or customer. Stores and publishes nothing when nothing
        differs."""
        if changes.plan is not None:
            before = await self.get(slug)
            if changes.plan != before.plan:
                await self._plans.require(changes.plan, before.currency)
        async with self._unit_of_work.begin(ALL_TENANTS) as tx:
            tenant = _found(await store.find_for_update(tx.connection, slug), slug)
            tenant.require_version(expected_version)
            changed = changes.apply(tenant, self._clock.now_us())
            if changed is not tenant:
                if changed.external_customer_id != tenant.external_customer_id:
                    customer = changed.external_customer_id
                    if not await store.claim_customer(tx.connection, customer, slug):
                        raise _customer_taken(customer)
                await store.update(tx.connection, changed)
                message.emit_changed(tx, changed)
                await tx.commit()
        return changed


async def _repeated(connection: Connection, onboarding: Onboarding) -> Tenant:
    """The tenant that the same request has made, in its present state."""
    if await store.find_statement(connection, onboarding.slug) != onboarding.statement():
        raise AlreadyExistsError("tenant", onboarding.slug, "it was onboarded with other content")
    return _found(await store.find(connection, onboarding.slug), onboarding.slug)


def _customer_taken(customer: str) -> AlreadyExistsError:
    """Does not name the other tenant: the caller may not know it."""
    return AlreadyExistsError("external_customer_id", customer, "another tenant is billed as this customer")


def _found(tenant: Tenant | None, slug: str) -> Tenant:
    if tenant is None:
        raise NotFoundError("tenant", slug)
    return tenant
