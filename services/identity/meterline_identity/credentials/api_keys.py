"""Makes, lists, revokes and verifies API keys."""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from datetime import datetime

from meterline.auth import api_keys
from meterline.auth.principals import Kind, Permission, Principal, current_principal
from meterline.clock import Clock
from meterline.db.pool import Database
from meterline.db.scope import ALL_TENANTS, Scope
from meterline.errors import NotFoundError
from meterline.transactions.unit_of_work import UnitOfWork

from meterline_identity.credentials.rules.api_keys import ApiKey, grant
from meterline_identity.credentials.store import api_keys as store
from meterline_identity.tenants.rules import fields
from meterline_identity.tenants.service import Tenants


class ApiKeys:
    """A slug names the tenant of keys; an empty slug means the keys for all tenants."""

    def __init__(self, database: Database, unit_of_work: UnitOfWork, tenants: Tenants, clock: Clock) -> None:
        self._database = database
        self._unit_of_work = unit_of_work
        self._tenants = tenants
        self._clock = clock

    async def create(self, slug: str, name: str, permissions: Iterable[str]) -> tuple[ApiKey, str]:
        """The key, and its token, which is not stored. Raises NotFoundError for an unknown tenant."""
        fields.text("name", name)
        maker = current_principal()
        granted = grant("permissions", permissions, slug, maker)
        tenant_id = await self._number(slug)
        new = api_keys.make()
        key = ApiKey(new.key_id, slug, name, granted, self._clock.now_us(), maker.name, None, "")
        async with self._unit_of_work.begin(tenants=_scope(tenant_id)) as tx:
            await store.insert(tx.connection, tenant_id, key, new.digest)
            await tx.commit()
        return key, new.token

    async def list(self, slug: str, after: tuple[datetime, str], limit: int) -> list[ApiKey]:
        tenant_id = await self._number(slug)
        async with self._database.connection(tenants=_scope(tenant_id)) as connection:
            return await store.page(connection, tenant_id, slug, after, limit)

    async def revoke(self, slug: str, key_id: str) -> ApiKey:
        """The revoked key. Raises NotFoundError, also for another tenant's key."""
        tenant_id = await self._number(slug)
        async with self._unit_of_work.begin(tenants=_scope(tenant_id)) as tx:
            key = await store.revoke(
                tx.connection, tenant_id, slug, key_id, current_principal().name, self._clock.now_us()
            )
            if key is None:
                raise NotFoundError("API key", key_id)
            await tx.commit()
        return key

    async def verify(self, key_id: str, digest: bytes) -> Principal | None:
        """The owner of the key; None unless the key is valid and the digest is that of its secret."""
        async with self._database.connection(tenants=ALL_TENANTS) as connection:
            found = await store.find_valid(connection, key_id)
        if found is None:
            return None
        expected, slug, name, permissions = found
        if not hmac.compare_digest(expected, digest):
            return None
        # Tenants choose names; with the key's id no caller can pass for another in the records.
        full_name = f"{name} ({api_keys.PREFIX}{key_id})"
        return Principal(full_name, Kind.API_KEY, slug or None, frozenset(map(Permission, permissions)))

    async def _number(self, slug: str) -> int | None:
        return (await self._tenants.get(slug)).tenant_id if slug else None


def _scope(tenant_id: int | None) -> Scope:
    # Row-level security hides keys for all tenants from callers that act for some.
    return ALL_TENANTS if tenant_id is None else [tenant_id]
