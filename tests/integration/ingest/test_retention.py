"""Raw events are deleted when they are old, and only then; what was deleted is never accepted again."""

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


async def test_old_months_are_dropped_whole_and_never_accepted_again(store: Store) -> None:
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
    # Neither with another time, nor where the service's rule is got around.
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


async def test_rows_of_held_tenants_outlive_their_month_until_the_hold_ends(store: Store) -> None:
    store.make_months(LAST_OLD)
    mine, theirs = old_sample(LAST_OLD), old_sample(LAST_OLD, tenant_id="bolt")
    await store.report(mine, theirs)
    await store.published()
    store.age_batches()
    await store.hold("bolt")

    await store.retention().run()
    await store.retention().run()

    assert store.kept() == {theirs.id}
    assert reasons(await store.report(theirs)) == ["ID_TOO_OLD"], "kept, and accepted no more than others"
    await store.release("bolt")
    await store.retention().run()
    assert store.kept() == set()


async def test_an_id_that_only_looks_as_if_it_were_of_the_month_stays(store: Store) -> None:
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


async def test_other_ids_go_one_by_one_when_time_and_receipt_are_old(store: Store) -> None:
    texts = [
        old_sample(HORIZON - timedelta(days=3), "old"),
        old_sample(HORIZON - timedelta(microseconds=1), str(uuid.uuid4())),
        old_sample(HORIZON, "new"),
    ]
    await store.report(*texts)
    await store.published()
    await store.retention().run()
    assert len(store.kept()) == 3, "received a moment ago"
    store.age_batches()
    await store.retention().run()
    assert store.kept() == {"new"}
    assert store.admin("SELECT text_id FROM ingest.event_text_ids") == ["new"]
    assert reasons(await store.report(*texts)) == ["TIME_TOO_OLD", "TIME_TOO_OLD", "DUPLICATE"]


async def test_a_clock_that_is_corrected_makes_no_old_event_new(store: Store) -> None:
    """Sent again by a call that claims to be as old, an event would seem to have happened now."""
    sample = old_sample(HORIZON - timedelta(days=3), "order 17")
    await store.report(sample)
    await store.published()
    store.age_batches()
    await store.retention().run()
    request = rows(sample)
    request.sent_at.FromMicroseconds(sample.time_us)
    assert reasons(await store.ingest.report(request)) == ["TIME_TOO_OLD"]


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_nothing_counts_twice_whatever_was_deleted(store: Store, seed: int) -> None:
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


async def test_nothing_goes_while_something_is_not_published(store: Store) -> None:
    store.make_months(LAST_OLD)
    sample = old_sample(LAST_OLD)
    await store.report(sample)
    await store.published()
    # A message that no stream takes waits for ever.
    store.admin(
        "INSERT INTO ingest.outbox VALUES (ingest.uuid_floor(now() - interval '1 day'), 'nowhere', '{}', '')"
    )
    await store.retention().run()
    assert store.kept() == {sample.id}
    store.admin("DELETE FROM ingest.outbox WHERE published_at IS NULL")
    await store.retention().run()
    assert store.kept() == set()


@pytest.mark.req("X2")
async def test_nothing_goes_before_every_tenant_was_even(store: Store) -> None:
    store.make_months(LAST_OLD)
    sample = old_sample(LAST_OLD)
    await store.report(sample)
    await store.published()
    store.ledger.looks = [{"acme": 1, "bolt": 0}]
    await store.retention().run()
    assert store.kept() == {sample.id}
    store.ledger.looks = [{"acme": -1, "bolt": 0}]
    await store.retention().run()
    assert store.kept() == {sample.id}, "counted twice is not even"
    # Each was even once, though never both at the same moment.
    store.ledger.asked, store.ledger.looks = 0, [{"acme": 3, "bolt": 0}, {"acme": 0, "bolt": 5}]
    await store.retention().run()
    assert store.kept() == set()


@pytest.mark.req("X2")
async def test_nothing_goes_while_aggregate_cannot_be_asked(store: Store) -> None:
    store.make_months(LAST_OLD)
    sample = old_sample(LAST_OLD)
    await store.report(sample)
    await store.published()
    async with asking("127.0.0.1:1") as nobody:
        store.aggregate = nobody
        await store.retention().run()
    assert store.kept() == {sample.id}


async def test_nothing_goes_before_every_process_knows_the_horizon(store: Store) -> None:
    store.make_months(LAST_OLD)
    sample = old_sample(LAST_OLD)
    await store.report(sample)
    await store.published()
    await store.retention(grace=timedelta(hours=1)).run()
    assert store.kept() == {sample.id}
    assert reasons(await store.report(old_sample(LAST_OLD))) == ["ID_TOO_OLD"], "and nothing comes any more"
    store.admin("UPDATE ingest.event_horizon SET announced_at = now() - interval '2 hours'")
    await store.retention(grace=timedelta(hours=1)).run()
    assert store.kept() == set()


async def test_the_horizon_never_moves_back(store: Store) -> None:
    await store.retention().announce()
    await store.retention(keep=timedelta(days=400)).announce()
    assert await OldEvents(store.pool).kept_since_us() == to_us(HORIZON)
    assert reasons(await store.report(old_sample(LAST_OLD))) == ["ID_TOO_OLD"]


async def test_without_a_retention_everything_is_kept(store: Store) -> None:
    store.make_months(LAST_OLD)
    samples = [old_sample(LAST_OLD), old_sample(LAST_OLD, "text")]
    await store.report(*samples)
    store.age_batches()
    await store.retention(keep=timedelta(0)).run()
    assert len(store.kept()) == 2
    assert store.ledger.asked == 0


async def test_the_application_deletes_by_no_other_way(store: Store) -> None:
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
            # It would not see the holds of others.
            with pytest.raises(psycopg.errors.RaiseException, match="all tenants"):
                app.execute(f"SELECT {call}")
