"""Faults 4 and 7: the broker loses its messages, or redelivers all of them."""

from __future__ import annotations

import asyncio
import sys
import time
from functools import partial

import nats
import psycopg
import pytest
from meterline.bus.subjects import EVENTS_ACCEPTED
from meterline_dev.mesh import Mesh
from meterline_protos.ingest.v1 import events_pb2, events_pb2_grpc

from tests.fault.conftest import Lengths, MakeMesh
from tests.fault.load import Expected, Reporter, assert_exact, is_exact
from tests.support.polling import eventually

pytestmark = [pytest.mark.fault, pytest.mark.timeout(600)]


async def replay_everything(mesh: Mesh) -> int:
    """Has ingest republish its messages; returns their number, without those that are still unpublished.

    A message may be on the stream and still count as unpublished: the relay marks it afterwards.
    """
    return await eventually(partial(replay, mesh))


async def replay(mesh: Mesh) -> int:
    """Like `replay_everything`, but only once, also if it republishes nothing."""
    request = events_pb2.ReplayRequest()
    request.range.start_time.FromSeconds(int(time.time()) - 3_600)
    request.range.end_time.FromSeconds(int(time.time()) + 3_600)
    async with mesh.channel("ingest") as channel:
        answer = await events_pb2_grpc.EventsServiceStub(channel).Replay(request, wait_for_ready=True)
    return int(answer.messages)


async def messages_on_stream(mesh: Mesh) -> int:
    client = await nats.connect(mesh.nats.url)
    try:
        return (await client.jetstream().stream_info(EVENTS_ACCEPTED.stream)).state.last_seq
    finally:
        await client.close()


async def grown_to(mesh: Mesh, last: int) -> bool:
    return await messages_on_stream(mesh) >= last


async def forget_message_ids(mesh: Mesh) -> None:
    """Shrinks the broker's duplicate window to almost nothing, as if days had passed."""
    client = await nats.connect(mesh.nats.url)
    try:
        config = (await client.jetstream().stream_info(EVENTS_ACCEPTED.stream)).config
        config.duplicate_window = 0.1
        await client.jetstream().update_stream(config)
    finally:
        await client.close()


async def report_and_replay(mesh: Mesh, expected: Expected, lengths: Lengths, *, times: int) -> bool:
    await forget_message_ids(mesh)
    await Reporter(mesh, expected).run(lengths.events)
    assert await is_exact(mesh, expected)
    for _ in range(times):
        before = await messages_on_stream(mesh)
        replayed = await replay_everything(mesh)
        await eventually(partial(grown_to, mesh, before + replayed), seconds=60)
    return await is_exact(mesh, expected)


@pytest.mark.req("T3.1", "T7.4", "X7")
async def test_three_replays_of_the_whole_stream_change_nothing(
    start_mesh: MakeMesh, lengths: Lengths
) -> None:
    expected = Expected()
    async with start_mesh() as mesh:
        assert await report_and_replay(mesh, expected, lengths, times=3)


@pytest.mark.planted
@pytest.mark.req("X7")
async def test_inbox_without_its_key_is_caught(start_mesh: MakeMesh) -> None:
    expected = Expected()
    program = [sys.executable, "-m", "tests.fault.planted.inbox_without_key"]
    async with start_mesh(programs={"aggregate": program}) as mesh:
        assert not await report_and_replay(mesh, expected, Lengths(200, 1), times=1)


def allow_forgetting(mesh: Mesh) -> None:
    """Grants ingest the right to delete from its outbox, which it lacks: only the owner drops old days."""
    with psycopg.connect(mesh.admin_dsn()) as connection:
        connection.execute("GRANT DELETE ON ingest.outbox TO meterline_ingest")


async def wipe_under_load(mesh: Mesh, expected: Expected, lengths: Lengths) -> None:
    """Deletes JetStream's directory, including consumers, while events arrive."""
    reporter, stop = Reporter(mesh, expected), asyncio.Event()
    load = asyncio.create_task(reporter.run_until(stop))
    await reporter.more(lengths.events // 2)
    # While aggregate is stopped messages pile up on the stream, so that the wipe loses some.
    await mesh.supervisor.stop("aggregate")
    await reporter.more(200)
    await asyncio.to_thread(mesh.nats.kill)
    await asyncio.to_thread(mesh.nats.wipe)
    await asyncio.to_thread(mesh.nats.start)
    await mesh.start_service("aggregate")
    await reporter.more(lengths.events // 2)
    stop.set()
    await load


@pytest.mark.req("T7.3", "T7.4", "X7")
async def test_replay_restores_messages_of_a_wiped_broker(start_mesh: MakeMesh, lengths: Lengths) -> None:
    expected = Expected()
    async with start_mesh() as mesh:
        await wipe_under_load(mesh, expected, lengths)
        assert not await is_exact(mesh, expected), "nothing was lost, so the test proves nothing"
        await replay_everything(mesh)
        await assert_exact(mesh, expected)


@pytest.mark.req("T7.4")
async def test_replay_rebuilds_messages_dropped_from_the_outbox(start_mesh: MakeMesh) -> None:
    """As after the outbox's retention: only raw events remain."""
    expected = Expected()
    program = [sys.executable, "-m", "tests.fault.planted.forgetful_outbox"]
    async with start_mesh(programs={"ingest": program}) as mesh:
        allow_forgetting(mesh)
        await wipe_under_load(mesh, expected, Lengths(400, 1))
        assert not await is_exact(mesh, expected), "nothing was lost, so the test proves nothing"
        await replay_everything(mesh)
        await assert_exact(mesh, expected)


@pytest.mark.planted
@pytest.mark.req("X7")
async def test_replay_of_the_outbox_alone_is_caught(start_mesh: MakeMesh) -> None:
    expected = Expected()
    program = [sys.executable, "-m", "tests.fault.planted.replay_from_outbox"]
    async with start_mesh(programs={"ingest": program}) as mesh:
        allow_forgetting(mesh)
        await wipe_under_load(mesh, expected, Lengths(400, 1))
        await replay(mesh)
        assert not await is_exact(mesh, expected)
