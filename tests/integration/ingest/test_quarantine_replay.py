"""Quarantined events are replayed after a fix: through capture, as of their first receipt, and once."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import grpc
import psycopg
import pytest
from grpc import aio
from meterline.clock import ManualClock
from meterline_dev.servers import NatsServer
from meterline_ingest.quarantine import replay as quarantine_replay
from meterline_ingest.quarantine import service as quarantine_handlers
from meterline_protos.ingest.v1 import (
    capture_pb2,
    catalogue_pb2,
    catalogue_pb2_grpc,
    event_types_pb2,
    events_pb2,
    quarantine_pb2,
)

from tests.support.capture import RunningIngest, Sample, columns, is_known, now_us, rows, running_ingest
from tests.support.databases import TestDatabase
from tests.support.polling import eventually
from tests.support.quarantine import BY_ANN, QuarantineApi, bad, counts_are_right, stored_entries

pytestmark = pytest.mark.req("O2", "T7.4")

REPLAYED = quarantine_pb2.QUARANTINE_STATE_REPLAYED


async def put_type(ingest: RunningIngest, name: str = "nope", tenant_id: str = "", scale: int = 2) -> None:
    definition = event_types_pb2.EventType(
        name=name,
        quantities=[event_types_pb2.QuantityDefinition(name="units", scale=scale)],
        dimensions=[event_types_pb2.DimensionDefinition(name="region")],
    )
    await ingest.types.PutEventType(
        event_types_pb2.PutEventTypeRequest(tenant_id=tenant_id, event_type=definition)
    )


async def stored(ingest: RunningIngest, event_id: str) -> events_pb2.GetEventResponse:
    request = events_pb2.GetEventRequest(tenant_id="acme", event_id=event_id, source="gateway")
    answer: events_pb2.GetEventResponse = await ingest.events.GetEvent(request)
    return answer


async def total(ingest: RunningIngest) -> int:
    totals = await ingest.events.GetTotals(events_pb2.GetTotalsRequest(tenant_id="acme"))
    return totals.totals[0].accepted if totals.totals else 0


def counts(answer: quarantine_pb2.ReplayQuarantinedResponse) -> tuple[int, int, int, int]:
    return answer.accepted, answer.duplicate, answer.conflict, answer.rejected


async def test_event_is_accepted_once_after_registration_of_its_type(
    ingest: RunningIngest, quarantine: QuarantineApi, database: TestDatabase
) -> None:
    by_row, by_column, text = bad(), bad(), bad(id="order-17", quantities={"units": "1.25"})
    await ingest.report(rows(by_row, text, source="gateway"))
    await ingest.report(columns(by_column, source="gateway"))
    before = await quarantine.entries()
    await put_type(ingest)

    assert counts(await quarantine.replay()) == (3, 0, 0, 0)

    for sample in (by_row, by_column, text):
        found = await stored(ingest, sample.id)
        assert found.event.time.ToMicroseconds() == sample.time_us
        assert dict(found.event.dimensions) == sample.dimensions
        assert dict(found.event.quantities) == sample.quantities
    assert found.batch.received_at.ToMicroseconds() == before[0].received_at.ToMicroseconds()
    assert found.batch.trace.trace_id == before[0].trace.trace_id
    settled = await quarantine.entries(state=REPLAYED)
    assert {(entry.quarantine_id, entry.settled_by) for entry in settled} == {
        (entry.quarantine_id, BY_ANN["requested_by"]) for entry in before
    }
    assert (await quarantine.page()).waiting == 0
    assert counts(await quarantine.replay()) == (0, 0, 0, 0)
    assert await total(ingest) == 3
    assert counts_are_right(database)
    with psycopg.connect(database.admin_dsn) as connection:
        origins = connection.execute("SELECT DISTINCT origin FROM ingest.batches").fetchall()
    assert origins == [(3,)]


async def test_event_is_accepted_after_its_tenant_added_the_type(
    ingest: RunningIngest, quarantine: QuarantineApi
) -> None:
    await ingest.report(rows(bad(type="own.nope"), source="gateway"))
    await put_type(ingest, "own.nope", tenant_id="acme")
    assert counts(await quarantine.replay()) == (1, 0, 0, 0)


async def test_event_is_accepted_after_its_catalogue_entry_was_added(
    ingest: RunningIngest, quarantine: QuarantineApi
) -> None:
    definition = event_types_pb2.EventType(
        name="sale",
        dimensions=[event_types_pb2.DimensionDefinition(name=name) for name in ("sku", "family")],
        enrichments=[
            event_types_pb2.Enrichment(
                namespace="products",
                key="sku",
                attributes=[event_types_pb2.EnrichedAttribute(attribute="family")],
                when_missing=event_types_pb2.MISSING_ENTRY_QUARANTINE,
            )
        ],
    )
    await ingest.types.PutEventType(event_types_pb2.PutEventTypeRequest(event_type=definition))
    sample = Sample(type="sale", dimensions={"sku": "17"}, quantities={})
    await ingest.report(rows(sample, source="gateway"))
    assert counts(await quarantine.replay()) == (0, 0, 0, 1)
    entry = catalogue_pb2.CatalogueEntry(namespace="products", key="17", attributes={"family": "tools"})
    await catalogue_pb2_grpc.CatalogueServiceStub(ingest.channel).PutEntries(
        catalogue_pb2.PutEntriesRequest(tenant_id="acme", entries=[entry])
    )

    assert counts(await quarantine.replay()) == (1, 0, 0, 0)
    assert dict((await stored(ingest, sample.id)).event.dimensions) == {"sku": "17", "family": "tools"}


async def test_event_that_is_still_invalid_stays_with_its_new_reason(
    ingest: RunningIngest, quarantine: QuarantineApi
) -> None:
    await ingest.report(rows(bad(quantities={"units": "0.123"}), bad()))
    await put_type(ingest)

    answer = await quarantine.replay()

    assert counts(answer) == (1, 0, 0, 1)
    (outcome,) = answer.outcomes
    assert (outcome.outcome, outcome.reason, outcome.field) == (
        capture_pb2.OUTCOME_REJECTED,
        "QUANTITY_TOO_PRECISE",
        "quantities.units",
    )
    (entry,) = await quarantine.entries()
    assert (entry.quarantine_id, entry.reason, entry.field, entry.rule, entry.attempts) == (
        outcome.quarantine_id,
        outcome.reason,
        outcome.field,
        outcome.rule,
        1,
    )


@pytest.mark.req("T1.2")
async def test_event_accepted_meanwhile_is_a_duplicate_or_conflict(
    ingest: RunningIngest, quarantine: QuarantineApi
) -> None:
    same, other = bad(), bad()
    await ingest.report(rows(same, other))
    await put_type(ingest)
    other_body = Sample(type="nope", id=other.id, subject="else", time_us=other.time_us)
    assert (await ingest.report(rows(same, other_body))).accepted == 2

    answer = await quarantine.replay()

    assert counts(answer) == (0, 1, 1, 0)
    assert [outcome.event_id for outcome in answer.outcomes] == [other.id]
    (entry,) = await quarantine.entries()
    assert (entry.event_id, entry.reason) == (other.id, "CONFLICT")


async def test_only_selected_events_are_replayed(ingest: RunningIngest, quarantine: QuarantineApi) -> None:
    await ingest.report(rows(*(bad() for _ in range(3)), source="a"))
    await ingest.report(rows(*(bad() for _ in range(2)), source="b"))
    await put_type(ingest)
    by_source = quarantine_pb2.QuarantineFilter(source="b")

    assert counts(await quarantine.replay(filter=by_source)) == (2, 0, 0, 0)
    ids = quarantine_pb2.QuarantineIds(quarantine_ids=[(await quarantine.entries())[0].quarantine_id])
    assert counts(await quarantine.replay(ids=ids)) == (1, 0, 0, 0)
    assert counts(await quarantine.replay(ids=ids)) == (0, 0, 0, 0)
    assert (await quarantine.page()).waiting == 2


async def test_dry_run_reports_outcomes_and_changes_nothing(
    ingest: RunningIngest, quarantine: QuarantineApi, database: TestDatabase
) -> None:
    await ingest.report(rows(bad(), bad(quantities={"units": "0.123"})))
    await put_type(ingest)
    before = stored_entries(database, "quarantine::text")

    answer = await quarantine.replay(dry_run=True)

    assert (*counts(answer), answer.replay_id) == (1, 0, 0, 1, "")
    assert [outcome.reason for outcome in answer.outcomes] == ["QUANTITY_TOO_PRECISE"]
    assert stored_entries(database, "quarantine::text") == before
    assert await total(ingest) == 0
    assert counts(await quarantine.replay())[:2] == (1, 0)


@pytest.mark.req("T1.5")
async def test_age_and_skew_are_checked_as_of_the_first_receipt(
    database: TestDatabase, broker: NatsServer
) -> None:
    clock = ManualClock(now_us())
    async with running_ingest(database, broker, clock=clock) as ingest:
        await ingest.onboard(1, "acme")
        await eventually(lambda: is_known(ingest, "acme"))
        quarantine = QuarantineApi(ingest.channel)
        ten_minutes = 600_000_000
        old = bad(time_us=clock.now_us() - 30 * 86_400_000_000)
        late_clock = bad(time_us=clock.now_us() - ten_minutes)
        await ingest.report(rows(old, source="gateway"))
        request = rows(late_clock, source="gateway")
        request.sent_at.FromMicroseconds(clock.now_us() - ten_minutes)
        received_us = clock.now_us()
        await ingest.report(request)
        await put_type(ingest)
        # Later both events are too old for capture, and the skew cannot be computed any more.
        clock.advance(timedelta(days=40))

        from_gateway = quarantine_pb2.QuarantineFilter(source="gateway")
        assert counts(await quarantine.replay(filter=from_gateway)) == (2, 0, 0, 0)
        assert (await stored(ingest, old.id)).event.time.ToMicroseconds() == old.time_us
        assert (await stored(ingest, late_clock.id)).event.time.ToMicroseconds() == received_us
        # A repeat is too old for a new event, but a known duplicate.
        assert (await ingest.report(rows(old, source="gateway"))).duplicate == 1
        assert await quarantine.entries(filter=from_gateway) == []


async def test_concurrent_replays_count_each_event_once(
    ingest: RunningIngest, quarantine: QuarantineApi, database: TestDatabase
) -> None:
    for _ in range(6):
        await ingest.report(rows(*(bad() for _ in range(100))))
    await put_type(ingest)

    answers = await asyncio.gather(*(quarantine.replay() for _ in range(4)))

    assert sum(answer.accepted for answer in answers) == 600
    assert all(answer.rejected == answer.conflict == 0 for answer in answers)
    assert await total(ingest) == 600
    assert (await quarantine.page()).waiting == 0
    assert counts_are_right(database)


@pytest.mark.req("T2.4")
async def test_large_replay_runs_in_pages_and_portions(
    ingest: RunningIngest, quarantine: QuarantineApi, database: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quarantine_handlers, "PAGE", 40)
    monkeypatch.setattr(quarantine_replay, "PORTION_BYTES", 1_500)
    monkeypatch.setattr(quarantine_replay, "MAX_OUTCOMES", 5)
    good, still_bad = [bad() for _ in range(90)], [bad(quantities={"units": "x"}) for _ in range(30)]
    await ingest.report(rows(*good, *still_bad))
    await put_type(ingest)

    answer = await quarantine.replay()

    assert counts(answer) == (90, 0, 0, 30)
    assert len(answer.outcomes) == 5
    assert await total(ingest) == 90
    with psycopg.connect(database.admin_dsn) as connection:
        noted = connection.execute(
            "SELECT count(*), count(DISTINCT details->>'replay_id'), sum((details->>'accepted')::int),"
            " sum((details->>'rejected')::int), min(principal), min(reason) FROM ingest.audit_log"
            " WHERE action = 'quarantine.replayed'"
        ).fetchone()
    assert noted is not None
    assert noted[0] > 3
    assert noted[1:] == (1, 90, 30, *BY_ANN.values())
    monkeypatch.setattr(quarantine_handlers, "PAGE", 7)
    assert await quarantine.discard() == 30


async def test_tampered_entry_stays_and_does_not_affect_others(
    ingest: RunningIngest, quarantine: QuarantineApi, database: TestDatabase
) -> None:
    await ingest.report(rows(bad(), bad()))
    one, other = await quarantine.entries()
    await database.change(
        "UPDATE ingest.quarantine q SET payload = o.payload FROM ingest.quarantine o"
        " WHERE q.quarantine_id = %s::uuid AND o.quarantine_id = %s::uuid",
        one.quarantine_id,
        other.quarantine_id,
    )
    await put_type(ingest)

    answer = await quarantine.replay()

    assert counts(answer) == (1, 0, 0, 1)
    assert [(each.quarantine_id, each.reason) for each in answer.outcomes] == [
        (one.quarantine_id, "PAYLOAD_UNREADABLE")
    ]


@pytest.mark.req("T2.4")
async def test_replay_continues_with_calls_that_fit_into_the_queue(
    database: TestDatabase, broker: NatsServer
) -> None:
    async with running_ingest(database, broker) as ingest:
        await ingest.onboard(1, "acme")
        await eventually(lambda: is_known(ingest, "acme"))
        # Calls are replayed whole: thirty calls of one event, and one call of thirty events.
        for _ in range(30):
            await ingest.report(rows(bad()))
        await ingest.report(rows(*(bad() for _ in range(30))))
        await put_type(ingest)
    async with running_ingest(database, broker, max_queued_events=20) as ingest:
        quarantine = QuarantineApi(ingest.channel)

        with pytest.raises(aio.AioRpcError) as refused:
            await quarantine.replay()

        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert await total(ingest) == len(await quarantine.entries(state=REPLAYED)) == 30
        assert counts_are_right(database)
