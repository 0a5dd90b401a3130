"""Rejected events are quarantined as received: once, sealed, and within limits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from meterline_dev.servers import NatsServer
from meterline_protos.ingest.v1 import (
    capture_pb2,
    event_types_pb2,
    quarantine_pb2,
)

from tests.support.capture import RunningIngest, Sample, columns, is_known, now_us, rows, running_ingest
from tests.support.databases import TestDatabase
from tests.support.polling import eventually
from tests.support.quarantine import (
    BY_ANN,
    QuarantineApi,
    bad,
    counts_are_right,
    refused_events,
    stored_entries,
)

Form = Callable[..., capture_pb2.ReportRequest]
both_forms = pytest.mark.parametrize("form", [rows, columns])
pytestmark = pytest.mark.req("O2")

DAY = 86_400_000_000
SECRET = "ann@private.example"


@both_forms
async def test_rejected_event_is_quarantined_with_its_reason(
    ingest: RunningIngest, quarantine: QuarantineApi, form: Form
) -> None:
    before = now_us()
    sample, good = bad(), Sample()

    response = await ingest.report(form(sample, good, source="gateway"))

    assert (response.accepted, response.rejected) == (1, 1)
    assert [outcome.quarantined for outcome in response.outcomes] == [True]
    (entry,) = await quarantine.entries()
    assert (entry.source, entry.event_id, entry.event_type) == ("gateway", sample.id, "nope")
    assert (entry.stage, entry.reason, entry.field) == (
        quarantine_pb2.QUARANTINE_STAGE_VALIDATE,
        "UNKNOWN_EVENT_TYPE",
        "type",
    )
    assert entry.rule == "a registered event type"
    assert (entry.attempts, entry.state) == (1, quarantine_pb2.QUARANTINE_STATE_WAITING)
    assert before <= entry.received_at.ToMicroseconds() <= now_us()
    assert entry.last_received_at == entry.received_at
    assert len(entry.trace.trace_id) == 32
    shown = await quarantine.get(entry.quarantine_id, unseal=True, **BY_ANN)
    assert shown.event == sample.to_row()


@both_forms
async def test_call_with_only_rejected_events_is_quarantined(
    ingest: RunningIngest, quarantine: QuarantineApi, form: Form
) -> None:
    response = await ingest.report(form(*(bad() for _ in range(50))))

    assert (response.rejected, response.batch_id) == (50, "")
    assert all(outcome.quarantined for outcome in response.outcomes)
    assert len(await quarantine.entries(page_size=7)) == 50


async def test_call_of_repeats_and_rejected_events_quarantines_the_rejected(
    ingest: RunningIngest, quarantine: QuarantineApi
) -> None:
    good = Sample()
    await ingest.report(rows(good))

    response = await ingest.report(rows(good, bad()))

    assert (response.duplicate, response.rejected) == (1, 1)
    assert [outcome.quarantined for outcome in response.outcomes] == [False, True]
    assert len(await quarantine.entries()) == 1


STRICT = event_types_pb2.EventType(
    name="strict",
    quantities=[event_types_pb2.QuantityDefinition(name="whole", scale=0, required=True)],
    dimensions=[event_types_pb2.DimensionDefinition(name=name) for name in ("region", "sku", "family")],
    properties=[event_types_pb2.PropertyDefinition(name="note", kind=event_types_pb2.PROPERTY_KIND_INTEGER)],
    enrichments=[
        event_types_pb2.Enrichment(
            namespace="products",
            key="sku",
            attributes=[event_types_pb2.EnrichedAttribute(attribute="family")],
            when_missing=event_types_pb2.MISSING_ENTRY_QUARANTINE,
        )
    ],
    subject_required=True,
)
READ = quarantine_pb2.QUARANTINE_STAGE_READ
VALIDATE = quarantine_pb2.QUARANTINE_STAGE_VALIDATE
ENRICH = quarantine_pb2.QUARANTINE_STAGE_ENRICH


def strict(note: str = "1", **changes: object) -> capture_pb2.Event:
    event = Sample(**({"type": "strict", "quantities": {"whole": "1"}} | changes)).to_row()  # type: ignore[arg-type]
    event.properties["note"] = note
    return event


@pytest.mark.req("T1.5")
async def test_events_with_any_reason_are_quarantined(
    ingest: RunningIngest, quarantine: QuarantineApi
) -> None:
    await ingest.types.PutEventType(event_types_pb2.PutEventTypeRequest(event_type=STRICT))
    cases = [
        (strict(type="nope"), "UNKNOWN_EVENT_TYPE", VALIDATE),
        (strict(id=""), "ID_MISSING", VALIDATE),
        (strict(id="x" * 129), "ID_TOO_LONG", VALIDATE),
        (strict(id="a\0b"), "TEXT_INVALID", VALIDATE),
        (strict(subject=""), "SUBJECT_REQUIRED", VALIDATE),
        (strict(subject="s" * 257), "SUBJECT_TOO_LONG", VALIDATE),
        (strict(timed=False), "TIME_MISSING", READ),
        (strict(time_us=now_us() - 36 * DAY), "TIME_TOO_OLD", VALIDATE),
        (strict(time_us=now_us() + DAY), "TIME_IN_FUTURE", VALIDATE),
        (strict(dimensions={"colour\0": "red"}), "DIMENSION_UNKNOWN", VALIDATE),
        (strict(dimensions={"region": "\0"}), "TEXT_INVALID", VALIDATE),
        (strict(dimensions={"sku": "17"}), "CATALOGUE_ENTRY_MISSING", ENRICH),
        (strict(quantities={}), "QUANTITY_REQUIRED", VALIDATE),
        (strict(quantities={"whole": "many"}), "QUANTITY_NOT_A_DECIMAL", READ),
        (strict(quantities={"whole": "NaN"}), "QUANTITY_NOT_FINITE", READ),
        (strict(quantities={"whole": "1.5"}), "QUANTITY_TOO_PRECISE", VALIDATE),
        (strict(quantities={"whole": "-1"}), "QUANTITY_NEGATIVE", VALIDATE),
        (strict(note="many"), "PROPERTY_WRONG_KIND", VALIDATE),
    ]
    request = rows()
    request.rows.events.extend(event for event, _, _ in cases)

    response = await ingest.report(request)

    assert [outcome.reason for outcome in response.outcomes] == [reason for _, reason, _ in cases]
    assert all(outcome.quarantined for outcome in response.outcomes)
    kept = {}
    for entry in await quarantine.entries():
        content = await quarantine.get(entry.quarantine_id, unseal=True, **BY_ANN)
        kept[content.payload] = (entry.reason, entry.stage, content.event)
    assert kept == {
        event.SerializeToString(deterministic=True): (reason, stage, event) for event, reason, stage in cases
    }


async def test_event_with_invalid_utf8_is_quarantined_as_bytes(
    ingest: RunningIngest, quarantine: QuarantineApi
) -> None:
    """The server reads map entries as bytes, so it can parse an event with invalid texts in a map."""
    event = Sample(dimensions={}).to_row().SerializeToString() + b"\x32\x08\x0a\x03k\xff\xfe\x12\x01v"
    batch = b"\x0a" + bytes([len(event)]) + event
    call = b"\x0a\x04acme\x12\x04test\x22" + bytes([len(batch)]) + batch
    report = ingest.channel.unary_unary(
        "/meterline.ingest.v1.CaptureService/Report",
        request_serializer=lambda raw: raw,
        response_deserializer=capture_pb2.ReportResponse.FromString,
    )

    response = await report(call)

    assert [(outcome.reason, outcome.quarantined) for outcome in response.outcomes] == [
        ("TEXT_INVALID", True)
    ]
    (entry,) = await quarantine.entries()
    content = await quarantine.get(entry.quarantine_id, unseal=True, **BY_ANN)
    assert not content.HasField("event")
    assert b"\xff\xfe" in content.payload


@both_forms
@pytest.mark.req("T1.2")
async def test_retry_adds_no_second_entry(
    ingest: RunningIngest, quarantine: QuarantineApi, form: Form, database: TestDatabase
) -> None:
    samples = [bad() for _ in range(3)]
    await ingest.report(form(*samples, samples[0]))

    response = await ingest.report(form(*samples))

    assert all(outcome.quarantined for outcome in response.outcomes)
    assert sorted(entry.attempts for entry in await quarantine.entries()) == [2, 2, 3]
    assert (await quarantine.page()).waiting == 3
    assert counts_are_right(database)


async def test_same_event_from_another_source_is_a_separate_entry(
    ingest: RunningIngest, quarantine: QuarantineApi
) -> None:
    sample = bad()
    await ingest.report(rows(sample, source="a"))
    await ingest.report(rows(sample, source="b"))
    assert sorted(entry.source for entry in await quarantine.entries()) == ["a", "b"]


async def test_rejected_events_of_a_stream_are_quarantined(
    ingest: RunningIngest, quarantine: QuarantineApi
) -> None:
    sample = bad()
    call = ingest.capture.Stream(
        iter([capture_pb2.StreamRequest(tenant_id="acme", source="s", event=sample.to_row())])
    )
    answers = [answer async for answer in call]
    assert [outcome.outcome.quarantined for answer in answers for outcome in answer.outcomes] == [True]
    assert [entry.event_id for entry in await quarantine.entries()] == [sample.id]


@pytest.mark.req("T4.1")
async def test_events_of_unknown_and_inactive_tenants_are_not_quarantined(
    ingest: RunningIngest, database: TestDatabase
) -> None:
    await ingest.onboard(2, "bolt")
    await eventually(lambda: is_known(ingest, "bolt"))
    await ingest.onboard(2, "bolt", version=2, active=False)

    async def refused() -> bool:
        answer = await ingest.report(rows(Sample(), tenant_id="bolt"))
        return [outcome.reason for outcome in answer.outcomes] == ["TENANT_INACTIVE"]

    await eventually(refused)
    # An invalid id is found before the tenant is checked.
    response = await ingest.report(rows(bad(id=""), bad(), tenant_id="bolt"))
    assert not any(outcome.quarantined for outcome in response.outcomes)
    assert stored_entries(database, "tenant_id") == []


@pytest.mark.req("T2.4")
async def test_full_quarantine_rejects_further_events_and_reports_it(
    database: TestDatabase, broker: NatsServer
) -> None:
    async with running_ingest(database, broker, max_quarantined_per_tenant=10) as ingest:
        await ingest.put_type()
        for number, slug in enumerate(("acme", "bolt"), 1):
            await ingest.onboard(number, slug)
            await eventually(lambda slug=slug: is_known(ingest, slug))  # type: ignore[misc]
        acme = QuarantineApi(ingest.channel)
        before = refused_events()
        first = [bad() for _ in range(15)]

        response = await ingest.report(rows(*first, Sample()))

        kept = [outcome.quarantined for outcome in response.outcomes]
        assert response.accepted == 1
        assert (sum(kept), (await acme.page()).waiting) == (10, 10)
        assert refused_events() == before + 15 - sum(kept)
        # Retries of stored entries succeed, other tenants have separate limits, settled entries free space.
        again = await ingest.report(rows(*first))
        assert [outcome.quarantined for outcome in again.outcomes] == kept
        theirs = await ingest.report(rows(bad(), tenant_id="bolt"))
        assert theirs.outcomes[0].quarantined
        assert await acme.discard() == 10
        third = await ingest.report(rows(*first))
        assert sum(outcome.quarantined for outcome in third.outcomes) == 10
        assert (await acme.page()).waiting == 10
        assert counts_are_right(database)


@pytest.mark.req("T4.2")
async def test_quarantine_is_limited_in_bytes(database: TestDatabase, broker: NatsServer) -> None:
    async with running_ingest(database, broker, max_quarantined_bytes_per_tenant=100_000) as ingest:
        await ingest.put_type()
        await ingest.onboard(1, "acme")
        await eventually(lambda: is_known(ingest, "acme"))
        acme = QuarantineApi(ingest.channel)
        before = refused_events()
        large = [bad(properties={"note": "x" * 30_000}) for _ in range(10)]

        first = await ingest.report(rows(*large))

        # Three large events fit, and then a small one.
        assert sum(outcome.quarantined for outcome in first.outcomes) == 3
        assert refused_events() == before + 7
        small = await ingest.report(rows(bad()))
        assert small.outcomes[0].quarantined
        # Retries of stored entries succeed.
        again = await ingest.report(rows(*large))
        assert [each.quarantined for each in again.outcomes] == [each.quarantined for each in first.outcomes]
        # Discarded entries occupy their bytes until upkeep deletes them.
        assert await acme.discard() == 4
        more = await ingest.report(rows(bad(properties={"note": "x" * 30_000})))
        assert not more.outcomes[0].quarantined
        assert counts_are_right(database)


async def test_concurrent_calls_quarantine_each_event_once(
    ingest: RunningIngest, quarantine: QuarantineApi, database: TestDatabase
) -> None:
    samples = [bad() for _ in range(300)]
    calls = [rows(*samples), rows(*reversed(samples)), columns(*samples), columns(*reversed(samples))]

    answers = await asyncio.gather(*(ingest.report(call) for call in calls * 2))

    assert all(outcome.quarantined for answer in answers for outcome in answer.outcomes)
    # Entries may differ in the encoded order of an event's maps.
    entries = await quarantine.entries(page_size=1_000)
    assert len({entry.event_id for entry in entries}) == 300
    assert sum(entry.attempts for entry in entries) == 8 * 300
    assert counts_are_right(database)
