"""An accepted event stays accepted: its repeat is a duplicate at any later time."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

import pytest
from meterline.clock import ManualClock
from meterline_dev.servers import NatsServer
from meterline_protos.ingest.v1 import capture_pb2, event_types_pb2, privacy_pb2, privacy_pb2_grpc

from tests.support.capture import (
    RunningIngest,
    Sample,
    columns,
    is_known,
    now_us,
    rows,
    running_ingest,
    stored,
)
from tests.support.corrections_calls import WHO, Corrections
from tests.support.databases import TestDatabase
from tests.support.polling import eventually
from tests.support.quarantine import QuarantineApi

pytestmark = pytest.mark.req("T1.1", "T1.2", "T1.5")

DAY = timedelta(days=1)
HOUR_US = 3_600_000_000

Form = Callable[..., capture_pb2.ReportRequest]
forms = pytest.mark.parametrize("form", [rows, columns])


@dataclass
class World:
    ingest: RunningIngest
    clock: ManualClock

    async def report(self, form: Form, *samples: Sample, sent_us: int | None = None) -> list[str]:
        """The reason of each outcome, empty if the event was accepted."""
        request = form(*samples)
        if sent_us is not None:
            request.sent_at.FromMicroseconds(sent_us)
        return reasons(len(samples), await self.ingest.report(request))

    async def waiting(self) -> int:
        return (await QuarantineApi(self.ingest.channel).page()).waiting


def reasons(count: int, answer: capture_pb2.ReportResponse) -> list[str]:
    found = [""] * count
    for outcome in answer.outcomes:
        found[outcome.index] = outcome.reason
    return found


@pytest.fixture
async def world(database: TestDatabase, broker: NatsServer) -> AsyncIterator[World]:
    clock = ManualClock(now_us())
    async with running_ingest(database, broker, clock=clock) as ingest:
        text = event_types_pb2.PROPERTY_KIND_TEXT
        definition = event_types_pb2.EventType(
            name="api.request",
            quantities=[event_types_pb2.QuantityDefinition(name="units", scale=2)],
            dimensions=[event_types_pb2.DimensionDefinition(name="region")],
            properties=[
                event_types_pb2.PropertyDefinition(name="note", kind=text),
                event_types_pb2.PropertyDefinition(name="phone", kind=text, sensitive=True),
            ],
        )
        await ingest.types.PutEventType(event_types_pb2.PutEventTypeRequest(event_type=definition))
        await ingest.onboard(1, "acme")
        await eventually(lambda: is_known(ingest, "acme"))
        yield World(ingest, clock)


def samples() -> list[Sample]:
    """One event of each kind: plain, with properties, with a sealed property, and with a text id."""
    return [
        Sample(),
        Sample(properties={"note": "first"}),
        Sample(properties={"phone": "+1 555 0100"}),
        Sample(id="order-17", quantities={}),
    ]


def other(batch: Sequence[Sample]) -> list[Sample]:
    return [replace(each, subject="somebody else") for each in batch]


@forms
async def test_resend_after_an_outage_reports_accepted_events(world: World, form: Form) -> None:
    batch, lost = samples(), Sample()
    assert await world.report(form, *batch) == [""] * 4
    world.clock.advance(36 * DAY)

    again = await world.report(form, *batch, lost)

    assert again == ["DUPLICATE"] * 4 + ["TIME_TOO_OLD"]
    assert await world.report(form, *other(batch)) == ["CONFLICT"] * 4
    # Only the event that was never accepted is quarantined.
    assert await world.waiting() == 1
    assert await stored(world.ingest) == 4


@forms
async def test_repeat_with_clock_ahead_is_recognised_with_and_without_sent_time(
    world: World, form: Form
) -> None:
    ahead = world.clock.now_us() + HOUR_US
    early = [replace(each, time_us=ahead) for each in samples()]
    assert await world.report(form, *early, sent_us=ahead) == [""] * 4
    assert await world.report(form, *early, Sample(time_us=ahead)) == ["DUPLICATE"] * 4 + ["TIME_IN_FUTURE"]


@forms
async def test_repeat_is_recognised_despite_wrong_sending_time(world: World, form: Form) -> None:
    batch = samples()
    assert await world.report(form, *batch) == [""] * 4
    wrong = world.clock.now_us() + 100 * 365 * 24 * HOUR_US
    again = await world.report(form, *batch, Sample(), sent_us=wrong)
    assert again == ["DUPLICATE"] * 4 + ["SENT_AT_WRONG"]


@forms
async def test_same_id_in_one_call_with_one_time_out_of_bounds_is_a_conflict(
    world: World, form: Form
) -> None:
    good = Sample(id=str(uuid.uuid4()))
    old = replace(good, time_us=good.time_us - 36 * 24 * HOUR_US)
    assert await world.report(form, old, good, old) == ["CONFLICT", "", "CONFLICT"]
    assert await world.waiting() == 0


async def test_repeat_with_another_fault_gets_the_reason_of_the_fault(world: World) -> None:
    batch = [Sample()]
    assert await world.report(rows, *batch) == [""]
    world.clock.advance(36 * DAY)
    faulty = [replace(each, quantities={"units": "many"}) for each in batch]
    assert await world.report(rows, *faulty) == ["QUANTITY_NOT_A_DECIMAL"]


async def test_event_of_another_tenant_with_the_same_id_is_no_repeat(world: World) -> None:
    await world.ingest.onboard(2, "bolt")
    await eventually(lambda: is_known(world.ingest, "bolt"))
    sample = Sample()
    assert await world.report(rows, sample) == [""]
    world.clock.advance(36 * DAY)
    both = rows(sample, replace(sample, tenant_id="bolt"))
    assert reasons(2, await world.ingest.report(both)) == ["DUPLICATE", "TIME_TOO_OLD"]


async def test_large_resends_are_recognised_in_portions(world: World) -> None:
    batch = [Sample() for _ in range(2_500)]
    assert await world.report(columns, *batch) == [""] * 2_500
    world.clock.advance(36 * DAY)
    assert await world.report(columns, *batch, Sample()) == ["DUPLICATE"] * 2_500 + ["TIME_TOO_OLD"]


async def test_repeat_with_sealed_body_is_not_recognised_after_shredding(world: World) -> None:
    batch = samples()
    assert await world.report(rows, *batch) == [""] * 4
    privacy = privacy_pb2_grpc.PrivacyServiceStub(world.ingest.channel)
    await privacy.ShredTenant(privacy_pb2.ShredTenantRequest(tenant_id="acme", **WHO))
    world.clock.advance(36 * DAY)

    async def is_forgotten() -> bool:
        return await world.report(rows, *batch) == ["DUPLICATE", "DUPLICATE", "TIME_TOO_OLD", "DUPLICATE"]

    # Replicas cache keys for a short time.
    await eventually(is_forgotten)


async def test_repeat_of_a_retracted_event_is_a_duplicate(world: World) -> None:
    sample = Sample()
    assert await world.report(rows, sample) == [""]
    await Corrections(world.ingest).retract(sample.id)
    world.clock.advance(36 * DAY)
    assert await world.report(rows, sample) == ["DUPLICATE"]


async def test_dry_run_of_an_import_reports_a_repeat(world: World) -> None:
    """Also if only the time is invalid: imports accept old events, but no future ones."""
    ahead = world.clock.now_us() + HOUR_US
    early = Sample(time_us=ahead)
    assert await world.report(rows, early, sent_us=ahead) == [""]
    answer = await Corrections(world.ingest).import_events(str(uuid.uuid4()), early, dry_run=True)
    assert [each.reason for each in answer.outcomes] == ["DUPLICATE"]
