"""What capture must know of the world: tenants, event types and limits, from memory where possible."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final

from cachetools import TTLCache
from grpc import aio
from meterline.errors import MeterlineError
from meterline.rpc.client import as_unavailable
from meterline.slugs import is_slug
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
# How many names identity takes at once.
NAMES_A_CALL = 1_000
# In place of an answer that may be None.
_NOT_ASKED: Final = (0, False)


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
        self._looks: Lookups[frozenset[str], dict[str, Tenant]] = Lookups(replica.find_many)

    async def find(self, name: str) -> Tenant | None:
        known = self._replica.cached(name)
        if known is not None or name in self._unknown:
            return known
        return (await self.find_many([name])).get(name)

    async def find_many(self, names: Iterable[str]) -> Mapping[str, Tenant]:
        """Those that are known, by name: one look for all that are not in memory."""
        found: dict[str, Tenant] = {}
        missing = []
        for name in names:
            known = self._replica.cached(name)
            if known is not None:
                found[name] = known
            elif name not in self._unknown:
                missing.append(name)
        if missing:
            found |= await self._looks.get(frozenset(missing))
            self._unknown.update({name: True for name in missing if name not in found})
        return found


class TenantDirectory:
    """Numbers of tenants. Names that the replica lacks are asked from identity, which may be ahead."""

    def __init__(self, replica: TenantReplica, identity: aio.Channel) -> None:
        self._replica = replica
        self._identity: tenants_pb2_grpc.TenantsServiceAsyncStub = tenants_pb2_grpc.TenantsServiceStub(
            identity
        )
        self._asked: TTLCache[str, tuple[int, bool] | None] = TTLCache(10_000, UNKNOWN_SECONDS)

    async def numbers(self, names: Iterable[str]) -> dict[str, int | None]:
        """As `validation.check` wants them: unknown names are left out, inactive tenants are None.

        However many names there are, one look finds those that are not in memory, and identity is asked for
        a thousand at a time: a flush is many callers', and any of them may name what there is not.

        Raises UnavailableError when a name is not known here and identity does not answer.
        """
        wanted = set(names)
        known = await self._replica.find_many(wanted)
        numbers: dict[str, int | None] = {
            name: tenant.tenant_id if tenant.active else None for name, tenant in known.items()
        }
        for name, found in (await self._told(wanted - known.keys())).items():
            if found is not None:
                number, active = found
                numbers[name] = number if active else None
        return numbers

    async def _told(self, names: Collection[str]) -> Mapping[str, tuple[int, bool] | None]:
        """What identity says of names, now or a moment ago."""
        told = {name: self._asked.get(name, _NOT_ASKED) for name in names if is_slug(name)}
        asking = [name for name, found in told.items() if found is _NOT_ASKED]
        for start in range(0, len(asking), NAMES_A_CALL):
            chunk = asking[start : start + NAMES_A_CALL]
            told |= dict.fromkeys(chunk)
            told |= await self._ask(chunk)
        self._asked.update({name: told[name] for name in asking})
        return told

    async def _ask(self, names: Sequence[str]) -> Mapping[str, tuple[int, bool]]:
        request = tenants_pb2.BatchGetTenantsRequest(tenant_ids=names)
        try:
            answer = await self._identity.BatchGetTenants(request, timeout=2)
        except aio.AioRpcError as error:
            raise as_unavailable("identity", error) from error
        return {tenant.tenant_id: (tenant.number, tenant.active) for tenant in answer.tenants}
