"""The buckets that all replicas take from, by the database's clock alone."""

from __future__ import annotations

from collections.abc import Sequence

from meterline.db.pool import Database
from meterline.db.queries import Queries

from meterline_ingest.rate_limits.rules.lease import Ask, Grant
from meterline_ingest.rate_limits.rules.limits import MILLIONTHS, Limits

queries = Queries("meterline_ingest.rate_limits.store", "buckets.sql")


class BucketRepository:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def exchange(self, asks: Sequence[Ask]) -> dict[int, Grant]:
        """Gives back and takes for many tenants at once; grants by tenant, none for one without limits.

        A replica that does not receive the response must not use any tokens of the exchange.
        """
        grants = await self._transact(asks)
        missing = [ask for ask in asks if ask.tenant_id not in grants]
        if missing:
            # A tenant's first call makes its bucket, in a separate transaction: together with locks on
            # existing buckets it would lock out of order.
            grants |= await self._transact(missing, new=True)
        return grants

    async def _transact(self, asks: Sequence[Ask], *, new: bool = False) -> dict[int, Grant]:
        tenants = [ask.tenant_id for ask in asks]
        async with self._database.connection(tenants) as connection:
            if new:
                await connection.execute(queries.add_buckets, (tenants,))
            columns = (
                tenants,
                *([getattr(ask, name) for ask in asks] for name in ("need", "ahead", "back")),
                *([getattr(ask.limits, name) for ask in asks] for name in ("events_per_second", "burst")),
            )
            cursor = await connection.execute(queries.exchange_tokens, columns)
            grants = {tenant_id: Grant(*values) for tenant_id, *values in await cursor.fetchall()}
            await connection.commit()
        return grants

    async def level(self, tenant_id: int, limits: Limits) -> int:
        """Whole events that are left; negative when they are owed."""
        parameters = {
            "tenant_id": tenant_id,
            "events_per_second": limits.events_per_second,
            "burst": limits.burst,
        }
        rows = await self._database.fetch(queries.level_now, parameters, tenants=[tenant_id])
        return int(rows[0][0]) // MILLIONTHS if rows else limits.burst
