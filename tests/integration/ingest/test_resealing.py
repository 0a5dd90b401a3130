"""Values of retired keys are resealed with the current key, in limited steps and without loss."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from meterline.crypto.envelope import key_id_of
from meterline.telemetry import metrics
from meterline_ingest.keys.reseal import Resealer
from meterline_ingest.keys.rotation import rotate
from meterline_ingest.keys.store import RETIRED_FOR_GOOD

from tests.support.databases import TestDatabase
from tests.support.vaults import CHANGE, OpenReplica, Replica, SealedThings, age_keys, stored_keys

pytestmark = pytest.mark.req("T4.3")

ACME, BOLT = 1, 2
THINGS = SealedThings()


@pytest.fixture
def things(database: TestDatabase) -> TestDatabase:
    THINGS.create(database)
    return database


@pytest.fixture
async def one(things: TestDatabase, open_replica: OpenReplica) -> Replica:
    return await open_replica(things)


def resealer(replica: Replica, most: int = 1_000) -> Resealer:
    return Resealer(replica.database, replica.keys, replica.vault, [THINGS], most=most)


async def put(replica: Replica, tenant_id: int, *rows: bytes) -> None:
    keyring = await replica.vault.keyring(None, tenant_id)
    async with replica.database.connection([tenant_id]) as connection:
        for row in rows:
            sealed = keyring.seal("things", "secret", row, b"text of " + row)
            await THINGS.put(connection, tenant_id, row, sealed)
        await connection.commit()


async def rotate_for_good(database: TestDatabase, replica: Replica, *tenant_ids: int) -> None:
    for tenant_id in tenant_ids:
        await rotate(replica.store, tenant_id, 0, CHANGE)
    age_keys(database, RETIRED_FOR_GOOD + timedelta(minutes=1))
    replica.timer.memory_passes()


async def texts(replica: Replica, tenant_id: int) -> dict[bytes, tuple[bytes, int]]:
    """The text of each row, and the number of its key."""
    keyring = await replica.vault.keyring(None, tenant_id)
    stored = await THINGS.all(replica.database, tenant_id)
    return {
        row: (keyring.unseal("things", "secret", row, sealed), key_id_of(sealed))
        for row, sealed in stored.items()
    }


async def test_all_values_are_resealed_with_the_current_key(things: TestDatabase, one: Replica) -> None:
    before = metrics.RESEALED_VALUES._value.get()
    rows = [b"row %d" % number for number in range(7)]
    await put(one, ACME, *rows)
    await put(one, BOLT, b"theirs")
    await rotate_for_good(things, one, ACME)
    await put(one, ACME, b"new")

    assert await resealer(one).run() == 7
    assert await texts(one, ACME) == {row: (b"text of " + row, 2) for row in [*rows, b"new"]}
    assert await texts(one, BOLT) == {b"theirs": (b"text of theirs", 1)}
    resealed = stored_keys(things, "tenant_id, key_id, resealed_at IS NOT NULL")
    assert [key[:2] for key in resealed if key[2]] == [(ACME, 1)]
    assert await resealer(one).run() == 0
    assert metrics.RESEALED_VALUES._value.get() == before + 7


@given(count=st.integers(0, 12), most=st.integers(1, 5), page=st.integers(1, 4))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_run_reseals_at_most_its_limit(
    things: TestDatabase, one: Replica, monkeypatch: pytest.MonkeyPatch, count: int, most: int, page: int
) -> None:
    monkeypatch.setattr("meterline_ingest.keys.reseal.PAGE", page)
    with psycopg.connect(things.admin_dsn) as connection:
        connection.execute("DELETE FROM ingest.things")
        connection.execute("DELETE FROM ingest.data_keys")
    one.vault.forget(ACME)
    await put(one, ACME, *(b"row %02d" % number for number in range(count)))
    await rotate_for_good(things, one, ACME)
    runs = [await resealer(one, most).run() for _ in range(count // most + 1)]
    assert runs == [most] * (count // most) + [count % most]
    assert {key_id for _, key_id in (await texts(one, ACME)).values()} <= {2}
    assert (1, True) in stored_keys(things, "key_id, resealed_at IS NOT NULL")


async def test_values_of_a_recently_retired_key_are_not_resealed(things: TestDatabase, one: Replica) -> None:
    """Open transactions may still seal values with it."""
    await put(one, ACME, b"row")
    await rotate(one.store, ACME, 0, CHANGE)
    age_keys(things, RETIRED_FOR_GOOD - timedelta(minutes=1))
    assert await resealer(one).run() == 0
    assert (1, True) not in stored_keys(things, "key_id, resealed_at IS NOT NULL")


async def test_values_of_several_retired_keys_are_resealed(things: TestDatabase, one: Replica) -> None:
    for number in range(4):
        await put(one, ACME, b"row %d" % number)
        await rotate_for_good(things, one, ACME)
    assert await resealer(one).run() == 4
    assert {key_id for _, key_id in (await texts(one, ACME)).values()} == {5}
    assert [key for key in stored_keys(things, "key_id, resealed_at IS NOT NULL") if key[1]] == [
        (key_id, True) for key_id in (1, 2, 3, 4)
    ]


async def test_concurrent_resealing_loses_no_value(
    things: TestDatabase, one: Replica, open_replica: OpenReplica
) -> None:
    rows = [b"row %d" % number for number in range(50)]
    await put(one, ACME, *rows)
    await rotate_for_good(things, one, ACME)
    two = await open_replica(things)
    done = await asyncio.gather(resealer(one).run(), resealer(two).run())
    assert sum(done) == 50
    assert await texts(two, ACME) == {row: (b"text of " + row, 2) for row in rows}


async def test_damaged_value_is_kept_and_does_not_block_others(
    things: TestDatabase, one: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meterline_ingest.keys.reseal.PAGE", 1)
    await put(one, ACME, b"a", b"b", b"c")
    await put(one, BOLT, b"theirs")
    with psycopg.connect(things.admin_dsn) as connection:
        connection.execute("UPDATE ingest.things SET secret = secret || '\\x00' WHERE id = 'a'")
    await rotate_for_good(things, one, ACME, BOLT)
    assert await resealer(one).run() == 3
    stored = await THINGS.all(one.database, ACME)
    assert {row: key_id_of(sealed) for row, sealed in stored.items()} == {b"a": 1, b"b": 2, b"c": 2}
    # Its key is not marked as resealed: an operator must examine the value.
    assert [key for key in stored_keys(things, "tenant_id, key_id, resealed_at IS NOT NULL") if key[2]] == [
        (BOLT, 1, True)
    ]


async def test_no_key_is_marked_as_resealed_without_columns(things: TestDatabase, one: Replica) -> None:
    await put(one, ACME, b"row")
    await rotate_for_good(things, one, ACME)
    assert await Resealer(one.database, one.keys, one.vault, [], most=10).run() == 0
    assert (1, True) not in stored_keys(things, "key_id, resealed_at IS NOT NULL")
