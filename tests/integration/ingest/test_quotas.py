"""Quotas of series and subjects hold for all ways to send events, and for concurrent replicas."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection

import psycopg
import pytest
from meterline import migrate
from meterline.db.pool import Database
from meterline_dev.servers import NatsServer
from meterline_ingest.dictionaries.rules import Quotas
from meterline_ingest.dictionaries.store import Dictionaries
from meterline_ingest.event.series import SeriesKey
from meterline_ingest.event_types.rules.book import TypeBook
from meterline_ingest.event_types.rules.types import EventType
from meterline_protos.ingest.v1 import capture_pb2, corrections_pb2, limits_pb2

from tests.support.capture import RunningIngest, Sample, columns, is_known, rows, running_ingest
from tests.support.corrections_calls import WHO, Corrections
from tests.support.databases import TestDatabase
from tests.support.polling import eventually
from tests.support.quarantine import QuarantineApi

pytestmark = pytest.mark.req("T4.2", "T2.4")


@pytest.fixture
async def small(database: TestDatabase, broker: NatsServer) -> AsyncIterator[RunningIngest]:
    """Allows three series and two subjects for each tenant. One of each is stored: `eu` and `u1`."""
    async with running_ingest(database, broker, max_series_per_tenant=3, max_subjects_per_tenant=2) as ingest:
        await ingest.put_type()
        for number, slug in enumerate(("acme", "bolt"), 1):
            await ingest.onboard(number, slug)
            await eventually(lambda slug=slug: is_known(ingest, slug))  # type: ignore[misc]
        assert (await ingest.report(rows(Sample()))).accepted == 1
        yield ingest


def of_regions(*regions: str, **changes: object) -> list[Sample]:
    return [Sample(dimensions={"region": region}, **changes) for region in regions]  # type: ignore[arg-type]


def reasons(response: capture_pb2.ReportResponse) -> list[str]:
    return [outcome.reason for outcome in response.outcomes]


async def allow(ingest: RunningIngest, **quotas: int) -> None:
    limits = limits_pb2.Limits(**quotas)
    await ingest.limits.PutTenantLimits(limits_pb2.PutTenantLimitsRequest(tenant_id="acme", limits=limits))


@pytest.mark.parametrize("form", [rows, columns])
async def test_new_series_and_subjects_beyond_the_quota_are_rejected(
    small: RunningIngest, form: Callable[..., capture_pb2.ReportRequest]
) -> None:
    first = await small.report(form(*of_regions("eu", "us", "ap", "sa", "af"), *of_regions("eu")))
    assert (first.accepted, reasons(first)) == (4, ["SERIES_QUOTA"] * 2)
    assert {outcome.field for outcome in first.outcomes} == {"dimensions"}
    assert all("max_series" in outcome.message and outcome.quarantined for outcome in first.outcomes)

    subjects = [Sample(subject=subject) for subject in ("u1", "u2", "u3", "u2")]
    second = await small.report(form(*subjects))
    assert (second.accepted, reasons(second)) == (3, ["SUBJECT_QUOTA"])
    # Other tenants have separate quotas.
    theirs = await small.report(form(*of_regions("us", "ap", "sa", tenant_id="bolt", subject="u9")))
    assert theirs.accepted == 3


async def test_event_rejected_for_its_subject_creates_no_series(small: RunningIngest) -> None:
    await small.report(rows(Sample(subject="u2")))
    response = await small.report(rows(*of_regions("us", "ap", "sa", subject="u3")))
    assert reasons(response) == ["SUBJECT_QUOTA"] * 3
    assert (await small.report(rows(*of_regions("us", "ap")))).accepted == 2


@pytest.mark.req("O2")
async def test_replay_accepts_events_after_the_quota_was_raised(small: RunningIngest) -> None:
    acme = QuarantineApi(small.channel)
    await small.report(rows(*of_regions("us", "ap", "sa", "af")))
    assert (await acme.replay()).rejected == 2

    await allow(small, max_series=4)
    replayed = await acme.replay()

    assert (replayed.accepted, replayed.rejected) == (1, 1)
    found = await small.limits.GetTenantLimits(limits_pb2.GetTenantLimitsRequest(tenant_id="acme"))
    assert found.limits == limits_pb2.Limits(max_series=4, weight=1)
    assert found.kept == limits_pb2.Kept(series=4, max_series=4, subjects=1, max_subjects=2)


@pytest.mark.req("T3.4")
async def test_quota_applies_to_imports_and_amendments(small: RunningIngest) -> None:
    known = Sample()
    await small.report(rows(known, *of_regions("us", "ap")))
    acme = Corrections(small)
    imported = await acme.stub.ImportEvents(
        corrections_pb2.ImportEventsRequest(
            tenant_id="acme",
            source="repair",
            import_id="0190a1b2-0000-7000-8000-000000000001",
            rows=capture_pb2.EventRows(events=[each.to_row() for each in of_regions("us", "sa")]),
            **WHO,
        )
    )
    assert [outcome.reason for outcome in imported.outcomes] == ["SERIES_QUOTA"]

    ids = corrections_pb2.EventIds(event_ids=[known.id])
    refused = await acme.correct(ids=ids, amend=corrections_pb2.EventChanges(dimensions={"region": "sa"}))
    assert [failure.reason for failure in refused.failures] == ["SERIES_QUOTA"]
    done = await acme.correct(ids=ids, amend=corrections_pb2.EventChanges(dimensions={"region": "us"}))
    assert (done.corrected, len(done.failures)) == (1, 0)


async def test_quota_applies_to_streams(small: RunningIngest) -> None:
    call = small.capture.Stream()
    for sample in of_regions("us", "ap", "sa"):
        await call.write(capture_pb2.StreamRequest(tenant_id="acme", source="test", event=sample.to_row()))
    await call.done_writing()
    assert [each.outcome.reason async for answer in call for each in answer.outcomes] == ["SERIES_QUOTA"]


async def test_concurrent_replicas_never_exceed_a_quota(database: TestDatabase) -> None:
    async def quotas(tenant_ids: Collection[int]) -> dict[int, Quotas]:
        return dict.fromkeys(tenant_ids, Quotas(50, 40))

    async def add(at: int) -> None:
        """Adds like a separate replica with an empty cache, each in a different order."""
        numbers = [(at * 37 + number) % 120 for number in range(120)]
        own = Dictionaries(pool, quotas)
        for start in range(0, 120, 40):
            some = numbers[start : start + 40]
            await own.subject_ids([(tenant, f"u{each}") for tenant in (1, 2) for each in some])
            await own.series_ids(
                [SeriesKey(tenant, "call", (("n", str(each)),)) for tenant in (2, 1) for each in some], types
            )

    with psycopg.connect(database.admin_dsn) as connection:
        connection.execute(
            "INSERT INTO ingest.event_types (name, definition, version) VALUES ('call', '{}', 1)"
        )
    types = TypeBook({"call": EventType("call", (), (), subject_required=False)})
    pool = Database(database.app_dsn("ingest"), size=4, application_name="test")
    await pool.start()
    try:
        await asyncio.gather(*(add(at) for at in range(6)))
    finally:
        await pool.stop()
    with psycopg.connect(database.admin_dsn) as connection:
        counts = connection.execute(
            "SELECT tenant_id, series, subjects, (SELECT count(*) FROM ingest.series s WHERE s.tenant_id ="
            " c.tenant_id), (SELECT count(*) FROM ingest.subjects s WHERE s.tenant_id = c.tenant_id)"
            " FROM ingest.dictionary_counts c ORDER BY 1"
        ).fetchall()
    assert counts == [(1, 50, 40, 50, 40), (2, 50, 40, 50, 40)]


async def test_fullest_quota_is_reported(small: RunningIngest, database: TestDatabase) -> None:
    async def unused(tenant_ids: Collection[int]) -> dict[int, Quotas]:
        raise AssertionError("there are no new series or subjects")

    await small.report(rows(*of_regions("us")))
    pool = Database(database.app_dsn("ingest"), size=1, application_name="test")
    await pool.start()
    try:
        dictionaries = Dictionaries(pool, unused)
        assert await dictionaries.fullest(Quotas(3, 2)) == (2 / 3, 1 / 2)
        await allow(small, max_subjects=4)
        assert await dictionaries.fullest(Quotas(3, 2)) == (2 / 3, 1 / 4)
    finally:
        await pool.stop()


@pytest.mark.req("K3")
def test_migration_counts_rows_from_before_quotas(empty_database: TestDatabase) -> None:
    every = migrate.for_service("ingest")
    first = next(at for at, each in enumerate(every) if each.name == "quotas")
    migrate.apply(empty_database.owner_dsn("ingest"), "ingest", every[:first])
    with psycopg.connect(empty_database.admin_dsn) as connection:
        connection.execute(
            "INSERT INTO ingest.series (tenant_id, series_key, event_type, dimensions)"
            " SELECT t, gen_random_uuid(), 'call', '{}' FROM unnest(ARRAY[1, 1, 2]) t"
        )
        connection.execute("INSERT INTO ingest.subjects (tenant_id, subject) VALUES (1, 'a'), (3, 'b')")
        connection.execute(
            "INSERT INTO ingest.quarantine (tenant_id, quarantine_id, received_at, last_received_at,"
            " attempts, sampled, stage, source, event_id, event_type, reason, field, rule, payload) VALUES"
            " (1, gen_random_uuid(), now(), now(), 1, false, '', '', '', '', '', '', '', '\\x0102')"
        )
    migrate.apply(empty_database.owner_dsn("ingest"), "ingest", every)
    with psycopg.connect(empty_database.admin_dsn) as connection:
        counts = connection.execute("SELECT * FROM ingest.dictionary_counts ORDER BY 1").fetchall()
        held = connection.execute("SELECT * FROM ingest.quarantine_counts").fetchall()
    assert counts == [(1, 2, 1), (2, 1, 0), (3, 0, 1)]
    assert held == [(1, 1, 514)]
