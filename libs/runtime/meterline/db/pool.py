"""The pool of connections, and the transaction that every handler runs in."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, LiteralString

import psycopg
from psycopg import AsyncConnection, AsyncCursor
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from meterline.db import arrays, scope
from meterline.db.scope import NO_TENANT, Scope
from meterline.deadline import time_left
from meterline.errors import UnavailableError

Connection = AsyncConnection[TupleRow]
Cursor = AsyncCursor[TupleRow]

# Detects a server that vanished silently within seconds, instead of the kernel's default of hours.
_NETWORK = {
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
}


class Database:
    """A bounded pool. `start` opens it, `stop` closes it; both may be called twice."""

    def __init__(
        self, dsn: str, *, size: int = 8, application_name: str = "meterline", generic_plans: bool = False
    ) -> None:
        """`generic_plans`: statements are planned once a connection, for any parameters. For services whose
        every statement finds its rows by a key: over partitions, planning costs more than running. A plan is
        made once for good, perhaps while a table is still empty, so it never reads a whole table that has an
        index for it."""
        once = "-c plan_cache_mode=force_generic_plan -c enable_seqscan=off"
        options = {"options": once} if generic_plans else {}
        self._pool: AsyncConnectionPool[Connection] = AsyncConnectionPool(
            dsn,
            kwargs={"application_name": application_name, "prepare_threshold": 2, **_NETWORK, **options},
            min_size=min(2, size),
            max_size=size,
            max_waiting=1_000,
            timeout=10.0,
            # The pool retries at growing intervals until this timeout, and starts over at the next request.
            # A short timeout keeps the intervals short, so the pool reconnects soon after the server is up.
            reconnect_timeout=5.0,
            open=False,
            configure=self._configure,
        )
        self._open = False
        self._checking = False

    @staticmethod
    async def _configure(connection: Connection) -> None:
        arrays.register(connection)

    async def start(self) -> None:
        if not self._open:
            self._open = True
            await self._pool.open(wait=True, timeout=30.0)

    async def stop(self) -> None:
        if self._open:
            self._open = False
            await self._pool.close()

    @asynccontextmanager
    async def connection(self, tenants: Scope = NO_TENANT) -> AsyncIterator[Connection]:
        """A connection in a transaction that is rolled back unless it is committed inside.

        tenants: numbers of those whose rows it may touch where row-level security guards them

        Raises UnavailableError when the server cannot be reached or the pool stays empty.
        """
        used: Connection | None = None
        try:
            async with self._pool.connection() as connection:
                used = connection
                try:
                    await begin(connection, tenants)
                    yield connection
                finally:
                    if not connection.closed:
                        # psycopg then drops the connection's prepared statements. If they were kept, a plan
                        # would outlive the table sizes that it was made for: one that was made for few series
                        # reads all 10,000 of a tenant for each event.
                        await connection.rollback()
        except PoolTimeout as error:
            raise UnavailableError(f"no database connection: {error}") from error
        except psycopg.OperationalError as error:
            if isinstance(error, psycopg.errors.QueryCanceled):
                raise UnavailableError("the database did not answer in time") from error
            raise UnavailableError(f"database: {error}") from error
        finally:
            if used is not None and used.closed:
                await self._check()

    async def _check(self) -> None:
        """Also drops other dead connections: a server that restarts ends them all, and each would fail one
        more caller."""
        if not self._checking and self._open:
            self._checking = True
            try:
                await self._pool.check()
            finally:
                self._checking = False

    async def fetch(
        self, query: LiteralString, parameters: Any = None, tenants: Scope = NO_TENANT
    ) -> list[TupleRow]:
        """All rows of one reading statement."""
        async with self.connection(tenants) as connection:
            cursor = await connection.execute(query, parameters, binary=True)
            return await cursor.fetchall()


async def begin(connection: Connection, tenants: Scope) -> None:
    """Sets, for this transaction only, whose rows it may touch and how long a statement may take.

    Needed again for each further transaction on a connection, after a rollback or a commit. Costs a round
    trip, so it is left out when there is nothing to set.
    """
    setting = scope.to_setting(tenants)
    left = time_left.get()
    seconds = left() if left else None
    if seconds is None:
        if setting:
            await connection.execute(scope.SET_SCOPE, {"tenants": setting})
        return
    timeout = str(max(1, int(seconds * 1000)))
    statement = scope.SET_BOTH if setting else scope.SET_TIMEOUT
    await connection.execute(statement, {"tenants": setting, "timeout": timeout})
