"""The replica of identity's tenants that every other service keeps, guarded by version."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, timedelta
from functools import partial
from typing import Any
from zoneinfo import ZoneInfo

from google.protobuf.message import DecodeError
from meterline_protos.events.v1 import events_pb2

from meterline.bounds import MIN_TENANT_ID
from meterline.calendar import parse_day
from meterline.consuming.delivery import Delivery
from meterline.db.pool import Database, begin
from meterline.db.queries import Queries
from meterline.db.scope import ALL_TENANTS
from meterline.errors import NotFoundError, Poison
from meterline.remembered.answers import Answers
from meterline.slugs import check_slug, is_slug
from meterline.transactions.unit_of_work import Transaction

queries = Queries("meterline.tenants", "replica.sql")


@dataclass(frozen=True, slots=True)
class Tenant:
    """`tenant_id` is the number that keys carry, `slug` the name that the API calls tenant_id. `billed_from`
    is the first day that is billed, in the tenant's time zone; None: all are."""

    tenant_id: int
    slug: str
    version: int
    time_zone: str
    currency: str
    plan: str
    external_customer_id: str
    external_subscription_id: str
    active: bool
    close_lead: timedelta
    billed_from: date | None = None

    @property
    def zone(self) -> ZoneInfo:
        return ZoneInfo(self.time_zone)


def from_fact(fact: events_pb2.TenantChanged) -> Tenant:
    return Tenant(
        fact.tenant_id,
        fact.slug,
        fact.version,
        fact.time_zone,
        fact.currency,
        fact.plan,
        fact.external_customer_id,
        fact.external_subscription_id,
        fact.active,
        timedelta(seconds=fact.close_lead_seconds),
        parse_day(fact.billed_from) if fact.billed_from else None,
    )


def _checked(fact: events_pb2.TenantChanged) -> tuple[Tenant, datetime]:
    """The tenant and when it changed. Raises ValueError for what cannot be kept, whenever it comes."""
    try:
        tenant, changed_at = from_fact(fact), fact.changed_at.ToDatetime(tzinfo=UTC)
    except OverflowError as error:
        raise ValueError(str(error)) from error
    if tenant.tenant_id < MIN_TENANT_ID or not tenant.slug:
        raise ValueError("it has no tenant")
    texts = (
        tenant.slug,
        tenant.time_zone,
        tenant.currency,
        tenant.plan,
        tenant.external_customer_id,
        tenant.external_subscription_id,
    )
    if any("\0" in text for text in texts):
        raise ValueError("a text has NUL in it")
    return tenant, changed_at


# A change reaches one replica of a service by message and the others when their memory expires.
MEMORY_SECONDS = 5.0
_MOST_KEPT = 100_000


class TenantReplica:
    """Reads from memory, then from the table. One for each process."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._by_slug: Answers[str, Tenant] = Answers(MEMORY_SECONDS, most=_MOST_KEPT)
        self._by_id: Answers[int, Tenant] = Answers(MEMORY_SECONDS, most=_MOST_KEPT)

    async def handle(self, transaction: Transaction, deliveries: Sequence[Delivery]) -> None:
        """Applies `tenants.changed`. An older version than the known one changes nothing."""
        for delivery in deliveries:
            try:
                tenant, changed_at = _checked(events_pb2.TenantChanged.FromString(delivery.data))
            except (DecodeError, ValueError) as error:
                raise Poison(f"not a TenantChanged: {error}", [delivery.message_id]) from error
            await self._store(transaction, tenant, changed_at)

    async def apply(self, transaction: Transaction, fact: events_pb2.TenantChanged) -> None:
        """As `handle`, of one fact that did not come as a message. Raises ValueError.

        The transaction goes on as one of that tenant.
        """
        await self._store(transaction, *_checked(fact))

    async def _store(self, transaction: Transaction, tenant: Tenant, changed_at: datetime) -> None:
        transaction.after_commit(partial(self._forget, tenant))
        await begin(transaction.connection, [tenant.tenant_id])
        parameters = asdict(tenant) | {"changed_at": changed_at}
        await transaction.connection.execute(queries.upsert, parameters)

    def _forget(self, tenant: Tenant) -> None:
        self._by_id.forget(tenant.tenant_id)
        self._by_slug.forget(tenant.slug)

    def cached(self, slug: str) -> Tenant | None:
        return self._by_slug.get(slug)

    async def find(self, slug: str) -> Tenant | None:
        """The tenant of that name, or None when this service's replica does not have it."""
        if not is_slug(slug):
            return None
        tenant = self._by_slug.get(slug)
        return tenant or _only(await self._load(queries.by_slug, slug))

    async def find_many(self, slugs: Collection[str]) -> dict[str, Tenant]:
        """Those of these tenants that this service's replica has, by name."""
        found = self._by_slug.get_many(slugs)
        missing = [slug for slug in slugs if slug not in found and is_slug(slug)]
        if missing:
            found |= {tenant.slug: tenant for tenant in await self._load(queries.by_slugs, missing)}
        return found

    async def find_by_id(self, tenant_id: int) -> Tenant | None:
        tenant = self._by_id.get(tenant_id)
        return tenant or _only(await self._load(queries.by_id, tenant_id))

    async def get(self, slug: str) -> Tenant:
        """Raises NotFoundError, and InvalidArgumentError with the reason NAME_INVALID for what no tenant can
        be called, the empty text included."""
        check_slug("tenant_id", slug)
        tenant = await self.find(slug)
        if tenant is None:
            raise NotFoundError("tenant", slug)
        return tenant

    async def all(self) -> list[Tenant]:
        return [_from_row(row) for row in await self._database.fetch(queries.everything, None, ALL_TENANTS)]

    async def _load(self, query: Any, keys: str | int | Sequence[str]) -> list[Tenant]:
        by_slug, by_id = self._by_slug.ask(), self._by_id.ask()
        # Whose names these are is not known before they are read.
        loaded = [_from_row(row) for row in await self._database.fetch(query, (keys,), ALL_TENANTS)]
        for tenant in loaded:
            self._by_slug.keep(by_slug, tenant.slug, tenant)
            self._by_id.keep(by_id, tenant.tenant_id, tenant)
        return loaded


def _only(tenants: Sequence[Tenant]) -> Tenant | None:
    return tenants[0] if tenants else None


def _from_row(row: Sequence[Any]) -> Tenant:
    return Tenant(*row)
