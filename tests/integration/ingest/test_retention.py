"""Only old raw events are deleted, and deleted events are never accepted again."""

from __future__ import annotations

import random
import uuid
from datetime import timedelta

import psycopg
import pytest
from meterline.clock import to_us
from meterline_ingest.capture.store.horizon import OldEvents
from meterline_protos.ingest.v1 import (
    capture_pb2,
)

from tests.support.capture import Sample, rows
from tests.support.retention import FIRST_OLD, HORIZON, LAST_OLD, NOW, Store, asking, id_of, old_sample

pytestmark = pytest.mark.req("S7", "T1.2")


def reasons(answer: capture_pb2.ReportResponse) -> list[str]:
    return [outcome.reason for outcome in answer.outcomes]


async def test_old_months_are_dropped_and_their_events_never_accepted_again(store: Store) -> None:
    store.make_months(FIRST_OLD, LAST_OLD)
    old = [old_sample(FIRST_OLD), old_sample(LAST_OLD), old_sample(HORIZON - timedelta(milliseconds=1))]
    new = [old_sample(HORIZON), old_sample(NOW)]
    assert (await store.report(*old, *new)).accepted == 5
    await store.published()

    await store.retention().run()

    assert store.kept() == {sample.id for sample in new}
    months = store.admin(
        "SELECT relname FROM pg_class WHERE relname ~ '^event.*_[0-9]{6}$' AND relkind = 'r'"
    )
    assert not {name[-6:] for name in months} & {f"{FIRST_OLD:%Y%m}", f"{LAST_OLD:%Y%m}"}
    assert reasons(await store.report(*old)) == ["ID_TOO_OLD"] * 3
    # Neither with another time, nor by an insert that bypasses the service.
    assert reasons(await store.report(Sample(id=old[0].id))) == ["ID_TOO_OLD"]
    with (
        psycopg.connect(store.database.admin_dsn) as admin,
        pytest.raises(psycopg.errors.CheckViolation, match="events_rest_deleted"),
    ):
        admin.execute(
            "INSERT INTO ingest.events"
            " (event_id, batch_number, subject_id, occurred_at, tenant_id, series_id)"
            " VALUES (%s, 1, 1, now(), 1, 1)",
            (old[1].id,),
        )
    assert reasons(await store.report(*new)) == ["DUPLICATE"] * 2


async def test_rows_of_held_tenants_are_kept_until_the_hold_ends(store: Store) -> None:
    store.make_months(LAST_OLD)
    mine, theirs = old_sample(LAST_OLD), old_sample(LAST_OLD, tenant_id="bolt")
    await store.report(mine, theirs)
    await store.published()
    store.age_batches()
    await store.hold("bolt")

    await store.retention().run()
    await store.retention().run()

    assert store.kept() == {theirs.id}
    assert reasons(await store.report(theirs)) == ["ID_TOO_OLD"], (
        "the kept event's id is too old, like others"
    )
    await store.release("bolt")
    await store.retention().run()
    assert store.kept() == set()


async def test_event_with_misleading_id_of_an_old_month_is_kept(store: Store) -> None:
    store.make_months(LAST_OLD)
    looks_old = id_of(LAST_OLD)
    looks_old = looks_old[:14] + "4" + looks_old[15:]  # version 4
    sample = Sample(id=looks_old)
    await store.report(sample)
    await store.published()
    await store.retention().run()
    assert store.kept() == {looks_old}
    assert reasons(await store.report(sample)) == ["DUPLICATE"]
    assert (await store.report(Sample(id=looks_old[:-4] + "abcd"))).accepted == 1


async def test_events_without_time_in_id_are_deleted_by_time_and_receipt(store: Store) -> None:
    texts = [
        old_sample(HORIZON - timedelta(days=3), "old"),
        old_sample(HORIZON - timedelta(microseconds=1), str(uuid.uuid4())),
        old_sample(HORIZON, "new"),
    ]
    await store.report(*texts)
    await store.published()
    await store.retention().run()
    assert len(store.kept()) == 3, "received just now"
    store.age_batches()
    await store.retention().run()
    assert store.kept() == {"new"}
    assert store.admin("SELECT text_id FROM ingest.event_text_ids") == ["new"]
    assert reasons(await store.report(*texts)) == ["TIME_TOO_OLD", "TIME_TOO_OLD", "DUPLICATE"]


async def test_skew_correction_does_not_revive_a_deleted_event(store: Store) -> None:
    """A repeat with an equally old sending time would be corrected to the present time."""
    sample = old_sample(HORIZON - timedelta(days=3), "order 17")
    await store.report(sample)
    await store.published()
    store.age_batches()
    await store.retention().run()
    request = rows(sample)
    request.sent_at.FromMicroseconds(sample.time_us)
    assert reasons(await store.ingest.report(request)) == ["TIME_TOO_OLD"]


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_repeats_after_deletion_are_never_accepted(store: Store, seed: int) -> None:
    chance = random.Random(seed)
    store.make_months(FIRST_OLD, LAST_OLD)

    def sample() -> Sample:
        moment = FIRST_OLD - timedelta(days=20) + chance.random() * (NOW - FIRST_OLD + timedelta(days=20))
        made = chance.choice([moment, FIRST_OLD + chance.random() * (NOW - FIRST_OLD)])
        event_id = chance.choice([id_of(made), str(uuid.UUID(int=chance.getrandbits(128))), str(made)])
        return old_sample(moment, event_id, chance.choice(["", "bolt"]))

    samples = list({each.id: each for each in (sample() for _ in range(400))}.values())
    for at in range(0, len(samples), 20):
        assert not (await store.report(*samples[at : at + 20])).outcomes
    await store.published()
    store.age_batches()
    if chance.random() < 0.5:
        await store.hold("bolt")
    await store.retention().run()
    left = store.kept()
    assert 0 < len(left) < len(samples)
    for at in range(0, len(samples), 20):
        answer = await store.report(*samples[at : at + 20])
        assert answer.accepted == 0
        for outcome in answer.outcomes:
            assert outcome.reason in ("DUPLICATE", "ID_TOO_OLD", "TIME_TOO_OLD")
    assert store.kept() == left


async def test_nothing_is_deleted_while_messages_are_unpublished(store: Store) -> None:
    store.make_months(LAST_OLD)
    sample = old_sample(LAST_OLD)
    await store.report(sample)
    await store.published()
    # A message without a stream is never published.
    store.admin(
        "INSERT INTO ingest.outbox VALUES (ingest.uuid_floor(now() - interval '1 day'), 'nowhere', '{}', '')"
    )
    await store.retention().run()
    assert store.kept() == {sample.id}
    store.admin("DELETE FROM ingest.outbox WHERE published_at IS NULL")
    await store.retention().run()
    assert store.kept() == set()


@pytest.mark.req("X2")
async def test_nothing_is_deleted_before_every_tenant_had_no_gap(store: Store) -> None:
    store.make_months(LAST_OLD)
    sample = old_sample(LAST_OLD)
    await store.report(sample)
    await store.published()
    store.ledger.looks = [{"acme": 1, "bolt": 0}]
    await store.retention().run()
    assert store.kept() == {sample.id}
    store.ledger.looks = [{"acme": -1, "bolt": 0}]
    await store.retention().run()
    assert store.kept() == {sample.id}, "an excess of counted events is a gap too"
    # Each tenant had no gap once, though not at the same time.
    store.ledger.asked, store.ledger.looks = 0, [{"acme": 3, "bolt": 0}, {"acme": 0, "bolt": 5}]
    await store.retention().run()
    assert store.kept() == set()


@pytest.mark.req("X2")
async def test_nothing_is_deleted_while_aggregate_is_unavailable(store: Store) -> None:
    store.make_months(LAST_OLD)
    sample = old_sample(LAST_OLD)
    await store.report(sample)
    await store.published()
    async with asking("127.0.0.1:1") as unreachable:
        store.aggregate = unreachable
        await store.retention().run()
    assert store.kept() == {sample.id}


async def test_nothing_is_deleted_before_every_process_knows_the_horizon(store: Store) -> None:
    store.make_months(LAST_OLD)
    sample = old_sample(LAST_OLD)
    await store.report(sample)
    await store.published()
    await store.retention(grace=timedelta(hours=1)).run()
    assert store.kept() == {sample.id}
    assert reasons(await store.report(old_sample(LAST_OLD))) == ["ID_TOO_OLD"], (
        "new events before the horizon are refused"
    )
    store.admin("UPDATE ingest.event_horizon SET announced_at = now() - interval '2 hours'")
    await store.retention(grace=timedelta(hours=1)).run()
    assert store.kept() == set()


async def test_horizon_never_moves_back(store: Store) -> None:
    await store.retention().announce()
    await store.retention(keep=timedelta(days=400)).announce()
    assert await OldEvents(store.pool).kept_since_us() == to_us(HORIZON)
    assert reasons(await store.report(old_sample(LAST_OLD))) == ["ID_TOO_OLD"]


async def test_everything_is_kept_without_a_retention_period(store: Store) -> None:
    store.make_months(LAST_OLD)
    samples = [old_sample(LAST_OLD), old_sample(LAST_OLD, "text")]
    await store.report(*samples)
    store.age_batches()
    await store.retention(keep=timedelta(0)).run()
    assert len(store.kept()) == 2
    assert store.ledger.asked == 0


async def test_application_role_can_delete_only_by_retention_functions(store: Store) -> None:
    with psycopg.connect(store.database.app_dsn("ingest"), autocommit=True) as app:
        for statement in (
            "UPDATE event_horizon SET kept_since = now()",
            "INSERT INTO event_horizon (kept_since) VALUES (now())",
            "DROP TABLE events_rest",
            "ALTER TABLE events DETACH PARTITION events_rest",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                app.execute(statement)
        with pytest.raises(psycopg.errors.RaiseException, match="62 days"):
            app.execute("SELECT announce_event_horizon('1 day')")
        app.execute("SELECT set_config('meterline.tenant_ids', '1', false)")
        for call in ("drop_event_month('0')", "sweep_old_events('0', 1)"):
            # A session of one tenant would not see the holds of others.
            with pytest.raises(psycopg.errors.RaiseException, match="all tenants"):
                app.execute(f"SELECT {call}")
