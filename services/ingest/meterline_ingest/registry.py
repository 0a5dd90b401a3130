"""What capture must know of the world: tenants, event types and limits, from memory where possible."""

from __future__ import annotations

import time
from collections.abc import Iterable

from cachetools import TTLCache
from grpc import aio
from meterline.errors import MeterlineError
from meterline.rpc.client import as_unavailable, is_not_found
from meterline.tenants import Tenant, TenantReplica
from meterline_protos.identity.v1 import tenants_pb2, tenants_pb2_grpc

from meterline_ingest.domain.rate_limits import LimitBook
from meterline_ingest.domain.type_book import TypeBook
from meterline_ingest.lookups import Lookups
from meterline_ingest.repository.event_types import EventTypeRepository
from meterline_ingest.repository.limits import LimitRepository

# A type that is put on one replica is known to the others after this long.
TYPES_SECONDS = 2.0
# So is a limit.
LIMITS_SECONDS = 2.0
# A name that identity does not know is asked for again after this long.
UNKNOWN_SECONDS = 1.0


class TypeRegistry:
    """All event types. They are few, so all are kept, and read again only after a change."""

    def __init__(self, repository: EventTypeRepository) -> None:
        self._repository = repository
        self._book = TypeBook({})
        self._change = -1
        self._looked_at = float("-inf")

    async def current(self, needed: Iterable[str] = ()) -> TypeBook:
        """The types; looked up anew when they are old, or lack a `needed` one and are not brand-new."""
        age = time.monotonic() - self._looked_at
        if age > TYPES_SECONDS or (age > TYPES_SECONDS / 20 and not all(map(self._book.knows, needed))):
            change = await self._repository.last_change()
            if change != self._change:
                # What changes in between is only read twice.
                self._book, self._change = await self._repository.book(), change
            self._looked_at = time.monotonic()
        return self._book

    def forget(self) -> None:
        self._looked_at = float("-inf")


class LimitRegistry:
    """All limits, read again only after a change."""

    def __init__(self, repository: LimitRepository) -> None:
        self._repository = repository
        self._book = LimitBook()
        self._change = -1
        self._looked_at = float("-inf")
        self._looks = Lookups(self._look)

    async def start(self) -> None:
        """Before the first call comes in: until then no limit is known."""
        await self._look(None)
        self._looked_at = time.monotonic()

    async def stop(self) -> None:
        """Nothing to end."""

    async def current(self) -> LimitBook:
        now = time.monotonic()
        if now - self._looked_at > LIMITS_SECONDS:
            # One call looks for all; the others go on with what was known.
            before, self._looked_at = self._looked_at, now
            try:
                await self._looks.get(None)
            except MeterlineError:
                self._looked_at = before
                raise
        return self._book

    async def _look(self, _: None) -> None:
        change = await self._repository.last_change()
        if change != self._change:
            # What changes in between is only read twice.
            self._book, self._change = await self._repository.book(), change

    def forget(self) -> None:
        self._looked_at = float("-inf")


class KnownTenants:
    """Tenants as the replica has them. A name that it does not know is looked for again after a moment."""

    def __init__(self, replica: TenantReplica) -> None:
        self._replica = replica
        self._unknown: TTLCache[str, bool] = TTLCache(10_000, UNKNOWN_SECONDS)
        self._looks = Lookups(replica.find)

    async def find(self, name: str) -> Tenant | None:
        known = self._replica.cached(name)
        if known is not None or name in self._unknown:
            return known
        found = await self._looks.get(name)
        if found is None:
            self._unknown[name] = True
        return found


class TenantDirectory:
    """Numbers of tenants. A name that the replica lacks is asked from identity, which may be ahead."""

    def __init__(self, replica: TenantReplica, identity: aio.Channel) -> None:
        self._replica = replica
        self._identity = tenants_pb2_grpc.TenantsServiceStub(identity)
        self._asked: TTLCache[str, tuple[int, bool] | None] = TTLCache(10_000, UNKNOWN_SECONDS)

    async def numbers(self, names: Iterable[str]) -> dict[str, int | None]:
        """As `validation.check` wants them: unknown names are left out, inactive tenants are None.

        Raises UnavailableError when a name is not known here and identity does not answer.
        """
        numbers: dict[str, int | None] = {}
        for name in set(names):
            found = await self._find(name)
            if found is not None:
                number, active = found
                numbers[name] = number if active else None
        return numbers

    async def _find(self, name: str) -> tuple[int, bool] | None:
        tenant = self._replica.cached(name) or await self._replica.find(name)
        if tenant is not None:
            return tenant.tenant_id, tenant.active
        if name not in self._asked:
            self._asked[name] = await self._ask(name)
        return self._asked.get(name)

    async def _ask(self, name: str) -> tuple[int, bool] | None:
        if not 0 < len(name) <= 63:
            return None
        try:
            answer = await self._identity.GetTenant(tenants_pb2.GetTenantRequest(tenant_id=name), timeout=2)
        except aio.AioRpcError as error:
            if is_not_found(error):
                return None
            raise as_unavailable("identity", error) from error
        return answer.tenant.number, answer.tenant.active
