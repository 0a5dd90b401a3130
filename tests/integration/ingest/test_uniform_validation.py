"""All ways to send an event validate it alike: with the same outcome, field and reason.

Aggregate can read the messages of all accepted events.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction

import pytest
import pytest_asyncio
from google.rpc import error_details_pb2
from grpc import aio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from meterline.bounds import EARLIEST_US, LATEST_US
from meterline.ids import new_id
from meterline_aggregate.folding.decoding import decode
from meterline_dev.servers import NatsServer
from meterline_protos.ingest.v1 import capture_pb2, capture_pb2_grpc, corrections_pb2_grpc
from meterline_protos.ingest.v1 import corrections_pb2 as pb

from tests.support.calls import status_of
from tests.support.capture import Sample, columns, now_us, rows
from tests.support.corrections_calls import WHO
from tests.support.credentials import TYPE, Guarded, SignedClient, module_guarded, signed_rows
from tests.support.databases import Databases
from tests.support.polling import eventually
from tests.support.quarantine import QuarantineApi

pytestmark = [
    pytest.mark.req("T1.1", "T1.5", "T8.3"),
    # The tests share services; each has a tenant of its own.
    pytest.mark.asyncio(loop_scope="module"),
]

INT64 = 1 << 63
DAY_US = 86_400_000_000
ARCHIVED = "archived.type"
# Rejected for capture, but not for imports.
OLD = "TIME_TOO_OLD"

Form = Callable[..., capture_pb2.ReportRequest]
Verdict = tuple[str, str] | None
"""Reason and field; None if the event was accepted."""

texts = st.sampled_from(["", "eu", "\0", "a\0b", "s" * 256, "s" * 257, "é" * 256, "\U0010ffff"])
times = (
    st.sampled_from([-INT64, -1, 0, 1, EARLIEST_US, LATEST_US - 1, LATEST_US, INT64 - 1])
    | st.integers(-INT64, INT64 - 1)
    | st.integers(-40 * DAY_US, 600_000_000).map(lambda offset: now_us() + offset)
)
units = st.sampled_from(
    [0, 1, -1, 10**15, 10**16 - 1, 10**16, 10**18 - 1, 10**18, 5 * 10**18, INT64 - 1, -INT64]
) | st.integers(-INT64, INT64 - 1)
samples = st.builds(
    Sample,
    type=st.sampled_from([TYPE, TYPE, TYPE, "nope", "", "a\0"]),
    subject=texts,
    time_us=st.just(0) | times,
    dimensions=st.dictionaries(st.sampled_from(["region", "other", "", "re\0gion"]), texts, max_size=2)
    | st.just({f"d{at}": "v" for at in range(17)}),
    quantities=st.dictionaries(st.sampled_from(["units", "other", "\0"]), units.map(str), max_size=2),
    properties=st.just({}) | st.dictionaries(st.sampled_from(["x", "\0"]), texts, max_size=1),
    id=st.just("")
    | st.sampled_from(["\0" * 36, "x" * 128, "x" * 129, "20261129-083900-1234-5678-9012345678"]),
)
batches = st.lists(samples, min_size=1, max_size=6)

shared_services_settings = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
# Where an example makes many calls, and has several events.
fewer_examples = settings(shared_services_settings, max_examples=20)

# Values that columns cannot express.
ROWS_ONLY: Sequence[Mapping[str, object]] = [
    {"quantities": {"units": text}}
    for text in (
        *(
            "1e1000000",
            "-1e1000000",
            "1e-1000030",
            "1e-999999999999999999",
            "0e999999",
            "NaN",
            "sNaN",
            "Infinity",
        ),
        *("", " 1", "1 ", "+1", ".5", "5.", "1_0", "0x1", "\u0661", "1e3", "1E+2", "-0", "9" * 64, "9" * 65),
    )
] + [{"timed": False}]


@dataclass
class Ways:
    """All ways to send events to ingest."""

    services: Guarded
    client: SignedClient
    tenant: str
    bare: aio.Channel
    """Carries no token."""
    read: set[uuid.UUID] = field(default_factory=set, repr=False)
    """The ids of the messages that were read."""

    @property
    def corrections(self) -> corrections_pb2_grpc.CorrectionsServiceAsyncStub:
        return corrections_pb2_grpc.CorrectionsServiceStub(self.services.ingest_channel)

    async def knows_tenant(self) -> bool:
        """Whether ingest has the tenant in its own table, which imports need."""
        try:
            await self.quarantine.page()
        except aio.AioRpcError:
            return False
        return True

    async def rows(self, batch: Sequence[Sample]) -> list[Verdict]:
        return await self._reported(batch, rows)

    async def columns(self, batch: Sequence[Sample]) -> list[Verdict]:
        return await self._reported(batch, columns)

    async def _reported(self, batch: Sequence[Sample], form: Form) -> list[Verdict]:
        request = form(*batch, tenant_id=self.tenant)
        return _verdicts(len(batch), await self.services.capture.Report(request, timeout=20))

    async def signed(self, batch: Sequence[Sample]) -> list[Verdict]:
        capture: capture_pb2_grpc.CaptureServiceAsyncStub = capture_pb2_grpc.CaptureServiceStub(self.bare)
        answer = await capture.ReportSigned(signed_rows(self.client, *batch), timeout=20)
        return _verdicts(len(batch), answer.report)

    async def stream(self, batch: Sequence[Sample]) -> list[Verdict]:
        async def requests() -> AsyncIterator[capture_pb2.StreamRequest]:
            for sample in batch:
                yield capture_pb2.StreamRequest(tenant_id=self.tenant, source="test", event=sample.to_row())

        found: list[Verdict] = [None] * len(batch)
        async for answer in self.services.capture.Stream(requests(), timeout=20):
            for each in answer.outcomes:
                found[each.sequence] = (each.outcome.reason, each.outcome.field)
        return found

    async def imported(self, batch: Sequence[Sample], form: Form) -> list[Verdict]:
        report = form(*batch, tenant_id=self.tenant)
        request = pb.ImportEventsRequest(tenant_id=self.tenant, source="test", import_id=str(new_id()), **WHO)
        if report.HasField("columns"):
            request.columns.CopyFrom(report.columns)
        else:
            request.rows.CopyFrom(report.rows)
        return _verdicts(len(batch), await self.corrections.ImportEvents(request, timeout=20))

    async def amended(self, base: str, sample: Sample) -> Verdict:
        """The verdict of a dry run that amends the event `base` to the sample."""
        changes = pb.EventChanges(
            subject=sample.subject,
            dimensions=sample.dimensions,
            quantities=sample.quantities,
            properties=sample.properties,
        )
        changes.time.CopyFrom(sample.to_row().time)
        request = pb.AmendEventRequest(
            tenant_id=self.tenant, event_id=base, changes=changes, dry_run=True, **WHO
        )
        try:
            await self.corrections.AmendEvent(request, timeout=20)
        except aio.AioRpcError as error:
            (violation,) = _violations(error)
            return violation
        return None

    @property
    def quarantine(self) -> QuarantineApi:
        return QuarantineApi(self.services.ingest_channel, self.tenant)

    async def waiting(self) -> dict[str, Verdict]:
        """The verdicts of the quarantined events, by their ids."""
        entries = await self.quarantine.entries(page_size=1_000)
        return {each.quarantine_id: (each.reason, each.field) for each in entries}

    def messages(self) -> list[bytes]:
        """The payloads of the messages that ingest made since the last call, published or not."""
        found = self.services.database.read(
            "ingest",
            "SELECT message_id, payload FROM outbox"
            " WHERE subject LIKE '%%events.accepted%%' AND message_id <> ALL(%s)",
            list(self.read),
        )
        self.read |= {message_id for message_id, _ in found}
        return [bytes(payload) for _, payload in found]


def _verdicts(count: int, answer: capture_pb2.ReportResponse | pb.ImportEventsResponse) -> list[Verdict]:
    found: list[Verdict] = [None] * count
    for outcome in answer.outcomes:
        found[outcome.index] = (outcome.reason, outcome.field)
    return found


def _violations(error: aio.AioRpcError) -> list[tuple[str, str]]:
    details = error_details_pb2.BadRequest()
    for each in status_of(error).details:
        if each.Unpack(details):
            break
    return [(each.reason, each.field.removeprefix("changes.")) for each in details.field_violations]


def _with_new_ids(batch: Sequence[Sample]) -> list[Sample]:
    """The same events with new ids, so that none is a duplicate; invalid ids stay."""
    return [replace(each, id=each.id or str(uuid.uuid4())) for each in batch]


def _is_repeat(verdict: Verdict) -> bool:
    return verdict is not None and verdict[0] in ("DUPLICATE", "CONFLICT")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def services(databases: Databases, nats_server: NatsServer) -> AsyncIterator[Guarded]:
    async with module_guarded(databases, nats_server) as both:
        await both.put_type()
        await both.put_type(ARCHIVED)
        yield both


@pytest_asyncio.fixture(loop_scope="module")
async def ways(services: Guarded) -> AsyncIterator[Ways]:
    """The ways to send events of a new tenant."""
    tenant = f"tenant-{new_id().hex}"
    await services.onboard(tenant)
    await services.rotate(tenant)
    client = await services.client(tenant, types=[TYPE, ARCHIVED, "nope"])
    async with aio.insecure_channel(services.ingest_address) as bare:
        found = Ways(services, client, tenant, bare)
        await eventually(found.knows_tenant)
        yield found


@given(batches)
@shared_services_settings
async def test_verdict_is_the_same_for_all_ways_to_send(ways: Ways, batch: list[Sample]) -> None:
    expected = await ways.rows(_with_new_ids(batch))
    assert all(verdict is None or verdict[0] for verdict in expected)

    assert _alike(await ways.columns(_with_new_ids(batch)), expected)
    assert _alike(await ways.stream(_with_new_ids(batch)), expected)
    mine = [at for at, each in enumerate(batch) if each.type in (TYPE, "nope")]
    if mine:
        found = await ways.signed(_with_new_ids([batch[at] for at in mine]))
        assert _alike(found, [expected[at] for at in mine])
    for form in (rows, columns):
        found = await ways.imported(_with_new_ids(batch), form)
        aged = [at for at, verdict in enumerate(expected) if verdict is not None and verdict[0] == OLD]
        assert _alike(
            [each for at, each in enumerate(found) if at not in aged],
            [each for at, each in enumerate(expected) if at not in aged],
        )


@given(samples)
@shared_services_settings
async def test_amendment_is_validated_like_the_resulting_event(ways: Ways, sample: Sample) -> None:
    base = Sample(dimensions={}, quantities={}, time_us=now_us())
    assert await ways.rows([base]) == [None]
    wanted = replace(sample, type=base.type, id=str(uuid.uuid4()))
    (expected,) = await ways.imported([wanted], rows)
    assert _alike([await ways.amended(base.id, wanted)], [expected])


async def test_values_that_only_rows_express_are_validated_alike(ways: Ways) -> None:
    def batch() -> list[Sample]:
        return [Sample(**fields) for fields in ROWS_ONLY]  # type: ignore[arg-type]

    expected = await ways.rows(batch())
    assert await ways.stream(batch()) == expected
    assert await ways.signed(batch()) == expected
    assert await ways.imported(batch(), rows) == expected
    assert {verdict[0] for verdict in expected if verdict} == {
        "QUANTITY_NOT_A_DECIMAL",
        "QUANTITY_NOT_FINITE",
        "QUANTITY_OUT_OF_RANGE",
        "QUANTITY_TOO_PRECISE",
        "TIME_MISSING",
    }


# Events that imports accept, most of which are too old for capture.
past = st.builds(
    Sample,
    type=st.just(TYPE),
    subject=st.sampled_from(["", "u1", "é" * 256]),
    time_us=st.just(EARLIEST_US) | st.integers(-40 * DAY_US, 0).map(lambda offset: now_us() + offset),
    dimensions=st.just({}) | st.just({"region": "eu"}),
    quantities=st.just({}) | st.just({"units": "12"}),
)


@given(st.lists(past, min_size=1, max_size=6))
@fewer_examples
@pytest.mark.req("T1.2")
async def test_repeat_of_any_age_is_recognised_in_all_ways_to_send(ways: Ways, batch: list[Sample]) -> None:
    batch = [replace(each, id=str(uuid.uuid4())) for each in batch]
    assert await ways.imported(batch, rows) == [None] * len(batch)
    waiting = await ways.waiting()
    another = [replace(each, time_us=each.time_us + 1) for each in batch]

    for again, verdict in ((batch, ("DUPLICATE", "id")), (another, ("CONFLICT", "id"))):
        expected = [verdict] * len(batch)
        for way in (ways.rows, ways.columns, ways.stream, ways.signed):
            assert await way(again) == expected
        for form in (rows, columns):
            assert await ways.imported(again, form) == expected
    assert await ways.waiting() == waiting


async def test_archived_type_is_rejected_in_all_ways_to_send(ways: Ways) -> None:
    known = [Sample(type=ARCHIVED), Sample(type=ARCHIVED)]
    assert await ways.rows(known) == [None, None]
    await ways.services.archive_type(ARCHIVED)

    def batch() -> list[Sample]:
        return [*known, Sample(type=ARCHIVED), Sample(type=ARCHIVED, time_us=1), Sample(type="nope")]

    refused = ("TYPE_ARCHIVED", "type")
    expected = [*[("DUPLICATE", "id")] * 2, refused, refused, ("UNKNOWN_EVENT_TYPE", "type")]

    async def is_archived() -> bool:
        return await ways.rows(batch()) == expected

    await eventually(is_archived)
    for way in (ways.columns, ways.stream, ways.signed):
        assert await way(batch()) == expected
    for form in (rows, columns):
        assert await ways.imported(batch(), form) == expected
    # Stored events of the type can still be corrected.
    assert await ways.amended(known[0].id, replace(known[0], quantities={"units": "2"})) is None


@given(batches)
@fewer_examples
async def test_replay_rejects_quarantined_events_as_before(ways: Ways, batch: list[Sample]) -> None:
    await ways.columns(_with_new_ids(batch))
    await ways.rows(_with_new_ids(batch))
    before = await ways.waiting()
    answer = await ways.quarantine.replay()
    assert await ways.waiting() == before
    assert (answer.accepted, answer.duplicate) == (0, 0)
    if before:
        await ways.quarantine.discard()


@given(batches)
@fewer_examples
@pytest.mark.req("T3.1", "X2")
async def test_aggregate_reads_messages_of_all_accepted_events(ways: Ways, batch: list[Sample]) -> None:
    ways.messages()
    accepted: list[Sample] = []
    for form in (rows, columns):
        verdicts = await ways.imported(_with_new_ids(batch), form)
        accepted += [each for each, verdict in zip(batch, verdicts, strict=True) if verdict is None]
    found = _read(ways.messages())
    assert found[0] == len(accepted)
    # The sum is exact also for the largest accepted values.
    assert found[1] == sum(int(each.quantities.get("units", 0)) for each in accepted)


def _read(messages: Sequence[bytes]) -> tuple[int, Fraction]:
    """(number of rows, sum of their units) of all messages."""
    count, total = 0, Fraction(0)
    for message in map(decode, messages):
        count += len(message.times_us)
        if (column := message.quantities.get("units")) is not None:
            present = [True] * len(column.units) if column.present is None else column.present.tolist()
            units = sum(n for n, there in zip(column.units.tolist(), present, strict=True) if there)
            total += Fraction(units, 10**column.scale)
    return count, total


def _alike(found: Sequence[Verdict], expected: Sequence[Verdict]) -> bool:
    """Checks equality, except for events with text ids, which may be repeats of an earlier way."""
    assert len(found) == len(expected)
    pairs = zip(found, expected, strict=True)
    different = [each for each in pairs if each[0] != each[1] and not any(map(_is_repeat, each))]
    assert different == []
    return True
