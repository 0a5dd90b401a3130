"""Upkeep of the quarantine: deletion of settled and old entries, and resealing of content."""

from __future__ import annotations

import uuid
from datetime import timedelta

import psycopg
import pytest
from meterline.crypto.envelope import key_id_of
from meterline.telemetry import metrics
from meterline.transactions.unit_of_work import UnitOfWork
from meterline_ingest.capture.rules.rejected import ENTRY_BYTES, Held
from meterline_ingest.keys.reseal import Resealer
from meterline_ingest.keys.rotation import rotate
from meterline_ingest.keys.store import RETIRED_FOR_GOOD
from meterline_ingest.quarantine.store import QuarantineCounts, QuarantinePayloads
from meterline_ingest.quarantine.upkeep import QuarantineUpkeep
from meterline_protos.ingest.v1 import quarantine_pb2

from tests.support.capture import RunningIngest, rows
from tests.support.databases import TestDatabase
from tests.support.quarantine import QuarantineApi, bad, counts_are_right
from tests.support.vaults import CHANGE, OpenReplica, Replica, age_keys

pytestmark = pytest.mark.req("O2")

MOST = Held(1_000, 1 << 30)
DISCARDED = quarantine_pb2.QUARANTINE_STATE_DISCARDED


@pytest.fixture
async def replica(database: TestDatabase, open_replica: OpenReplica) -> Replica:
    return await open_replica(database)


def upkeep(replica: Replica, keep_waiting: timedelta | None, most: Held = MOST) -> QuarantineUpkeep:
    unit_of_work = UnitOfWork(replica.database, lambda: None)
    counts = QuarantineCounts(replica.database)
    return QuarantineUpkeep(unit_of_work, counts, keep_waiting=keep_waiting, most=most)


async def age(database: TestDatabase, quarantine_id: str, days: int) -> None:
    """Moves the receipt and settlement of an entry into the past."""
    by = timedelta(days=days)
    await database.change(
        "UPDATE ingest.quarantine SET received_at = received_at - %s, settled_at = settled_at - %s"
        " WHERE quarantine_id = %s::uuid",
        by,
        by,
        quarantine_id,
    )


def payloads(database: TestDatabase) -> dict[uuid.UUID, bytes]:
    with psycopg.connect(database.admin_dsn) as connection:
        return dict(connection.execute("SELECT quarantine_id, payload FROM ingest.quarantine").fetchall())


async def test_settled_entries_are_deleted_after_thirty_days(
    ingest: RunningIngest, quarantine: QuarantineApi, database: TestDatabase, replica: Replica
) -> None:
    await ingest.report(rows(*(bad() for _ in range(3))))
    old, recent, waiting = await quarantine.entries()
    ids = quarantine_pb2.QuarantineIds(quarantine_ids=[old.quarantine_id, recent.quarantine_id])
    assert await quarantine.discard(ids=ids) == 2
    await age(database, old.quarantine_id, 31)
    await age(database, recent.quarantine_id, 29)
    await age(database, waiting.quarantine_id, 400)

    await upkeep(replica, None).run()

    assert [each.quarantine_id for each in await quarantine.entries(state=DISCARDED)] == [
        recent.quarantine_id
    ]
    assert [each.quarantine_id for each in await quarantine.entries()] == [waiting.quarantine_id]
    assert metrics.QUARANTINE_WAITING._value.get() == 1
    assert counts_are_right(database)


async def test_waiting_entries_expire_with_an_audit_entry(
    ingest: RunningIngest, quarantine: QuarantineApi, database: TestDatabase, replica: Replica
) -> None:
    await ingest.report(rows(bad(), bad()))
    old, recent = await quarantine.entries()
    await age(database, old.quarantine_id, 8)
    before = metrics.QUARANTINE_EXPIRED._value.get()

    await upkeep(replica, timedelta(days=7)).run()

    assert [each.quarantine_id for each in await quarantine.entries()] == [recent.quarantine_id]
    assert metrics.QUARANTINE_EXPIRED._value.get() == before + 1
    assert counts_are_right(database)
    with psycopg.connect(database.admin_dsn) as connection:
        noted = connection.execute("SELECT action, principal, details FROM ingest.audit_log").fetchall()
    assert noted == [("quarantine.expired", "meterline-ingest", {"events": 1})]


async def test_settled_entries_are_deleted_early_when_space_is_low(
    ingest: RunningIngest, quarantine: QuarantineApi, database: TestDatabase, replica: Replica
) -> None:
    await ingest.report(rows(*(bad() for _ in range(8))))
    entries = await quarantine.entries()
    sizes = [len(payload) + ENTRY_BYTES for payload in payloads(database).values()]
    assert len(set(sizes)) == 1
    for entry in entries[:4]:
        ids = quarantine_pb2.QuarantineIds(quarantine_ids=[entry.quarantine_id])
        assert await quarantine.discard(ids=ids) == 1

    # The target is three quarters of eight, six: the two entries settled first are deleted.
    await upkeep(replica, None, Held(16, 8 * sizes[0])).run()

    left = await quarantine.entries(state=DISCARDED)
    assert {each.quarantine_id for each in left} == {each.quarantine_id for each in entries[2:4]}
    assert len(await quarantine.entries()) == 4
    assert metrics.QUOTA_FULLEST.labels("quarantine_bytes")._value.get() == 6 / 8
    assert metrics.QUOTA_FULLEST.labels("quarantine_events")._value.get() == 4 / 16
    # Waiting entries are never deleted for space.
    await upkeep(replica, None, Held(16, 1)).run()
    assert len(await quarantine.entries()) == 4
    assert await quarantine.entries(state=DISCARDED) == []
    assert counts_are_right(database)


@pytest.mark.req("T4.3")
async def test_content_is_resealed_with_the_new_key_after_a_rotation(
    ingest: RunningIngest, quarantine: QuarantineApi, database: TestDatabase, replica: Replica
) -> None:
    sample = bad()
    await ingest.report(rows(sample, *(bad() for _ in range(4))))
    before = payloads(database)
    await rotate(replica.store, 1, 0, CHANGE)
    age_keys(database, RETIRED_FOR_GOOD + timedelta(minutes=1))
    replica.timer.memory_passes()

    resealer = Resealer(replica.database, replica.keys, replica.vault, [QuarantinePayloads()], most=100)
    assert await resealer.run() == 5

    after = payloads(database)
    assert after.keys() == before.keys()
    keyring = await replica.vault.keyring(None, 1)
    texts = {
        keyring.unseal("quarantine", "payload", quarantine_id.bytes, sealed)
        for quarantine_id, sealed in after.items()
    }
    assert sample.to_row().SerializeToString(deterministic=True) in texts
    assert {key_id_of(sealed) for sealed in after.values()} == {2}
    # A retry after the rotation belongs to the same entry.
    await ingest.report(rows(sample))
    assert len(await quarantine.entries()) == 5
