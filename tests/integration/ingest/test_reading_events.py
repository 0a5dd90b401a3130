"""Reading events: complete events, in the order of time, over any range, with audited unsealing."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import grpc
import psycopg
import pytest
import pytest_asyncio
from grpc import aio
from meterline_protos.ingest.v1 import (
    audit_pb2,
    audit_pb2_grpc,
    capture_pb2,
    event_types_pb2,
    events_pb2,
    privacy_pb2,
    privacy_pb2_grpc,
)

from tests.support.capture import RunningIngest, Sample, new_tenant, now_us

BY_ANN = events_pb2.Unsealing(requested_by="ann@example.com", reason="ticket 17")
HOUR_US = 3_600_000_000
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture
def ingest(own_tenant: RunningIngest) -> RunningIngest:
    """The tests share a service; each has a tenant of its own."""
    return own_tenant


async def put_checkout(ingest: RunningIngest) -> None:
    """Puts a type with a plain and a sensitive property."""
    definition = event_types_pb2.EventType(
        name="checkout",
        quantities=[event_types_pb2.QuantityDefinition(name="units", scale=2)],
        properties=[
            event_types_pb2.PropertyDefinition(name="page", kind=event_types_pb2.PROPERTY_KIND_TEXT),
            event_types_pb2.PropertyDefinition(
                name="email", kind=event_types_pb2.PROPERTY_KIND_TEXT, sensitive=True
            ),
        ],
    )
    await ingest.types.PutEventType(event_types_pb2.PutEventTypeRequest(event_type=definition))


def checkout(email: str, **more: Any) -> tuple[Sample, capture_pb2.Event]:
    sample = Sample(type="checkout", dimensions={}, **more)
    event = sample.to_row()
    event.properties.update({"page": "/cart", "email": email})
    return sample, event


def listing(tenant: str, start_us: int, **more: Any) -> events_pb2.ListEventsRequest:
    request = events_pb2.ListEventsRequest(tenant_id=tenant, **more)
    request.time.start_time.FromMicroseconds(start_us)
    return request


def exporting(tenant: str, start_us: int, **more: Any) -> events_pb2.ExportEventsRequest:
    request = events_pb2.ExportEventsRequest(tenant_id=tenant, **more)
    request.time.start_time.FromMicroseconds(start_us)
    return request


async def all_of(ingest: RunningIngest, request: events_pb2.ListEventsRequest) -> list[str]:
    found: list[str] = []
    while True:
        page = await ingest.events.ListEvents(request)
        found += [event.event_id for event in page.events]
        if not page.next_page_token:
            return found
        request.page_token = page.next_page_token


async def status_of(call: Awaitable[object]) -> grpc.StatusCode:
    with pytest.raises(aio.AioRpcError) as caught:
        await call
    return caught.value.code()


@pytest.mark.req("S3", "T1.5")
async def test_event_is_read_with_all_its_fields(ingest: RunningIngest) -> None:
    await put_checkout(ingest)
    sample, event = checkout("ann@example.com", quantities={"units": "1.5"})
    request = capture_pb2.ReportRequest(
        tenant_id=ingest.tenant, source="shop", rows=capture_pb2.EventRows(events=[event])
    )
    # The source's clock is an hour behind the server's.
    event.time.FromMicroseconds(now_us() - HOUR_US)
    request.rows.events[0].time.CopyFrom(event.time)
    request.sent_at.FromMicroseconds(now_us() - HOUR_US)
    before = now_us()
    answer = await ingest.report(request)
    assert answer.accepted == 1

    found = (
        await ingest.events.GetEvent(events_pb2.GetEventRequest(tenant_id=ingest.tenant, event_id=sample.id))
    ).event

    assert dict(found.properties) == {"page": "/cart"}
    assert list(found.sealed_properties) == ["email"]
    assert found.sent_time == event.time
    assert abs(found.time.ToMicroseconds() - event.time.ToMicroseconds() - HOUR_US) < 60_000_000
    assert before <= found.received_at.ToMicroseconds() <= now_us()
    assert list((await ingest.events.ListEvents(listing(ingest.tenant, before - HOUR_US))).events) == [found]


async def test_uncorrected_event_has_no_separate_sent_time(ingest: RunningIngest) -> None:
    sample = Sample()
    await ingest.report(ingest.rows(sample))
    found = await ingest.events.GetEvent(
        events_pb2.GetEventRequest(tenant_id=ingest.tenant, event_id=sample.id)
    )
    assert not found.event.HasField("sent_time")
    assert not found.event.properties


@pytest.mark.req("T4.3")
async def test_unsealing_sensitive_properties_is_audited(ingest: RunningIngest) -> None:
    await put_checkout(ingest)
    start = now_us()
    both = [checkout("ann@example.com"), checkout("bob@example.com")]
    request = capture_pb2.ReportRequest(
        tenant_id=ingest.tenant,
        source="shop",
        rows=capture_pb2.EventRows(events=[event for _, event in both]),
    )
    await ingest.report(request)
    await ingest.report(ingest.rows(Sample()))
    first = both[0][0].id

    one = await ingest.events.GetEvent(
        events_pb2.GetEventRequest(tenant_id=ingest.tenant, event_id=first, unseal=BY_ANN)
    )
    page = await ingest.events.ListEvents(listing(ingest.tenant, start, unseal=BY_ANN))
    (chunk,) = [
        answer
        async for answer in ingest.events.ExportEvents(
            exporting(ingest.tenant, start, unseal=BY_ANN, type="checkout")
        )
    ]

    assert dict(one.event.properties) == {"page": "/cart", "email": "ann@example.com"}
    assert [event.properties.get("email", "") for event in page.events] == [
        "ann@example.com",
        "bob@example.com",
        "",
    ]
    assert [event.properties["email"] for event in chunk.events] == ["ann@example.com", "bob@example.com"]
    audit = audit_pb2_grpc.AuditServiceStub(ingest.channel)
    entries = (
        await audit.ListAuditEntries(
            audit_pb2.ListAuditEntriesRequest(tenant_id=ingest.tenant, action="events.unsealed")
        )
    ).entries
    assert [(entry.principal, entry.reason, entry.subject) for entry in entries] == [
        ("ann@example.com", "ticket 17", "2 events"),
        ("ann@example.com", "ticket 17", "2 events"),
        ("ann@example.com", "ticket 17", f"event {first}"),
    ]


@pytest.mark.req("T4.3")
async def test_unsealing_needs_requester_and_reason_and_excludes_shredded(ingest: RunningIngest) -> None:
    await put_checkout(ingest)
    sample, event = checkout("ann@example.com")
    await ingest.report(
        capture_pb2.ReportRequest(
            tenant_id=ingest.tenant, source="shop", rows=capture_pb2.EventRows(events=[event])
        )
    )
    request = events_pb2.GetEventRequest(tenant_id=ingest.tenant, event_id=sample.id)
    request.unseal.requested_by = "ann@example.com"
    assert await status_of(ingest.events.GetEvent(request)) is grpc.StatusCode.INVALID_ARGUMENT
    request.unseal.CopyFrom(BY_ANN)
    privacy = privacy_pb2_grpc.PrivacyServiceStub(ingest.channel)
    await privacy.ShredTenant(
        privacy_pb2.ShredTenantRequest(tenant_id=ingest.tenant, requested_by="ann", reason="they left")
    )
    assert await status_of(ingest.events.GetEvent(request)) is grpc.StatusCode.FAILED_PRECONDITION
    request.ClearField("unseal")
    found = (await ingest.events.GetEvent(request)).event
    assert (dict(found.properties), list(found.sealed_properties)) == ({"page": "/cart"}, ["email"])


@dataclass
class History:
    """A tenant with some days of events."""

    ingest: RunningIngest
    samples: list[Sample]

    @property
    def oldest(self) -> int:
        return min(sample.time_us for sample in self.samples)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def history(shared_ingest: RunningIngest) -> History:
    """Reports batches with short, long and nested spans, some at equal times. The tests only read them."""
    ingest = await new_tenant(shared_ingest)
    chance = random.Random(41)
    now = now_us() // 1_000_000 * 1_000_000 - 60_000_000
    samples: list[Sample] = []
    for number in range(40):
        begin = now - chance.choice([0, 1, 5, 48]) * HOUR_US - chance.randrange(600) * 1_000_000
        length = chance.choice([1, 30, 5_000, 100_000])
        batch = [
            Sample(
                subject=f"u{chance.randrange(3)}",
                dimensions={"region": chance.choice(["eu", "us"])},
                time_us=begin - chance.randrange(length) * 1_000_000,
            )
            for _ in range(chance.randrange(1, 30))
        ]
        await ingest.report(ingest.rows(*batch, source=f"s{number % 2}"))
        samples += batch
    return History(ingest, samples)


def in_order(samples: list[Sample]) -> list[str]:
    return [sample.id for sample in sorted(samples, key=lambda sample: (sample.time_us, sample.id))]


@pytest.mark.req("S3")
async def test_range_is_listed_in_order_of_time_with_pages_of_any_size(history: History) -> None:
    ingest, oldest = history.ingest, history.oldest
    for size in (1_000, 100, 17):
        assert await all_of(ingest, listing(ingest.tenant, oldest, page_size=size)) == in_order(
            history.samples
        )
    middle = sorted(sample.time_us for sample in history.samples)[len(history.samples) // 2]
    request = listing(ingest.tenant, middle, page_size=50)
    request.time.end_time.FromMicroseconds(middle + HOUR_US)
    inside = [sample for sample in history.samples if middle <= sample.time_us < middle + HOUR_US]
    assert await all_of(ingest, request) == in_order(inside)


@pytest.mark.req("S3")
async def test_events_are_listed_by_filters(history: History) -> None:
    ingest, oldest = history.ingest, history.oldest

    def those(wanted: Callable[[Sample], bool]) -> list[str]:
        return in_order([sample for sample in history.samples if wanted(sample)])

    assert await all_of(ingest, listing(ingest.tenant, oldest, subject="u1")) == those(
        lambda each: each.subject == "u1"
    )
    assert await all_of(
        ingest, listing(ingest.tenant, oldest, dimensions={"region": "us"}, subject="u2")
    ) == those(lambda each: each.dimensions["region"] == "us" and each.subject == "u2")
    assert await all_of(ingest, listing(ingest.tenant, oldest, type="api.request")) == in_order(
        history.samples
    )
    assert await all_of(ingest, listing(ingest.tenant, oldest, type="other")) == []
    assert await all_of(ingest, listing(ingest.tenant, oldest, subject="nobody")) == []
    by_source = [
        set(await all_of(ingest, listing(ingest.tenant, oldest, source=source))) for source in ("s0", "s1")
    ]
    assert by_source[0] | by_source[1] == set(in_order(history.samples))
    assert not by_source[0] & by_source[1]


@pytest.mark.req("S3")
async def test_export_equals_the_list_and_resumes_from_any_token(
    monkeypatch: pytest.MonkeyPatch, history: History
) -> None:
    monkeypatch.setattr("meterline_ingest.reading.service.EXPORTED_EVENTS", 50)
    ingest, oldest = history.ingest, history.oldest
    answers = [answer async for answer in ingest.events.ExportEvents(exporting(ingest.tenant, oldest))]
    exported = [event.event_id for answer in answers for event in answer.events]
    assert exported == in_order(history.samples)
    assert [bool(answer.resume_token) for answer in answers] == [True] * (len(answers) - 1) + [False]
    third = answers[2]
    rest = ingest.events.ExportEvents(exporting(ingest.tenant, oldest, resume_token=third.resume_token))
    assert [event.event_id async for answer in rest for event in answer.events] == in_order(history.samples)[
        sum(len(answer.events) for answer in answers[:3]) :
    ]


async def test_answers_are_limited_in_bytes(monkeypatch: pytest.MonkeyPatch, history: History) -> None:
    monkeypatch.setattr("meterline_ingest.reading.api.ANSWER_BYTES", 4_096)
    ingest, oldest = history.ingest, history.oldest
    assert await all_of(ingest, listing(ingest.tenant, oldest, page_size=1_000)) == in_order(history.samples)
    answers = [answer async for answer in ingest.events.ExportEvents(exporting(ingest.tenant, oldest))]
    assert [event.event_id for answer in answers for event in answer.events] == in_order(history.samples)
    assert max(answer.ByteSize() for answer in answers) < 5_000


async def test_cancelled_export_releases_its_connection(
    monkeypatch: pytest.MonkeyPatch, history: History
) -> None:
    monkeypatch.setattr("meterline_ingest.reading.service.EXPORTED_EVENTS", 1)
    ingest, oldest = history.ingest, history.oldest
    for _ in range(20):  # more than the pool has connections
        call = ingest.events.ExportEvents(exporting(ingest.tenant, oldest))
        await call.read()
        call.cancel()
    open_transactions = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND state LIKE 'idle in%%'"
    async with asyncio.timeout(30):
        assert await all_of(ingest, listing(ingest.tenant, oldest, page_size=1_000)) == in_order(
            history.samples
        )
    with psycopg.connect(ingest.database.admin_dsn) as connection:
        assert connection.execute(open_transactions, (ingest.database.name,)).fetchone() == (0,)


@pytest.mark.parametrize(
    "request_",
    [
        events_pb2.ListEventsRequest(),
        listing("", 0, page_token="nonsense"),
        listing("", 0, page_token="WzkyMjMzNzIwMzY4NTQ3NzU4MDcsIngiXQ"),
        listing("", 0, subject="\0"),
        listing("", 0, dimensions={"region": "\0"}),
        listing("", 0, batch_ids=["x"]),
    ],
    ids=["no start", "invalid token", "token of another list", "NUL", "NUL in a value", "invalid UUID"],
)
async def test_invalid_list_requests_are_refused(
    ingest: RunningIngest, request_: events_pb2.ListEventsRequest
) -> None:
    request_.tenant_id = ingest.tenant
    assert await status_of(ingest.events.ListEvents(request_)) is grpc.StatusCode.INVALID_ARGUMENT


async def test_widest_possible_range_is_accepted(ingest: RunningIngest) -> None:
    await ingest.report(ingest.rows(Sample()))
    request = events_pb2.ListEventsRequest(tenant_id=ingest.tenant)
    request.time.start_time.FromDatetime(datetime(1, 1, 1, tzinfo=UTC))
    request.time.end_time.FromDatetime(datetime(9999, 12, 31, tzinfo=UTC))
    assert len((await ingest.events.ListEvents(request)).events) == 1
