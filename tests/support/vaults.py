"""Replicas of the vault of tenants' keys, each with its own connections, cache and timer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

import psycopg
import pytest
from meterline.crypto.master_keys import MasterKeys
from meterline.db.pool import Connection, Database
from meterline.transactions.unit_of_work import UnitOfWork
from meterline_ingest.audit.rules import ChangeRequest
from meterline_ingest.keys.rotation import KeyStore
from meterline_ingest.keys.rules import Resealed
from meterline_ingest.keys.store import DataKeys
from meterline_ingest.keys.upkeep import KeyUpkeep
from meterline_ingest.keys.vault import MEMORY_SECONDS, Vault

from tests.support.databases import TestDatabase
from tests.support.services import MASTER_KEYS

CHANGE = ChangeRequest("ann@example.com", "because the test says so")


@dataclass
class Timer:
    """A manual timer, in seconds."""

    now: float = 1_000.0

    def __call__(self) -> float:
        return self.now

    def memory_passes(self) -> None:
        """Advances beyond the age limit of every vault's cache."""
        self.now += MEMORY_SECONDS


@dataclass
class Replica:
    """The vault of one process. `timer` is the clock of its cache."""

    database: Database
    masters: MasterKeys
    timer: Timer = field(default_factory=Timer)

    def __post_init__(self) -> None:
        self.keys = DataKeys(self.database)
        self.vault = Vault(self.keys, self.masters, timer=self.timer)
        self.store = KeyStore(UnitOfWork(self.database, lambda: None), self.keys, self.vault)

    def upkeep(self, *, max_age: timedelta = timedelta(days=90), most_sealed: int = 1 << 30) -> KeyUpkeep:
        return KeyUpkeep(self.store, seconds=3_600, max_age=max_age, most_sealed=most_sealed)


OpenReplica = Callable[..., Awaitable[Replica]]


@pytest.fixture
async def open_replica() -> AsyncIterator[OpenReplica]:
    """A function `(database, master_keys=…) -> Replica`. All are stopped after the test."""
    opened: list[Replica] = []

    async def make(database: TestDatabase, master_keys: str = MASTER_KEYS) -> Replica:
        pool = Database(database.app_dsn("ingest"), size=4)
        await pool.start()
        opened.append(Replica(pool, MasterKeys.parse(master_keys)))
        return opened[-1]

    yield make
    for replica in opened:
        await replica.vault.stop()
        await replica.database.stop()


class SealedThings:
    """A table with a sealed column, like those of other parts of ingest."""

    table = "things"
    column = "secret"

    @staticmethod
    def create(database: TestDatabase) -> None:
        with psycopg.connect(database.owner_dsn("ingest")) as connection:
            connection.execute(
                "CREATE TABLE things (tenant_id integer, id bytea, secret bytea, PRIMARY KEY (tenant_id, id))"
            )
            connection.execute("SELECT protect_tenants('things')")
            connection.execute("SELECT grant_rights('things', 'SELECT, INSERT, UPDATE')")

    async def put(self, connection: Connection, tenant_id: int, row: bytes, sealed: bytes) -> None:
        await connection.execute("INSERT INTO things VALUES (%s, %s, %s)", (tenant_id, row, sealed))

    async def all(self, database: Database, tenant_id: int) -> dict[bytes, bytes]:
        rows = await database.fetch(
            "SELECT id, secret FROM things WHERE tenant_id = %s", (tenant_id,), tenants=[tenant_id]
        )
        return dict(rows)

    async def earlier(
        self, connection: Connection, tenant_id: int, before: bytes, after: bytes, limit: int
    ) -> list[tuple[bytes, bytes]]:
        cursor = await connection.execute(
            "SELECT id, secret FROM things WHERE tenant_id = %s AND secret < %s AND id > %s"
            " ORDER BY id LIMIT %s",
            (tenant_id, before, after, limit),
            binary=True,
        )
        return [(row, sealed) for row, sealed in await cursor.fetchall()]

    async def replace(self, connection: Connection, tenant_id: int, values: Sequence[Resealed]) -> int:
        replaced = 0
        for value in values:
            cursor = await connection.execute(
                "UPDATE things SET secret = %s WHERE tenant_id = %s AND id = %s AND secret = %s",
                (value.after, tenant_id, value.row, value.before),
            )
            replaced += cursor.rowcount
        return replaced


def age_keys(database: TestDatabase, by: timedelta) -> None:
    """Moves the creation and retirement of all keys into the past."""
    with psycopg.connect(database.admin_dsn) as connection:
        connection.execute(
            "UPDATE ingest.data_keys SET created_at = created_at - %(by)s, retired_at = retired_at - %(by)s",
            {"by": by},
        )


def stored_keys(database: TestDatabase, columns: str) -> list[tuple[object, ...]]:
    """Columns of all keys of all tenants, by tenant and number."""
    with psycopg.connect(database.admin_dsn) as connection:
        return connection.execute(
            f"SELECT {columns} FROM ingest.data_keys ORDER BY tenant_id, key_id"
        ).fetchall()
