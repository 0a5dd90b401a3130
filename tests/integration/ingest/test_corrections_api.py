"""Corrections with real Postgres and NATS: accepted events stay stored, and messages publish the change."""

from __future__ import annotations

import asyncio
import itertools
import uuid

import grpc
import psycopg
import pytest
import pytest_asyncio
from grpc import aio
from meterline.ids import new_id
from meterline.packing import unpack_signed
from meterline_protos.ingest.v1 import corrections_pb2 as pb

from tests.support.capture import RunningIngest, Sample, new_tenant, now_us, published
from tests.support.corrections_calls import Corrections, signs

pytestmark = [pytest.mark.req("T3.4"), pytest.mark.asyncio(loop_scope="module")]


@pytest.fixture
def ingest(own_tenant: RunningIngest) -> RunningIngest:
    """The tests share a service; each has a tenant of its own."""
    return own_tenant


@pytest.fixture
def corrections(ingest: RunningIngest) -> Corrections:
    return Corrections(ingest)


def units(text: str) -> pb.EventChanges:
    return pb.EventChanges(quantities={"units": text})


async def test_amended_event_has_the_changed_values(ingest: RunningIngest, corrections: Corrections) -> None:
    sample = Sample(subject="plane", quantities={"units": "12"}, dimensions={"region": "us"})
    reported = await ingest.report(ingest.rows(sample))

    answer = await corrections.amend(
        sample.id,
        pb.EventChanges(subject="train", quantities={"units": "7.5"}, removed=["dimensions.region"]),
    )

    made = answer.correction
    assert (made.kind, made.revision, made.event_id) == (pb.CORRECTION_KIND_AMENDED, 1, sample.id)
    assert (made.before.subject, dict(made.before.quantities)) == ("plane", {"units": "12"})
    assert (made.after.subject, dict(made.after.quantities)) == ("train", {"units": "7.5"})
    assert (dict(made.before.dimensions), dict(made.after.dimensions)) == ({"region": "us"}, {})
    assert made.batch_id_before == reported.batch_id
    found = await corrections.get(sample.id)
    assert (found.event.subject, dict(found.event.quantities)) == ("train", {"units": "7.5"})
    assert (found.event.revision, found.event.retracted) == (1, False)
    assert found.event.time.ToMicroseconds() == sample.time_us
    assert (found.batch.batch_id, found.batch.event_count, found.batch.retracted) == (made.batch_id, 1, 1)
    assert list(found.corrections) == [made]
    assert await corrections.total() == 1


async def test_correction_message_lists_retracted_rows_first(
    ingest: RunningIngest, corrections: Corrections
) -> None:
    sample = Sample(subject="plane", quantities={"units": "12"})
    reported = await ingest.report(ingest.rows(sample))

    amended = (await corrections.amend(sample.id, units("7"))).correction
    retracted = (await corrections.retract(sample.id)).correction

    _, first, second = await published(ingest, 3)
    assert (signs(first), signs(second)) == ([(2, 1)], [(1, 1)])
    assert first.event_ids == uuid.UUID(sample.id).bytes * 2
    assert unpack_signed(first.quantities[0].units, 2).tolist() == [1200, 700]
    assert unpack_signed(second.quantities[0].units, 1).tolist() == [700]
    assert first.batches[0].batch_id == uuid.UUID(amended.batch_id).bytes
    assert first.batches[0].origins == uuid.UUID(reported.batch_id).bytes
    assert second.batches[0].origins == uuid.UUID(amended.batch_id).bytes
    assert retracted.batch_id_before == amended.batch_id
    assert len(first.batches[0].trace.trace_id) == 32


async def test_retracted_event_is_not_listed_and_its_id_stays_used(
    ingest: RunningIngest, corrections: Corrections
) -> None:
    sample, other = Sample(), Sample()
    reported = await ingest.report(ingest.rows(sample, other))

    await corrections.retract(sample.id)
    again = await ingest.report(ingest.rows(sample))

    assert (again.accepted, again.duplicate) == (0, 1)
    found = await corrections.get(sample.id)
    assert (found.event.retracted, found.event.revision) == (True, 1)
    assert found.event.origin_batch_id == reported.batch_id
    assert (found.batch.event_count, found.batch.retracted) == (0, 1)
    assert await corrections.total() == 1
    for change in (corrections.amend(sample.id, units("3")), corrections.retract(sample.id)):
        with pytest.raises(aio.AioRpcError) as caught:
            await change
        assert caught.value.code() == grpc.StatusCode.FAILED_PRECONDITION


async def test_repeat_is_compared_with_the_original_event(
    ingest: RunningIngest, corrections: Corrections
) -> None:
    sample = Sample(quantities={"units": "1"})
    await ingest.report(ingest.rows(sample))
    await corrections.amend(sample.id, units("2"))

    assert (await ingest.report(ingest.rows(sample))).duplicate == 1
    sample.quantities = {"units": "2"}
    assert (await ingest.report(ingest.rows(sample))).conflict == 1


@pytest.mark.req("T3.4", "X1")
async def test_correction_batches_list_retracted_and_added_rows(
    ingest: RunningIngest, corrections: Corrections
) -> None:
    """Also for a batch with corrections of several events, and with pages of any size."""
    samples = [Sample(quantities={"units": str(at)}) for at in range(1, 4)]
    reported = await ingest.report(ingest.rows(*samples))
    answer = await corrections.correct(
        ids=pb.EventIds(event_ids=[sample.id for sample in samples]), amend=units("9")
    )
    made = await corrections.listed(correction_id=answer.correction_id)
    (batch_id,) = {each.batch_id for each in made}
    last = (await corrections.retract(samples[0].id)).correction

    for page_size in (1, 2, 100):
        found = await corrections.rows_of(reported.batch_id, batch_id, last.batch_id, page_size=page_size)
        assert len(found) == 3 + 6 + 1
        seen = [(row.revision, row.retracted, row.quantities["units"]) for row in found]
        assert [row for row in seen if row[0] == 0] == [(0, False, "1"), (0, False, "2"), (0, False, "3")]
        first = [
            (row.revision, row.retracted, row.quantities["units"], row.batch_id, row.origin_batch_id)
            for row in found
            if row.event_id == samples[0].id
        ]
        assert first == [
            (0, False, "1", reported.batch_id, ""),
            (1, True, "1", batch_id, reported.batch_id),
            (1, False, "9", batch_id, ""),
            (2, True, "9", last.batch_id, batch_id),
        ]


async def test_invalid_changes_are_refused_with_their_field(
    ingest: RunningIngest, corrections: Corrections
) -> None:
    sample = Sample()
    await ingest.report(ingest.rows(sample))
    ahead = pb.EventChanges()
    ahead.time.FromMicroseconds(now_us() + 3_600_000_000)
    refused = [
        (pb.EventChanges(), "changes"),
        (units("-1"), "changes.quantities.units"),
        (units("x"), "changes.quantities.units"),
        (units("0.001"), "changes.quantities.units"),
        (pb.EventChanges(quantities={"pages": "1"}), "changes.quantities.pages"),
        (pb.EventChanges(dimensions={f"d{at}": "" for at in range(65)}), "changes.dimensions"),
        (pb.EventChanges(quantities={f"q{at}": "1" for at in range(65)}), "changes.quantities"),
        (pb.EventChanges(properties={f"p{at}": "" for at in range(65)}), "changes.properties"),
        (pb.EventChanges(removed=["dimensions.region"] * 65), "changes.removed"),
        (pb.EventChanges(dimensions={"zone": "a"}), "changes.dimensions.zone"),
        (pb.EventChanges(properties={"note": "a"}), "changes.properties.note"),
        (pb.EventChanges(subject="x" * 300), "changes.subject"),
        (pb.EventChanges(removed=["region"]), "changes.removed"),
        (pb.EventChanges(dimensions={"region": "a"}, removed=["dimensions.region"]), "changes.removed"),
        (ahead, "changes.time"),
    ]
    for changes, field in refused:
        with pytest.raises(aio.AioRpcError) as caught:
            await corrections.amend(sample.id, changes)
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT, field
        assert str(caught.value.details()).startswith(f"{field}:")
    assert (await corrections.get(sample.id)).event.revision == 0
    assert await corrections.listed() == []


async def test_correction_needs_requester_reason_and_existing_event(
    ingest: RunningIngest, corrections: Corrections
) -> None:
    sample = Sample()
    await ingest.report(ingest.rows(sample))
    for missing in ("requested_by", "reason"):
        with pytest.raises(aio.AioRpcError) as caught:
            await corrections.retract(sample.id, **{missing: " "})
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    with pytest.raises(aio.AioRpcError) as caught:
        await corrections.retract(str(new_id()))
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND


async def test_repeated_correction_changes_nothing(ingest: RunningIngest, corrections: Corrections) -> None:
    sample, correction_id = Sample(), str(uuid.uuid4())
    await ingest.report(ingest.rows(sample))

    first = await corrections.amend(sample.id, units("5"), correction_id=correction_id)
    await corrections.amend(sample.id, units("6"))
    again = await corrections.amend(sample.id, units("5"), correction_id=correction_id)

    assert again.correction == first.correction
    assert (await corrections.get(sample.id)).event.quantities["units"] == "6"
    with pytest.raises(aio.AioRpcError) as caught:
        await corrections.amend(sample.id, units("7"), correction_id=correction_id)
    assert caught.value.code() == grpc.StatusCode.ALREADY_EXISTS


async def test_amendment_without_difference_makes_no_correction(
    ingest: RunningIngest, corrections: Corrections
) -> None:
    sample = Sample(quantities={"units": "5"})
    await ingest.report(ingest.rows(sample))

    answer = await corrections.amend(sample.id, units("5.00"))

    assert not answer.HasField("correction")
    assert (await corrections.get(sample.id)).event.revision == 0


async def test_concurrent_corrections_of_one_event_are_applied_or_refused(
    ingest: RunningIngest, corrections: Corrections
) -> None:
    sample = Sample(quantities={"units": "0"})
    await ingest.report(ingest.rows(sample))

    answers = await asyncio.gather(
        *(corrections.amend(sample.id, units(str(value))) for value in range(1, 9)), return_exceptions=True
    )

    made = [answer.correction for answer in answers if isinstance(answer, pb.AmendEventResponse)]
    refused = [answer for answer in answers if isinstance(answer, aio.AioRpcError)]
    assert {error.code() for error in refused} <= {grpc.StatusCode.ABORTED}
    assert sorted(each.revision for each in made) == list(range(1, len(made) + 1))
    history = (await corrections.get(sample.id)).corrections
    assert len(history) == len(made)
    for before, after in itertools.pairwise(history):
        assert (before.after, before.batch_id) == (after.before, after.batch_id_before)
    assert await corrections.total() == 1


async def test_correction_with_outdated_revision_is_refused(
    ingest: RunningIngest, corrections: Corrections
) -> None:
    sample = Sample()
    await ingest.report(ingest.rows(sample))
    await corrections.amend(sample.id, units("2"), revision=0)

    with pytest.raises(aio.AioRpcError) as caught:
        await corrections.amend(sample.id, units("3"), revision=0)
    assert caught.value.code() == grpc.StatusCode.ABORTED


async def test_event_with_text_id_is_corrected_by_its_source(
    ingest: RunningIngest, corrections: Corrections
) -> None:
    sample = Sample(id="call-1")
    await ingest.report(ingest.rows(sample, source="gateway"))

    made = (await corrections.amend("call-1", units("4"), source="gateway")).correction

    assert made.event_id == "call-1"
    assert (await corrections.get("call-1", "gateway")).event.event_id == "call-1"
    assert [row.event_id for row in await corrections.rows_of(made.batch_id)] == ["call-1", "call-1"]
    assert [each.event_id for each in await corrections.listed(event_id="call-1", source="gateway")] == [
        "call-1"
    ]


async def test_corrections_are_listed_by_filters(ingest: RunningIngest, corrections: Corrections) -> None:
    samples, import_id = [Sample() for _ in range(5)], str(new_id())
    await ingest.report(ingest.rows(*samples))
    imported = Sample()
    await corrections.import_events(import_id, imported)
    for sample in (*samples, imported, samples[0]):
        await corrections.amend(sample.id, units(str(len(await corrections.listed()) + 20)))

    everything = await corrections.listed()

    assert len(everything) == 7
    assert [each.at.ToMicroseconds() for each in everything] == sorted(
        (each.at.ToMicroseconds() for each in everything), reverse=True
    )
    assert await corrections.listed(page_size=2) == everything
    of_first = [each for each in everything if each.event_id == samples[0].id]
    assert await corrections.listed(event_id=samples[0].id) == of_first
    assert [each.event_id for each in await corrections.listed(import_id=import_id)] == [imported.id]
    call = everything[3]
    assert await corrections.listed(correction_id=call.correction_id) == [call]
    assert {(each.requested_by, each.reason) for each in everything} == {
        ("ann@example.com", "because the test says so")
    }


async def test_stored_corrections_cannot_be_changed(ingest: RunningIngest, corrections: Corrections) -> None:
    sample = Sample()
    await ingest.report(ingest.rows(sample))
    await corrections.amend(sample.id, units("2"))
    refused = (
        "UPDATE corrections SET new = old",
        "UPDATE correction_requests SET reason = 'another'",
        "DELETE FROM corrections",
        "DELETE FROM correction_requests",
        "UPDATE imports SET reason = 'another'",
        "TRUNCATE corrections",
    )
    with psycopg.connect(ingest.database.app_dsn("ingest"), autocommit=True) as connection:
        connection.execute("SELECT set_config('meterline.tenant_ids', '*', false)")
        for statement in refused:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement)


async def test_corrections_are_audited(ingest: RunningIngest, corrections: Corrections) -> None:
    sample = Sample()
    await ingest.report(ingest.rows(sample))
    await corrections.amend(sample.id, units("2"))
    await corrections.retract(sample.id)
    await corrections.import_events(str(new_id()), Sample())
    await corrections.correct(ids=pb.EventIds(event_ids=[sample.id]), retract=pb.Retraction())

    with psycopg.connect(ingest.database.admin_dsn) as connection:
        entries = connection.execute(
            "SELECT action, principal FROM ingest.audit_log WHERE tenant_id = %s ORDER BY audit_id",
            (ingest.number,),
        ).fetchall()
    actions = ("event.amended", "event.retracted", "events.imported", "events.corrected")
    assert entries == [(action, "ann@example.com") for action in actions]


@pytest_asyncio.fixture(loop_scope="module")
async def other_tenant(ingest: RunningIngest) -> Corrections:
    return Corrections(await new_tenant(ingest))


@pytest.mark.req("T3.4", "T4.1")
async def test_events_of_another_tenant_are_not_found(
    ingest: RunningIngest, corrections: Corrections, other_tenant: Corrections
) -> None:
    sample = Sample()
    await ingest.report(ingest.columns(sample))
    made = (await corrections.amend(sample.id, units("2"))).correction

    with pytest.raises(aio.AioRpcError) as caught:
        await other_tenant.retract(sample.id)
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND
    assert await other_tenant.rows_of(made.batch_id) == []
    assert await other_tenant.listed(correction_id=made.correction_id) == []
    answer = await other_tenant.correct(ids=pb.EventIds(event_ids=[sample.id]), retract=pb.Retraction())
    assert (answer.corrected, answer.failed, answer.failures[0].reason) == (0, 1, "NOT_FOUND")
    assert (await corrections.get(sample.id)).event.revision == 1
