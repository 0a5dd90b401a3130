"""Raw events are deleted when they are old, and only then; what was deleted is never accepted again."""

from __future__ import annotations

import random
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import psycopg
import pytest
from grpc import aio
from meterline.clock import to_us
from meterline.db.pool import Database
from meterline.rpc.client import Caller
from meterline_dev.servers import NatsServer
from meterline_ingest.peers import Aggregate, Peer
from meterline_ingest.repository.retention import OldEvents
from meterline_ingest.retention import Reconciled, Retention
from meterline_protos.aggregate.v1 import reconciliation_pb2, reconciliation_pb2_grpc
from meterline_protos.ingest.v1 import (
    audit_pb2,
    audit_pb2_grpc,
    capture_pb2,
    privacy_pb2,
    privacy_pb2_grpc,
    retention_pb2,
    retention_pb2_grpc,
)
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tests.integration.ingest.conftest import is_known
from tests.support.capture import RunningIngest, Sample, rows, running_ingest
from tests.support.databases import TestDatabase
from tests.support.polling import eventually

pytestmark = pytest.mark.req("S7", "T1.2")

KEEP = timedelta(days=62)
NOW = datetime.now(UTC)
HORIZON = (NOW - KEEP).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
# A month that is kept, and two that are not.
LAST_OLD = (HORIZON - timedelta(days=1)).replace(day=1)
FIRST_OLD = (LAST_OLD - timedelta(days=1)).replace(day=1)
NO_WAIT = timedelta(0)


def id_of(moment: datetime) -> str:
    """A UUIDv7 of that millisecond."""
    made = to_us(moment) // 1_000
    return str(uuid.UUID(int=made << 80 | 0x7 << 76 | 0x2 << 62 | random.getrandbits(62)))


def old_sample(moment: datetime, event_id: str = "", tenant_id: str = "") -> Sample:
    return Sample(id=event_id or id_of(moment), time_us=to_us(moment), tenant_id=tenant_id)


@dataclass
class Ledger(reconciliation_pb2_grpc.ReconciliationServiceServicer):
    """Aggregate, as far as it is asked: gaps by tenant, one look after the other, the last one for ever."""

    looks: list[dict[str, int]] = field(default_factory=lambda: [{"acme": 0, "bolt": 0}])
    asked: int = 0

    async def Compare(
        self, request: reconciliation_pb2.CompareRequest, context: Any
    ) -> reconciliation_pb2.CompareResponse:
        gaps = self.looks[min(self.asked, len(self.looks) - 1)]
        self.asked += 1
        return reconciliation_pb2.CompareResponse(
            tenants=[
                reconciliation_pb2.TenantComparison(tenant_id=name, accepted=gap, gap=gap)
                for name, gap in gaps.items()
            ]
        )


@asynccontextmanager
async def asking(address: str) -> AsyncIterator[Peer]:
    aggregate = Aggregate(address, Caller(None, None))
    await aggregate.start()
    yield aggregate
    await aggregate.stop()


@asynccontextmanager
async def serving(ledger: Ledger) -> AsyncIterator[Peer]:
    server = aio.server()
    reconciliation_pb2_grpc.add_ReconciliationServiceServicer_to_server(ledger, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with asking(f"127.0.0.1:{port}") as aggregate:
            yield aggregate
    finally:
        await server.stop(None)


@dataclass
class Store:
    """Ingest that takes events of any age, and what deletes them."""

    ingest: RunningIngest
    database: TestDatabase
    pool: Database
    ledger: Ledger
    aggregate: Peer

    def retention(self, grace: timedelta = NO_WAIT, keep: timedelta = KEEP, looks: int = 3) -> Retention:
        return Retention(
            OldEvents(self.pool), Reconciled(self.aggregate, looks=looks, pause=0), keep, grace=grace
        )

    @property
    def holds(self) -> retention_pb2_grpc.RetentionServiceAsyncStub:
        return retention_pb2_grpc.RetentionServiceStub(self.ingest.channel)

    async def hold(self, tenant_id: str, name: str = "matter-17") -> retention_pb2.LegalHold:
        answer = await self.holds.PutLegalHold(
            retention_pb2.PutLegalHoldRequest(
                tenant_id=tenant_id, name=name, requested_by="ann", reason="a court asks"
            )
        )
        return answer.legal_hold

    async def release(self, tenant_id: str, name: str = "matter-17") -> retention_pb2.LegalHold:
        answer = await self.holds.ReleaseLegalHold(
            retention_pb2.ReleaseLegalHoldRequest(
                tenant_id=tenant_id, name=name, requested_by="bob", reason="it is over"
            )
        )
        return answer.legal_hold

    async def report(self, *samples: Sample, source: str = "test") -> capture_pb2.ReportResponse:
        return await self.ingest.report(rows(*samples, source=source))

    async def published(self) -> None:
        await eventually(
            lambda: self.admin("SELECT count(*) FROM ingest.outbox WHERE published_at IS NULL") == [0]
        )

    def admin(self, query: str, *parameters: object) -> list[Any]:
        """The first column, past row-level security."""
        with psycopg.connect(self.database.admin_dsn) as connection:
            cursor = connection.execute(query, parameters)
            return [row[0] for row in cursor.fetchall()] if cursor.description else []

    def make_months(self, *months: datetime) -> None:
        """As upkeep made them then."""
        with psycopg.connect(self.database.owner_dsn("ingest")) as owner:
            for month in months:
                following = (month + timedelta(days=32)).replace(day=1)
                bounds = owner.execute("SELECT uuid_floor(%s), uuid_floor(%s)", (month, following)).fetchone()
                assert bounds is not None
                for parent in ("events", "event_details"):
                    owner.execute(
                        f"CREATE TABLE {parent}_{month:%Y%m} PARTITION OF {parent}"
                        f" FOR VALUES FROM ('{bounds[0]}') TO ('{bounds[1]}')"
                    )

    def age_batches(self, by: timedelta = timedelta(days=120)) -> None:
        """As if everything had been received so much earlier."""
        shift = int(by.total_seconds() * 1_000)
        self.admin(
            "UPDATE ingest.batches SET received_at = received_at - %s, batch_id = (lpad(to_hex("
            "('x' || left(replace(batch_id::text, '-', ''), 12))::bit(48)::bigint - %s), 12, '0')"
            " || right(replace(batch_id::text, '-', ''), 20))::uuid",
            by,
            shift,
        )

    def kept(self) -> set[str]:
        """Ids as they were sent."""
        return set(
            self.admin(
                "SELECT coalesce(t.text_id, e.event_id::text) FROM ingest.events e"
                " LEFT JOIN ingest.event_text_ids t USING (event_id, tenant_id)"
            )
        )


@pytest.fixture
async def store(
    database: TestDatabase, broker: NatsServer, spans: InMemorySpanExporter
) -> AsyncIterator[Store]:
    ledger, pool = Ledger(), Database(database.app_dsn("ingest"), size=2)
    async with (
        serving(ledger) as aggregate,
        running_ingest(database, broker, max_event_age_days=40_000) as ingest,
    ):
        await ingest.put_type()
        await ingest.onboard(1, "acme")
        await ingest.onboard(2, "bolt")
        for tenant in ("acme", "bolt"):
            await eventually(lambda tenant=tenant: is_known(ingest, tenant))  # type: ignore[misc]
        await pool.start()
        yield Store(ingest, database, pool, ledger, aggregate)
        await pool.stop()


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


# --- legal holds


async def actions(store: Store, tenant_id: str = "acme") -> list[tuple[str, str, str]]:
    audit = audit_pb2_grpc.AuditServiceStub(store.ingest.channel)
    answer = await audit.ListAuditEntries(audit_pb2.ListAuditEntriesRequest(tenant_id=tenant_id))
    return [(entry.action, entry.subject, entry.principal) for entry in answer.entries]


async def listed(store: Store, *, released: bool = False) -> Sequence[retention_pb2.LegalHold]:
    request = retention_pb2.ListLegalHoldsRequest(tenant_id="acme", released=released)
    return list((await store.holds.ListLegalHolds(request)).legal_holds)


async def test_holds_are_placed_released_and_placed_anew(store: Store) -> None:
    first = await store.hold("acme")
    assert (first.name, first.reason, first.requested_by) == ("matter-17", "a court asks", "ann")
    assert await store.hold("acme") == first, "one that is in force stays as it is"
    await store.hold("acme", "audit")
    assert [hold.name for hold in await listed(store)] == ["audit", "matter-17"]
    ended = await store.release("acme")
    assert ended.HasField("released_at")
    assert [hold.name for hold in await listed(store)] == ["audit"]
    assert list(await listed(store, released=True))[1] == ended
    with pytest.raises(aio.AioRpcError) as caught:
        await store.release("acme")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    again = await store.hold("acme")
    assert again.placed_at.ToDatetime() > first.placed_at.ToDatetime()
    assert await actions(store) == [
        ("legal_hold.placed", "legal hold matter-17", "ann"),
        ("legal_hold.released", "legal hold matter-17", "bob"),
        ("legal_hold.placed", "legal hold audit", "ann"),
        ("legal_hold.placed", "legal hold matter-17", "ann"),
    ]


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"tenant_id": "nobody"}, grpc.StatusCode.NOT_FOUND),
        ({"name": ""}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"name": "a b"}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"reason": " "}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"requested_by": ""}, grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
async def test_a_hold_says_of_whom_who_and_why(
    store: Store, changed: dict[str, str], code: grpc.StatusCode
) -> None:
    usual = {"tenant_id": "acme", "name": "a", "requested_by": "ann", "reason": "why"}
    with pytest.raises(aio.AioRpcError) as caught:
        await store.holds.PutLegalHold(retention_pb2.PutLegalHoldRequest(**usual | changed))
    assert caught.value.code() is code


@pytest.mark.req("T4.3")
async def test_keys_are_not_destroyed_while_a_hold_is_in_force(store: Store) -> None:
    privacy = privacy_pb2_grpc.PrivacyServiceStub(store.ingest.channel)
    request = privacy_pb2.ShredTenantRequest(tenant_id="acme", requested_by="ann", reason="they left")
    await store.hold("bolt")
    await store.hold("acme")
    with pytest.raises(aio.AioRpcError, match="legal hold matter-17") as caught:
        await privacy.ShredTenant(request)
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    await store.release("acme")
    await privacy.ShredTenant(request)
