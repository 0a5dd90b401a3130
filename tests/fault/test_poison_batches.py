"""Fault 16: one tenant's calls cannot be decoded, and share messages with calls of others."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import psycopg
import pytest
from meterline import crashpoints
from meterline_dev.mesh import Mesh

from tests.fault.conftest import Lengths, MakeMesh
from tests.fault.load import TENANTS, Expected, Reporter, counted, dead_letters, wait_until_settled
from tests.fault.planted.refuse_a_tenant import REASON
from tests.fault.test_poison import letters, planted, redrive_all, release
from tests.fault.test_redelivery import forget_message_ids, replay_everything
from tests.support.polling import eventually

pytestmark = [pytest.mark.fault, pytest.mark.timeout(600), pytest.mark.req("T3.1", "O2", "X7")]

*VICTIMS, CULPRIT = TENANTS
# Concurrent callers, whose calls share commits.
CALLERS = 8
POINTS = [point for point in crashpoints.ALL if point.startswith("bus.parts.")]


def number_of(mesh: Mesh, tenant: str) -> int:
    with psycopg.connect(mesh.admin_dsn()) as connection:
        row = connection.execute(
            "SELECT tenant_id FROM aggregate.tenants WHERE slug = %s", (tenant,)
        ).fetchone()
    return int(row[0]) if row else 0


async def report(mesh: Mesh, expected: Expected, events: int) -> None:
    """Sends calls of all tenants, several at a time."""
    reporters = [Reporter(mesh, expected, batch=5, seed=seed) for seed in range(CALLERS)]
    await asyncio.gather(*(reporter.run(events // CALLERS) for reporter in reporters))


async def refuse(mesh: Mesh, *more: str) -> None:
    """Replaces aggregate by a release that cannot decode events of the culprit."""
    number = await eventually(lambda: number_of(mesh, CULPRIT))
    await release(mesh, *planted("refuse_a_tenant", str(number), *more))


async def report_with_kills(mesh: Mesh, expected: Expected, events: int, points: Sequence[str]) -> None:
    """Reports while aggregate is killed at each crash point of splitting messages."""
    for point in points:
        await mesh.supervisor.stop("aggregate")
        await mesh.start_service("aggregate", METERLINE_CRASH_AT=f"{point}:2")
        dies = asyncio.ensure_future(mesh.supervisor.exited("aggregate"))
        while not dies.done():
            await report(mesh, expected, 200)
        assert await dies == -9
        await mesh.start_service("aggregate")
    await report(mesh, expected, events)
    await wait_until_settled(mesh)


async def only_the_culprit_is_buried(mesh: Mesh, expected: Expected) -> bool:
    """Whether all events of the others have been counted, and none of the culprit."""
    usage = expected.usage()
    found = await counted(mesh)
    assert dead_letters(mesh) > 0
    assert {reason for _, reason, _ in letters(mesh)} == {REASON}
    return found == {tenant: usage[tenant] if tenant in VICTIMS else (0, 0) for tenant in TENANTS}


async def replay(mesh: Mesh) -> None:
    await forget_message_ids(mesh)
    await replay_everything(mesh)
    await wait_until_settled(mesh)


@pytest.mark.req("K3", "T7.3", "O9")
@pytest.mark.parametrize("way", ["redrive", "replay"])
async def test_calls_of_others_count_and_buried_parts_are_redriven_once(
    start_mesh: MakeMesh, lengths: Lengths, way: str
) -> None:
    expected = Expected()
    async with start_mesh(programs={}) as mesh:
        await refuse(mesh)
        points = POINTS if lengths.rounds > 3 else POINTS[:1] if way == "redrive" else POINTS[1:]
        await report_with_kills(mesh, expected, lengths.events, points)
        assert await only_the_culprit_is_buried(mesh, expected)
        await replay(mesh)
        assert await only_the_culprit_is_buried(mesh, expected)

        await release(mesh)
        if way == "redrive":
            await asyncio.gather(*(redrive_all(mesh) for _ in range(3)))
        await replay(mesh)
        assert await counted(mesh) == expected.usage()
        assert dead_letters(mesh) == 0
        await replay(mesh)
        assert await counted(mesh) == expected.usage()


@pytest.mark.planted
async def test_burying_the_whole_message_is_caught(start_mesh: MakeMesh) -> None:
    expected = Expected()
    async with start_mesh(programs={}) as mesh:
        await refuse(mesh, "whole")
        await report_with_kills(mesh, expected, 800, [])
        assert not await only_the_culprit_is_buried(mesh, expected)


@pytest.mark.planted
async def test_treating_a_resent_message_as_a_duplicate_is_caught(start_mesh: MakeMesh) -> None:
    expected = Expected()
    async with start_mesh(programs={}) as mesh:
        await refuse(mesh)
        await report_with_kills(mesh, expected, 800, [])
        # A number of no tenant, so that the release refuses nothing any more.
        await release(mesh, *planted("refuse_a_tenant", "0", "forgetful"))
        await replay(mesh)
        assert await counted(mesh) != expected.usage()
