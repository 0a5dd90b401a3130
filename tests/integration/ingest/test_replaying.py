"""Replay publishes messages again, from the outbox or rebuilt with the same content."""

from __future__ import annotations

import asyncio
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import psycopg
import pytest
from grpc import aio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from meterline.bus.subjects import EVENTS_ACCEPTED
from meterline_dev.servers import NatsServer
from meterline_protos.ingest.v1 import capture_pb2, event_types_pb2, events_pb2

from tests.support.capture import RunningIngest, Sample, is_known, now_us, rows, running_ingest
from tests.support.capture import published as messages_of
from tests.support.databases import TestDatabase
from tests.support.facts import decoded
from tests.support.polling import eventually

pytestmark = pytest.mark.req("T7.4")

ALWAYS = (datetime.now(UTC) - timedelta(days=1), datetime.now(UTC) + timedelta(days=1))


def outbox(database: TestDatabase) -> dict[uuid.UUID, tuple[Any, ...]]:
    """(subject, payload, whether it is published) of each message, by its id."""
    with psycopg.connect(database.admin_dsn) as connection:
        found = connection.execute(
            "SELECT message_id, subject, payload, published_at IS NOT NULL FROM ingest.outbox"
        ).fetchall()
    return {row[0]: tuple(row[1:]) for row in found}


async def clear_outbox(database: TestDatabase) -> None:
    """Deletes the messages, as upkeep does after a week."""
    await database.change("DELETE FROM ingest.outbox")


async def published(database: TestDatabase) -> bool:
    return all(done for _, _, done in outbox(database).values())


async def replay(ingest: RunningIngest, **chosen: Any) -> int:
    request = events_pb2.ReplayRequest(**chosen)
    if not chosen:
        request.range.start_time.FromDatetime(ALWAYS[0])
        request.range.end_time.FromDatetime(ALWAYS[1])
    return int((await ingest.events.Replay(request)).messages)


@pytest.fixture
async def shop(ingest: RunningIngest) -> RunningIngest:
    """Two tenants, and types with and without details."""
    await ingest.onboard(2, "bolt")
    await eventually(lambda: is_known(ingest, "bolt"))
    kinds = event_types_pb2
    for definition in (
        kinds.EventType(
            name="two",
            quantities=[
                kinds.QuantityDefinition(name="bytes", scale=0),
                kinds.QuantityDefinition(name="units", scale=2),
            ],
            dimensions=[kinds.DimensionDefinition(name="region"), kinds.DimensionDefinition(name="tier")],
        ),
        kinds.EventType(
            name="view",
            quantities=[kinds.QuantityDefinition(name="units", scale=2)],
            dimensions=[kinds.DimensionDefinition(name="region")],
            properties=[
                kinds.PropertyDefinition(name="page", kind=kinds.PROPERTY_KIND_TEXT),
                kinds.PropertyDefinition(name="email", kind=kinds.PROPERTY_KIND_TEXT, sensitive=True),
            ],
            for_identity=True,
        ),
    ):
        await ingest.types.PutEventType(kinds.PutEventTypeRequest(event_type=definition))
    return ingest


texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=4)


@st.composite
def calls(draw: st.DrawFn) -> capture_pb2.ReportRequest:
    """One call with valid events of both tenants; some have text ids, some skewed clocks."""
    request = capture_pb2.ReportRequest(tenant_id="acme", source=draw(st.sampled_from(["a", "b"])))
    for _ in range(draw(st.integers(1, 6))):
        kind = draw(st.sampled_from(["api.request", "two", "view"]))
        event = Sample(
            type=kind,
            tenant_id=draw(st.sampled_from(["", "bolt"])),
            subject=draw(texts),
            dimensions=draw(st.dictionaries(st.sampled_from(["region"]), texts, max_size=1)),
            quantities=draw(
                st.dictionaries(
                    st.sampled_from(["units", "bytes"] if kind == "two" else ["units"]),
                    st.integers(0, 10**9).map(str),
                )
            ),
            time_us=now_us() - draw(st.integers(0, 10**12)),
        ).to_row()
        if draw(st.booleans()):
            event.id = f"text-{uuid.uuid4()}"
        if kind == "view":
            event.properties.update(draw(st.dictionaries(st.sampled_from(["page", "email"]), texts)))
        request.rows.events.append(event)
    if draw(st.booleans()):
        request.sent_at.FromMicroseconds(now_us() - 3_600_000_000)
    return request


@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.lists(calls(), min_size=1, max_size=4))
async def test_rebuilt_message_has_the_original_content(
    shop: RunningIngest, database: TestDatabase, requests: list[capture_pb2.ReportRequest]
) -> None:
    # Concurrently, so that calls share messages.
    answers = await asyncio.gather(*(shop.report(request) for request in requests))
    assert all(not answer.outcomes for answer in answers), answers
    before = outbox(database)
    await clear_outbox(database)

    again = await replay(shop)

    after = outbox(database)
    assert again >= len(before)
    for message_id, (subject, payload, _) in before.items():
        assert after[message_id][0] == subject
        assert decoded(after[message_id][1]) == decoded(payload)
    await clear_outbox(database)
    await database.change("DELETE FROM ingest.batches")


async def test_messages_of_events_and_batches_are_published_again(
    shop: RunningIngest, database: TestDatabase
) -> None:
    first, second = Sample(), Sample(id="order 17")
    answers = [await shop.report(rows(each)) for each in (first, second)]
    await eventually(lambda: published(database))
    kept = outbox(database)
    assert len(kept) == 2

    assert await replay(shop, tenant_id="acme", event_ids=[first.id]) == 1
    assert await replay(shop, tenant_id="acme", event_ids=["order 17"], source="test") == 1
    await eventually(lambda: published(database))
    assert await replay(shop, tenant_id="acme", event_ids=[first.id, "order 17"], source="test") == 2
    await eventually(lambda: published(database))
    assert await replay(shop, tenant_id="acme", batch_ids=[answers[0].batch_id, answers[1].batch_id]) == 2
    await eventually(lambda: published(database))
    assert outbox(database) == kept

    await clear_outbox(database)
    assert await replay(shop, tenant_id="acme", batch_ids=[answers[0].batch_id]) == 1
    await eventually(lambda: published(database))
    ((_, payload, _),) = outbox(database).values()
    assert {event.event_id for event in decoded(payload)[1]} == {uuid.UUID(first.id)}
    assert await replay(shop, tenant_id="acme", event_ids=[first.id, "order 17"], source="test") == 2


async def test_tenant_cannot_replay_messages_of_another(shop: RunningIngest, database: TestDatabase) -> None:
    sample = Sample()
    answer = await shop.report(rows(sample))
    await eventually(lambda: published(database))
    assert await replay(shop, tenant_id="bolt", event_ids=[sample.id]) == 0
    assert await replay(shop, tenant_id="bolt", batch_ids=[answer.batch_id]) == 0


async def test_large_replay_publishes_in_chunks(
    shop: RunningIngest, database: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meterline_ingest.reading.replay.CHUNK", 3)
    for _ in range(8):
        await shop.report(rows(Sample()))
    await eventually(lambda: published(database))
    kept = outbox(database)
    await database.change("DELETE FROM ingest.outbox WHERE message_id = ANY(%s)", sorted(kept)[::2])
    assert await replay(shop) == len(kept)
    assert outbox(database).keys() == kept.keys()


async def test_message_with_deleted_events_is_not_rebuilt(
    shop: RunningIngest, database: TestDatabase
) -> None:
    """A consumer without the original message would count too few events."""
    await shop.report(rows(Sample(), Sample()))
    await eventually(lambda: published(database))
    await clear_outbox(database)
    await database.change(
        "DELETE FROM ingest.events WHERE event_id = (SELECT event_id FROM ingest.events LIMIT 1)"
    )
    with pytest.raises(aio.AioRpcError, match="1 of its events are deleted") as caught:
        await replay(shop)
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert outbox(database) == {}


async def test_replay_reports_messages_that_already_wait(database: TestDatabase, broker: NatsServer) -> None:
    """A replay right after another one publishes nothing, and reports the waiting messages."""
    async with running_ingest(database, broker, relay_linger_ms=600_000) as ingest:
        await ingest.put_type()
        await ingest.onboard(1, "acme")
        await eventually(lambda: is_known(ingest, "acme"))
        batch_id = (await ingest.report(rows(Sample()))).batch_id
        request = events_pb2.ReplayRequest(tenant_id="acme", batch_ids=[batch_id])
        answer = await ingest.events.Replay(request)
        assert (answer.messages, answer.waiting) == (0, 1)
        await database.change("UPDATE ingest.outbox SET published_at = now()")
        answers = [await ingest.events.Replay(request) for _ in range(2)]
        assert [(each.messages, each.waiting) for each in answers] == [(1, 0), (0, 1)]


@pytest.mark.parametrize(
    "request_",
    [
        events_pb2.ReplayRequest(),
        events_pb2.ReplayRequest(tenant_id="acme", event_ids=["a"], batch_ids=[str(uuid.uuid4())]),
        events_pb2.ReplayRequest(tenant_id="acme", batch_ids=["a"]),
        events_pb2.ReplayRequest(tenant_id="acme", event_ids=["a"] * 1_001),
    ],
    ids=["no selection", "two selections", "invalid UUID", "too many"],
)
async def test_replay_needs_exactly_one_valid_selection(
    ingest: RunningIngest, request_: events_pb2.ReplayRequest
) -> None:
    with pytest.raises(aio.AioRpcError) as caught:
        await ingest.events.Replay(request_)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.req("T7.4", "X2")
async def test_replay_publishes_the_same_messages_again(ingest: RunningIngest) -> None:
    await ingest.report(rows(Sample(), Sample()))
    (first,) = await messages_of(ingest, 1)
    await ingest.bus.jetstream().purge_stream(EVENTS_ACCEPTED.stream)
    await ingest.bus.jetstream().delete_stream(EVENTS_ACCEPTED.stream)
    await ingest.bus.ensure_streams(EVENTS_ACCEPTED)
    request = events_pb2.ReplayRequest()
    request.range.start_time.FromMicroseconds(now_us() - 60_000_000)
    request.range.end_time.FromMicroseconds(now_us() + 60_000_000)

    response = await ingest.events.Replay(request)

    assert response.messages == 1
    assert await messages_of(ingest, 1) == [first]
