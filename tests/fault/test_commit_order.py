"""Fault 5: 32 writers that commit in another order than that of their messages' ids."""

from __future__ import annotations

import asyncio
import sys
import uuid
from typing import Final

import nats
import psycopg
import pytest
from meterline.bus.subjects import EVENTS_ACCEPTED
from meterline_dev.mesh import Mesh

from tests.fault.conftest import Lengths, MakeMesh
from tests.fault.load import Expected, Reporter, assert_exact, is_exact

pytestmark = [pytest.mark.fault, pytest.mark.timeout(600)]

WRITERS: Final = 32
# Large enough that a call does not wait to share its commit.
BATCH: Final = 500
MANY_AT_ONCE: Final = {
    "ingest": {
        "METERLINE_COMMIT_WORKERS": f"{WRITERS}",
        "METERLINE_DATABASE_POOL_SIZE": f"{WRITERS + 8}",
        "METERLINE_COMMIT_WINDOW_MS": "0",
    }
}
# The delay is within the commit, after the ids were assigned.
SLOW_COMMITS: Final = """
CREATE FUNCTION ingest.linger() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_sleep(random() * 0.1);
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER linger AFTER INSERT ON ingest.outbox
DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION ingest.linger();
"""


async def report_in_disorder(mesh: Mesh, expected: Expected, batches: int) -> None:
    """Many concurrent writers, whose commits take random times."""
    with psycopg.connect(mesh.admin_dsn()) as admin:
        admin.execute(SLOW_COMMITS)
    lanes = [Reporter(mesh, expected, batch=BATCH, seed=at) for at in range(WRITERS)]
    await asyncio.gather(*(lane.run(batches * BATCH) for lane in lanes))


async def order_on_stream(mesh: Mesh) -> list[uuid.UUID]:
    """Ids of the messages in the order of the stream."""
    client = await nats.connect(mesh.nats.url)
    try:
        manager = client.jsm()
        last = (await manager.stream_info(EVENTS_ACCEPTED.stream)).state.last_seq
        found = [await manager.get_msg(EVENTS_ACCEPTED.stream, seq) for seq in range(1, last + 1)]
    finally:
        await client.close()
    return [uuid.UUID((message.headers or {})["Nats-Msg-Id"]) for message in found]


@pytest.mark.req("K3", "T7.3", "X7")
async def test_relay_publishes_messages_committed_out_of_order(
    start_mesh: MakeMesh, lengths: Lengths
) -> None:
    expected = Expected()
    async with start_mesh(environment=MANY_AT_ONCE) as mesh:
        await report_in_disorder(mesh, expected, lengths.rounds)
        await assert_exact(mesh, expected)
        ids = await order_on_stream(mesh)
    assert ids != sorted(ids), "all commits were in order, so the test proves nothing"


@pytest.mark.planted
@pytest.mark.req("X7")
async def test_relay_with_a_cursor_is_caught(start_mesh: MakeMesh) -> None:
    expected = Expected()
    programs = {"ingest": [sys.executable, "-m", "tests.fault.planted.cursor_relay"]}
    async with start_mesh(environment=MANY_AT_ONCE, programs=programs) as mesh:
        await report_in_disorder(mesh, expected, 2)
        with pytest.raises(AssertionError, match="not within"):
            await is_exact(mesh, expected, seconds=5)
