"""Upkeep of keys by several replicas: counts of sealed values, rotation, and rewrapping."""

from __future__ import annotations

import asyncio
import base64
from datetime import timedelta

import psycopg
import pytest
from meterline.errors import UnavailableError
from meterline.telemetry import metrics
from meterline_ingest.keys.keyring import Keyring
from meterline_ingest.keys.rotation import rotate

from tests.support.databases import TestDatabase
from tests.support.polling import eventually
from tests.support.services import MASTER_KEYS
from tests.support.vaults import CHANGE, OpenReplica, Replica, age_keys, stored_keys

pytestmark = pytest.mark.req("T4.3")

ACME, BOLT = 1, 2
NEW_MASTER = f"new:{base64.b64encode(bytes(range(64, 96))).decode()}"


@pytest.fixture
async def one(database: TestDatabase, open_replica: OpenReplica) -> Replica:
    return await open_replica(database)


@pytest.fixture
async def two(database: TestDatabase, open_replica: OpenReplica) -> Replica:
    return await open_replica(database)


def seal(keyring: Keyring) -> bytes:
    return keyring.seal("t", "c", b"row", b"text")


async def seal_some(replica: Replica, count: int, tenant_id: int = ACME) -> None:
    keyring = await replica.vault.keyring(None, tenant_id)
    for _ in range(count):
        seal(keyring)


def audited(database: TestDatabase) -> list[tuple[object, ...]]:
    with psycopg.connect(database.admin_dsn) as connection:
        return connection.execute(
            "SELECT tenant_id, principal, action, subject, reason, details FROM ingest.audit_log"
            " ORDER BY audit_id"
        ).fetchall()


async def test_sealed_values_of_replicas_add_up(database: TestDatabase, one: Replica, two: Replica) -> None:
    before = metrics.SEALED_VALUES._value.get()
    for _ in range(4):
        for replica in (one, two):
            await seal_some(replica, 3)
            await seal_some(replica, 1, BOLT)
        await asyncio.gather(one.upkeep().run(), two.upkeep().run())
    assert stored_keys(database, "tenant_id, key_id, sealed") == [(1, 0, 0), (1, 1, 24), (2, 0, 0), (2, 1, 8)]
    assert metrics.SEALED_VALUES._value.get() == before + 32


async def test_stopping_replica_counts_its_last_sealed_values(database: TestDatabase, one: Replica) -> None:
    upkeep = one.upkeep()
    await upkeep.start()
    await seal_some(one, 5)
    await upkeep.stop()
    await upkeep.stop()
    assert stored_keys(database, "key_id, sealed") == [(0, 0), (1, 5)]


async def test_uncounted_values_are_counted_after_an_outage(
    database: TestDatabase, one: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def unavailable(*_: object) -> None:
        raise UnavailableError("database")

    await seal_some(one, 5)
    monkeypatch.setattr(one.keys, "add_sealed", unavailable)
    with pytest.raises(UnavailableError):
        await one.upkeep().run()
    await one.upkeep().stop()  # logs the failure, and stops
    monkeypatch.undo()
    await one.upkeep().run()
    assert stored_keys(database, "key_id, sealed") == [(0, 0), (1, 5)]


async def test_key_is_rotated_once_after_enough_sealed_values(
    database: TestDatabase, one: Replica, two: Replica
) -> None:
    await asyncio.gather(seal_some(one, 6), seal_some(two, 3))
    await one.upkeep(most_sealed=9).run()
    assert stored_keys(database, "key_id, state, sealed") == [(0, "current", 0), (1, "current", 6)]
    await asyncio.gather(*(each.upkeep(most_sealed=9).run() for each in (two, one)))
    assert stored_keys(database, "key_id, state, sealed") == [
        (0, "current", 0),
        (1, "retired", 9),
        (2, "current", 0),
    ]
    assert audited(database) == [
        (
            ACME,
            "meterline-ingest",
            "tenant_key.rotated",
            "key 2",
            "sealed 9 values",
            {"key_id": 2, "previous_key_id": 1},
        )
    ]
    # A replica with a stale cache still uses the old key: its values count, and cause no rotation.
    await seal_some(two, 20)
    assert await two.upkeep(most_sealed=9).count() == []
    assert stored_keys(database, "sealed")[1] == (29,)


async def test_key_is_rotated_after_90_days(database: TestDatabase, one: Replica, two: Replica) -> None:
    await one.vault.keyrings([ACME, BOLT])
    age_keys(database, timedelta(days=80))
    await rotate(one.store, BOLT, 0, CHANGE)
    age_keys(database, timedelta(days=11))
    await asyncio.gather(*(each.upkeep().run() for each in (one, two)))
    assert stored_keys(database, "tenant_id, key_id, state") == [
        (ACME, 0, "current"),
        (ACME, 1, "retired"),
        (ACME, 2, "current"),
        (BOLT, 0, "current"),
        (BOLT, 1, "retired"),
        (BOLT, 2, "current"),
    ]
    assert [entry[4] for entry in audited(database)] == [CHANGE.reason, "older than 90 days"]


async def test_old_master_key_is_unneeded_after_rewrapping(
    database: TestDatabase, one: Replica, open_replica: OpenReplica, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meterline_ingest.keys.upkeep.PAGE", 3)
    sealed = {tenant: seal(keyring) for tenant, keyring in (await one.vault.keyrings(range(1, 6))).items()}
    prints = {tenant: k.fingerprint(b"x") for tenant, k in (await one.vault.keyrings(sealed)).items()}
    await rotate(one.store, ACME, 0, CHANGE)
    both = await open_replica(database, f"{NEW_MASTER},{MASTER_KEYS}")
    await both.upkeep().run()
    assert {master for (master,) in stored_keys(database, "master_key_id")} == {"new"}
    assert metrics.KEYS_NOT_REWRAPPED._value.get() == 0

    only_new = await open_replica(database, NEW_MASTER)
    for tenant, keyring in (await only_new.vault.keyrings(sealed)).items():
        assert keyring.unseal("t", "c", b"row", sealed[tenant]) == b"text"
        assert keyring.fingerprint(b"x") == prints[tenant]
    one.timer.memory_passes()
    lacking = await one.vault.keyring(None, ACME)
    with pytest.raises(UnavailableError, match="'new'"):
        seal(lacking)


async def test_damaged_key_does_not_block_rewrapping_of_others(
    database: TestDatabase, one: Replica, open_replica: OpenReplica
) -> None:
    await one.vault.keyrings([ACME, BOLT])
    with psycopg.connect(database.admin_dsn) as connection:
        connection.execute("UPDATE ingest.data_keys SET wrapped = '\\x00' WHERE tenant_id = 1 AND key_id = 1")
    both = await open_replica(database, f"{NEW_MASTER},{MASTER_KEYS}")
    await both.upkeep().run()
    masters = [str(master) for (master,) in stored_keys(database, "master_key_id")]
    assert masters == ["new", "test", "new", "new"]
    assert metrics.KEYS_NOT_REWRAPPED._value.get() == 1


async def test_rewrapping_does_not_restore_a_shredded_key(
    database: TestDatabase, one: Replica, open_replica: OpenReplica
) -> None:
    """The key is shredded between the read and the write of the rewrapping."""
    await one.vault.keyring(None, ACME)
    both = await open_replica(database, f"{NEW_MASTER},{MASTER_KEYS}")
    read = await both.keys.of_other_masters("new", (0, -1), 10)
    async with one.database.connection([ACME]) as connection:
        assert await one.keys.shred(connection, ACME) == 2
        await connection.commit()
    assert await both.keys.rewrap([(key, b"rewrapped") for key in read], "new") == 0
    assert stored_keys(database, "key_id, wrapped, state") == [
        (0, None, "shredded"),
        (1, None, "shredded"),
    ]


async def test_counting_locks_keys_in_one_order(database: TestDatabase, one: Replica) -> None:
    """Otherwise two replicas that count in different orders could deadlock."""
    await one.vault.keyrings([ACME, BOLT])
    lock = "SELECT 1 FROM ingest.data_keys WHERE tenant_id = %s FOR UPDATE NOWAIT"
    with (
        psycopg.connect(database.admin_dsn, autocommit=True) as admin,
        psycopg.connect(database.admin_dsn) as holder,
    ):

        def waiting() -> bool:
            query = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = %s"
            return admin.execute(query, (database.name,)).fetchone() is not None

        holder.execute(lock, (BOLT,))
        count = asyncio.create_task(one.keys.add_sealed({(BOLT, 1): 1, (ACME, 1): 1}, 10))
        await eventually(waiting)
        with pytest.raises(psycopg.errors.LockNotAvailable):
            admin.execute(lock, (ACME,))
        holder.rollback()
        await count
    assert stored_keys(database, "sealed") == [(0,), (1,), (0,), (1,)]


async def test_concurrent_upkeep_and_rotation_lose_no_counts(
    database: TestDatabase, one: Replica, two: Replica
) -> None:
    """Two replicas count and rotate the same keys, without deadlocks."""
    tenants = range(1, 9)
    for _ in range(5):
        for tenant_id in tenants:
            await asyncio.gather(seal_some(one, 1, tenant_id), seal_some(two, 1, tenant_id))
        await asyncio.gather(
            one.upkeep(most_sealed=1).run(),
            two.upkeep(max_age=timedelta(0)).run(),
            *(rotate(one.store, tenant_id, 0, CHANGE) for tenant_id in tenants),
        )
    total = sum(int(str(sealed)) for (sealed,) in stored_keys(database, "sealed"))
    assert total == 5 * 2 * len(tenants)
