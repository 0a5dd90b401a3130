"""Timers on real servers: each becomes one event, also after failures and repeated calls."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import psycopg
import pytest
from grpc.aio import AioRpcError
from meterline_dev.servers import NatsServer
from meterline_protos.ingest.v1 import event_types_pb2 as types_pb
from meterline_protos.ingest.v1 import events_pb2, timers_pb2, timers_pb2_grpc

from tests.support.capture import RunningIngest, is_known, running_ingest, stored
from tests.support.databases import TestDatabase
from tests.support.polling import eventually

pytestmark = pytest.mark.req("T6.3")


def stub(ingest: RunningIngest) -> timers_pb2_grpc.TimersServiceAsyncStub:
    return timers_pb2_grpc.TimersServiceStub(ingest.channel)


async def put_type(ingest: RunningIngest, name: str = "call", **policy: Any) -> None:
    timer: dict[str, Any] = {
        "quantity": "seconds",
        "abandoned_after_seconds": 60,
        "when_abandoned": types_pb.ABANDONED_TIMER_COUNT_TO_HEARTBEAT,
    } | policy
    await ingest.types.PutEventType(
        types_pb.PutEventTypeRequest(
            event_type=types_pb.EventType(
                name=name,
                quantities=[types_pb.QuantityDefinition(name="seconds", scale=6)],
                dimensions=[types_pb.DimensionDefinition(name="region", values=["eu", "us"])],
                timer=types_pb.TimerPolicy(**timer),
            )
        )
    )


def request(timer_id: str = "t1", **more: Any) -> timers_pb2.StartTimerRequest:
    fields = {"tenant_id": "acme", "source": "pbx", "type": "call", "subject": "u1"} | more
    return timers_pb2.StartTimerRequest(timer_id=timer_id, **fields)


def stop_request(timer_id: str = "t1") -> timers_pb2.StopTimerRequest:
    return timers_pb2.StopTimerRequest(tenant_id="acme", timer_id=timer_id)


async def get(ingest: RunningIngest, timer_id: str = "t1") -> timers_pb2.Timer:
    wanted = timers_pb2.GetTimerRequest(tenant_id="acme", timer_id=timer_id)
    return (await stub(ingest).GetTimer(wanted)).timer


async def event(ingest: RunningIngest, event_id: str) -> events_pb2.StoredEvent:
    found = await ingest.events.GetEvent(events_pb2.GetEventRequest(tenant_id="acme", event_id=event_id))
    return found.event


async def age(database: TestDatabase, seconds: int) -> None:
    """Moves all timers into the past."""
    await database.change(
        "UPDATE ingest.timers SET started_at = started_at - past, due_at = due_at - past,"
        " last_heartbeat_at = last_heartbeat_at - past FROM make_interval(secs => %s) AS past",
        seconds,
    )


@pytest.fixture
async def timing(ingest: RunningIngest) -> RunningIngest:
    await put_type(ingest)
    return ingest


async def test_stopped_timer_becomes_one_event(timing: RunningIngest, database: TestDatabase) -> None:
    first = await stub(timing).StartTimer(request(dimensions={"region": "eu"}))
    await age(database, 90)
    answers = [await stub(timing).StopTimer(stop_request()) for _ in range(3)]

    assert first.created
    (timer,) = {
        answer.timer.SerializeToString(deterministic=True): answer.timer for answer in answers
    }.values()
    assert timer.state == timers_pb2.TIMER_STATE_STOPPED
    assert 90 <= float(timer.seconds) < 150
    kept = await event(timing, timer.event_id)
    assert (kept.type, kept.subject, dict(kept.dimensions)) == ("call", "u1", {"region": "eu"})
    assert dict(kept.quantities) == {"seconds": timer.seconds}
    assert kept.time == timer.stopped_at
    assert await stored(timing) == 1


async def test_timer_can_be_reported_after_its_end(timing: RunningIngest) -> None:
    now = datetime.now(UTC)
    begun = request()
    begun.started_at.FromDatetime(now - timedelta(hours=2))
    await stub(timing).StartTimer(begun)
    over = stop_request()
    over.stopped_at.FromDatetime(now - timedelta(hours=1))
    timer = (await stub(timing).StopTimer(over)).timer
    assert (timer.state, timer.seconds) == (timers_pb2.TIMER_STATE_STOPPED, "3600")
    kept = await event(timing, timer.event_id)
    assert (kept.time, dict(kept.quantities)) == (over.stopped_at, {"seconds": "3600"})


async def test_repeated_start_is_idempotent_and_a_different_start_is_refused(timing: RunningIngest) -> None:
    first = await stub(timing).StartTimer(request())
    again = await stub(timing).StartTimer(request())
    assert (first.created, again.created, first.timer) == (True, False, again.timer)
    with pytest.raises(AioRpcError) as conflict:
        await stub(timing).StartTimer(request(subject="u2"))
    assert conflict.value.code() == grpc.StatusCode.ALREADY_EXISTS


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"type": "api.request"}, "type"),
        ({"type": "nothing"}, "type"),
        ({"source": ""}, "source"),
        ({"timer_id": ""}, "timer_id"),
        ({"dimensions": {"region": "mars"}}, "dimensions.region"),
        ({"quantities": {"seconds": "5"}}, "quantities.seconds"),
        ({"subject": "x" * 300}, "subject"),
        ({"properties": {"unknown": "1"}}, "properties.unknown"),
    ],
    ids=str,
)
async def test_timer_of_an_invalid_event_does_not_start(
    timing: RunningIngest, more: dict[str, Any], field: str
) -> None:
    with pytest.raises(AioRpcError) as refused:
        await stub(timing).StartTimer(request(**more))
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert (refused.value.details() or "").startswith(f"{field}: ")


@pytest.mark.req("T7.3")
async def test_timer_started_on_one_replica_stops_on_another(
    database: TestDatabase, broker: NatsServer, timing: RunningIngest
) -> None:
    await stub(timing).StartTimer(request())
    async with running_ingest(database, broker) as other:
        await eventually(lambda: is_known(other, "acme"))
        answer = await stub(other).StopTimer(stop_request())
    assert answer.timer.state == timers_pb2.TIMER_STATE_STOPPED


async def test_abandoned_timer_counts_until_its_last_heartbeat_and_is_flagged(
    timing: RunningIngest, database: TestDatabase
) -> None:
    await stub(timing).StartTimer(request())
    await age(database, 30)
    beat = timers_pb2.HeartbeatTimerRequest(tenant_id="acme", timer_id="t1")
    beaten = (await stub(timing).HeartbeatTimer(beat)).timer
    await age(database, 61)
    # Another timer that is due at once wakes the sweep, which otherwise runs within half a minute.
    await put_type(timing, "blink", abandoned_after_seconds=1)
    await stub(timing).StartTimer(request("t2", type="blink"))

    async def is_abandoned() -> bool:
        return (await get(timing)).state == timers_pb2.TIMER_STATE_ABANDONED

    await eventually(is_abandoned, seconds=40)
    timer = await get(timing)
    counted = beaten.last_heartbeat_at.ToMicroseconds() - beaten.started_at.ToMicroseconds()
    assert float(timer.seconds) == pytest.approx(counted / 1e6)
    with psycopg.connect(database.admin_dsn) as connection:
        rows = connection.execute(
            "SELECT flags FROM ingest.event_details WHERE event_id = %s", (timer.event_id,)
        ).fetchall()
    assert rows == [(["abandoned"],)]
    for call in (stub(timing).HeartbeatTimer(beat), stub(timing).StopTimer(stop_request())):
        with pytest.raises(AioRpcError) as late:
            await call
        assert late.value.code() == grpc.StatusCode.FAILED_PRECONDITION


async def test_timer_of_a_rejected_event_waits_with_the_reason(
    timing: RunningIngest, database: TestDatabase
) -> None:
    await stub(timing).StartTimer(request(dimensions={"region": "eu"}))
    await timing.types.PutEventType(
        types_pb.PutEventTypeRequest(
            event_type=types_pb.EventType(
                name="call",
                quantities=[types_pb.QuantityDefinition(name="seconds", scale=6)],
                dimensions=[types_pb.DimensionDefinition(name="region", values=["us"])],
                timer=types_pb.TimerPolicy(quantity="seconds", abandoned_after_seconds=60, when_abandoned=1),  # type: ignore[arg-type]
            )
        )
    )
    waiting = (await stub(timing).StopTimer(stop_request())).timer
    assert waiting.state == timers_pb2.TIMER_STATE_STOPPING
    assert waiting.problem.startswith("DIMENSION_NOT_ALLOWED: dimensions.region")
    await put_type(timing)
    settled = (await stub(timing).StopTimer(stop_request())).timer
    assert (settled.state, settled.problem) == (timers_pb2.TIMER_STATE_STOPPED, "")
    assert settled.stopped_at == waiting.stopped_at
    assert await stored(timing) == 1


async def test_concurrent_stops_make_one_event(timing: RunningIngest) -> None:
    await stub(timing).StartTimer(request())
    answers = await asyncio.gather(*(stub(timing).StopTimer(stop_request()) for _ in range(20)))
    assert len({answer.timer.event_id for answer in answers}) == 1
    assert len({answer.timer.seconds for answer in answers}) == 1
    assert await stored(timing) == 1


async def test_running_timers_of_a_tenant_are_limited(database: TestDatabase, broker: NatsServer) -> None:
    async with running_ingest(database, broker, max_running_timers_per_tenant=2) as few:
        await few.onboard(1, "acme")
        await eventually(lambda: is_known(few, "acme"))
        await put_type(few)
        for name in ("a", "b"):
            await stub(few).StartTimer(request(name))
        with pytest.raises(AioRpcError) as full:
            await stub(few).StartTimer(request("c"))
        assert full.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert not (await stub(few).StartTimer(request("a"))).created


async def test_repeated_start_is_idempotent_after_the_type_was_archived(
    timing: RunningIngest,
) -> None:
    first = await stub(timing).StartTimer(request())
    await timing.types.ArchiveEventType(types_pb.ArchiveEventTypeRequest(name="call"))
    again = await stub(timing).StartTimer(request())
    assert (again.created, again.timer) == (False, first.timer)
    with pytest.raises(AioRpcError):
        await stub(timing).StartTimer(request("t2"))


async def test_timers_are_listed_by_name_and_filters(timing: RunningIngest) -> None:
    for name in ("c", "a", "b"):
        await stub(timing).StartTimer(request(name, subject=f"of-{name}"))
    await stub(timing).StopTimer(stop_request("a"))
    listing = timers_pb2.ListTimersRequest(tenant_id="acme", page_size=2)
    page = await stub(timing).ListTimers(listing)
    assert [each.timer_id for each in page.timers] == ["a", "b"]
    listing.page_token = page.next_page_token
    assert [each.timer_id for each in (await stub(timing).ListTimers(listing)).timers] == ["c"]
    running = timers_pb2.ListTimersRequest(tenant_id="acme", state=timers_pb2.TIMER_STATE_RUNNING)
    assert [each.timer_id for each in (await stub(timing).ListTimers(running)).timers] == ["b", "c"]
    of_c = timers_pb2.ListTimersRequest(tenant_id="acme", subject="of-c")
    assert [each.timer_id for each in (await stub(timing).ListTimers(of_c)).timers] == ["c"]


@pytest.mark.req("T4.1")
async def test_timer_of_another_tenant_is_not_found(timing: RunningIngest) -> None:
    await timing.onboard(2, "bolt")
    await eventually(lambda: is_known(timing, "bolt"))
    await stub(timing).StartTimer(request())
    for call in (
        stub(timing).GetTimer(timers_pb2.GetTimerRequest(tenant_id="bolt", timer_id="t1")),
        stub(timing).StopTimer(timers_pb2.StopTimerRequest(tenant_id="bolt", timer_id="t1")),
    ):
        with pytest.raises(AioRpcError) as hidden:
            await call
        assert hidden.value.code() == grpc.StatusCode.NOT_FOUND
