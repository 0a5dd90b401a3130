"""Keys of tenants in two replicas on one database: creation, rotation, shredding, and storage."""

from __future__ import annotations

import asyncio
import base64
from datetime import timedelta

import psycopg
import pytest
from meterline.crypto.envelope import key_id_of
from meterline.errors import ShreddedError
from meterline_ingest.keys.keyring import Keyring
from meterline_ingest.keys.rotation import rotate
from meterline_ingest.keys.store import SETTLING
from meterline_ingest.keys.vault import Vault

from tests.support.databases import TestDatabase
from tests.support.services import MASTER_KEYS
from tests.support.vaults import CHANGE, OpenReplica, Replica, age_keys, stored_keys

pytestmark = pytest.mark.req("T4.3")

ACME, BOLT = 1, 2
SETTLED = SETTLING + timedelta(seconds=1)


@pytest.fixture
async def one(database: TestDatabase, open_replica: OpenReplica) -> Replica:
    return await open_replica(database)


@pytest.fixture
async def two(database: TestDatabase, open_replica: OpenReplica) -> Replica:
    return await open_replica(database)


def seal(keyring: Keyring, text: bytes = b"text") -> bytes:
    return keyring.seal("t", "c", b"row", text)


def unseal(keyring: Keyring, sealed: bytes) -> bytes:
    return keyring.unseal("t", "c", b"row", sealed)


async def shred(replica: Replica, tenant_id: int = ACME) -> None:
    async with replica.database.connection([tenant_id]) as connection:
        await replica.keys.shred(connection, tenant_id)
        await connection.commit()


async def test_value_sealed_by_one_replica_is_unsealed_by_the_other(one: Replica, two: Replica) -> None:
    sealed = seal(await one.vault.keyring(None, ACME))
    other = await two.vault.keyring(None, ACME)
    assert unseal(other, sealed) == b"text"
    assert other.fingerprint(b"text") == (await one.vault.keyring(None, ACME)).fingerprint(b"text")


async def test_concurrent_first_uses_create_the_same_keys(
    database: TestDatabase, one: Replica, two: Replica
) -> None:
    """Many concurrent lookups, with empty caches in both replicas, get the same keys."""
    looks = [replica.vault.keyring(None, ACME) for replica in [one, two] * 8]
    looks_at_many = [replica.vault.keyrings([BOLT, ACME]) for replica in [one, two] * 4]
    keyrings, mixed = await asyncio.gather(asyncio.gather(*looks), asyncio.gather(*looks_at_many))
    keyrings += [found[ACME] for found in mixed]
    assert len({keyring.fingerprint(b"text") for keyring in keyrings}) == 1
    values = [seal(keyring) for keyring in keyrings]
    assert all(unseal(keyring, value) == b"text" for keyring in keyrings for value in values)
    assert stored_keys(database, "tenant_id, key_id, state") == [
        (tenant_id, key_id, "current") for tenant_id in (ACME, BOLT) for key_id in (0, 1)
    ]


async def test_keys_of_many_tenants_are_loaded_with_one_query(
    one: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    await one.vault.keyrings(range(1, 21))
    one.timer.memory_passes()
    queries = []
    load = one.keys.load

    async def counted(*arguments: object) -> object:
        queries.append(arguments)
        return await load(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(one.keys, "load", counted)
    await one.vault.keyring(None, 3)
    found = await one.vault.keyrings([1, 2, 3, 4, 4])
    assert sorted(found) == [1, 2, 3, 4]
    assert [sorted(arguments[0]) for arguments in queries] == [[3], [1, 2, 4]]  # type: ignore[call-overload]


async def test_lookup_without_creation_makes_no_key(
    database: TestDatabase, one: Replica, two: Replica
) -> None:
    assert not (await one.vault.keyring(None, ACME, create=False)).exists
    assert stored_keys(database, "1") == []
    sealed = seal(await two.vault.keyring(None, ACME))
    # The absence of a key is not cached.
    assert unseal(await one.vault.keyring(None, ACME, create=False), sealed) == b"text"


async def test_keys_are_committed_even_if_the_caller_rolls_back(one: Replica) -> None:
    """A sealed value may have left the process already, so its key must be stored."""
    async with one.database.connection([ACME]) as connection:
        sealed = seal(await one.vault.keyring(connection, ACME))
        await connection.rollback()
    one.timer.memory_passes()
    assert unseal(await one.vault.keyring(None, ACME), sealed) == b"text"


async def test_lookup_can_use_the_connection_of_its_caller(
    database: TestDatabase, one: Replica, open_replica: OpenReplica
) -> None:
    """With an exhausted pool, keys are still read through the caller's connection."""
    await one.vault.keyring(None, ACME)
    busy = await open_replica(database)
    held = [busy.database.connection([ACME]) for _ in range(4)]
    connections = [await each.__aenter__() for each in held]
    try:
        assert seal(await busy.vault.keyring(connections[0], ACME))
    finally:
        for each in held:
            await each.__aexit__(None, None, None)


async def test_rotation_reaches_the_other_replica(database: TestDatabase, one: Replica, two: Replica) -> None:
    old = seal(await two.vault.keyring(None, ACME))
    fingerprint = (await two.vault.keyring(None, ACME)).fingerprint(b"text")
    await rotate(one.store, ACME, 0, CHANGE)

    # At first no replica seals with the new key, since the other one may not know it.
    first = seal(await one.vault.keyring(None, ACME))
    assert (key_id_of(first), unseal(await two.vault.keyring(None, ACME), first)) == (1, b"text")

    age_keys(database, SETTLED)
    for replica in (one, two):
        replica.timer.memory_passes()
    new = seal(await one.vault.keyring(None, ACME))
    known = await two.vault.keyring(None, ACME)
    assert key_id_of(new) == 2
    assert unseal(known, new) == unseal(known, old) == b"text"
    assert known.fingerprint(b"text") == fingerprint
    assert (known.needs_reseal(old), known.needs_reseal(new)) == (True, False)
    assert stored_keys(database, "key_id, state") == [(0, "current"), (1, "retired"), (2, "current")]


async def test_repeated_rotation_of_one_key_rotates_once(
    database: TestDatabase, one: Replica, two: Replica
) -> None:
    await one.vault.keyring(None, ACME)
    await asyncio.gather(*(rotate(each.store, ACME, 1, CHANGE) for each in [one, two] * 3))
    assert stored_keys(database, "key_id, state") == [(0, "current"), (1, "retired"), (2, "current")]


async def test_concurrent_rotations_run_one_after_another(
    database: TestDatabase, one: Replica, two: Replica
) -> None:
    await asyncio.gather(*(rotate(each.store, ACME, 0, CHANGE) for each in [one, two] * 3))
    states = stored_keys(database, "key_id, state")
    assert states == [(0, "current"), *((n, "retired") for n in range(1, 6)), (6, "current")]


async def test_all_values_stay_readable_while_keys_rotate(
    database: TestDatabase, one: Replica, two: Replica
) -> None:
    """Fault 18: rotation under load. Each replica unseals the other's new values at once."""
    await one.vault.keyring(None, ACME)
    values: list[bytes] = []
    stop = asyncio.Event()

    async def work(writer: Replica, reader: Replica) -> None:
        while not stop.is_set():
            sealed = seal(await writer.vault.keyring(None, ACME))
            assert unseal(await reader.vault.keyring(None, ACME), sealed) == b"text"
            values.append(sealed)
            writer.timer.now += 0.5
            await asyncio.sleep(0)

    load = [asyncio.create_task(work(one, two)), asyncio.create_task(work(two, one))]
    for _ in range(5):
        await rotate(one.store, ACME, 0, CHANGE)
        for replica in (one, two):
            replica.timer.memory_passes()
            await replica.vault.keyring(None, ACME)
        age_keys(database, SETTLED)
    stop.set()
    await asyncio.gather(*load)
    for replica in (one, two):
        replica.timer.memory_passes()
    keyring = await two.vault.keyring(None, ACME)
    assert {unseal(keyring, value) for value in values} == {b"text"}
    assert len({key_id_of(value) for value in values}) > 1


async def test_shredding_reaches_the_other_replica(one: Replica, two: Replica) -> None:
    sealed = seal(await two.vault.keyring(None, ACME))
    await shred(one)
    assert unseal(await two.vault.keyring(None, ACME), sealed) == b"text", (
        "the key is cached for a short time"
    )
    two.timer.memory_passes()
    shredded = await two.vault.keyring(None, ACME)
    with pytest.raises(ShreddedError):
        unseal(shredded, sealed)
    with pytest.raises(ShreddedError):
        seal(shredded)


async def test_cached_keys_expire_without_a_lookup(one: Replica) -> None:
    await one.vault.keyrings([ACME, BOLT])
    assert len(one.vault._known) == 2
    one.timer.memory_passes()
    await one.vault.expire()
    assert len(one.vault._known) == 0


async def test_age_of_cached_keys_counts_from_before_their_query(
    one: Replica, two: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A delayed answer is already old on arrival."""
    await one.vault.keyring(None, ACME)
    load = two.keys.load

    async def slow(*arguments: object) -> object:
        answer = await load(*arguments)  # type: ignore[arg-type]
        two.timer.memory_passes()
        return answer

    monkeypatch.setattr(two.keys, "load", slow)
    await two.vault.keyring(None, ACME)
    monkeypatch.undo()
    await shred(one)
    assert (await two.vault.keyring(None, ACME)).shredded


async def test_keys_shredded_while_being_read_are_not_cached(
    one: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process that shreds keys must not seal with them afterwards, even for a short time."""
    load = one.keys.load

    async def shredded_meanwhile(*arguments: object) -> object:
        answer = await load(*arguments)  # type: ignore[arg-type]
        monkeypatch.undo()
        await shred(one)
        one.vault.forget(ACME)
        return answer

    await one.vault.keyring(None, ACME)
    one.timer.memory_passes()
    monkeypatch.setattr(one.keys, "load", shredded_meanwhile)
    assert not (await one.vault.keyring(None, ACME)).shredded
    assert (await one.vault.keyring(None, ACME)).shredded


def test_cache_that_outlasts_the_settling_time_is_refused(one: Replica) -> None:
    with pytest.raises(ValueError, match="before every replica"):
        Vault(one.keys, one.masters, ttl=SETTLING.total_seconds())


async def test_shredded_tenant_gets_no_new_key(database: TestDatabase, one: Replica, two: Replica) -> None:
    await one.vault.keyring(None, ACME)
    await shred(one)
    assert (await two.vault.keyring(None, ACME)).shredded
    with pytest.raises(ShreddedError):
        await rotate(two.store, ACME, 0, CHANGE)
    assert stored_keys(database, "key_id, wrapped") == [(0, None), (1, None)]


async def test_database_contains_neither_text_nor_key(database: TestDatabase, one: Replica) -> None:
    keyring = await one.vault.keyring(None, ACME)
    text = b"a text that would be found"
    with psycopg.connect(database.owner_dsn("ingest")) as connection:
        connection.execute("CREATE TABLE things (secret bytea)")
        connection.execute("INSERT INTO things VALUES (%s)", (seal(keyring, text),))
    await rotate(one.store, ACME, 0, CHANGE)
    secrets = [
        one.masters.unwrap(key.wrapped or b"", key.master_key_id, ACME, key.key_id, key.purpose)
        for key in (await one.keys.load([ACME]))[ACME]
    ]
    master = base64.b64decode(MASTER_KEYS.partition(":")[2])
    dumped = everything(database)
    assert len(secrets) == 3
    for hidden in (text, master, *secrets):
        assert hidden.hex() not in dumped
        assert base64.b64encode(hidden).decode() not in dumped
    assert seal(keyring)[:5].hex() in dumped, "the check would find the sealed value"


def everything(database: TestDatabase) -> str:
    """Every row of every table of ingest, as text."""
    with psycopg.connect(database.admin_dsn) as connection:
        tables = connection.execute(
            "SELECT quote_ident(relname) FROM pg_class WHERE relnamespace = 'ingest'::regnamespace"
            " AND relkind = 'r'"
        ).fetchall()
        rows = [
            row
            for (table,) in tables
            for row in connection.execute(f"SELECT t::text FROM ingest.{table} t").fetchall()
        ]
    return "\n".join(str(row) for (row,) in rows)
