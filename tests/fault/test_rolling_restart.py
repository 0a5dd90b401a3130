"""Fault 13: ingest is restarted one replica at a time under load, and no call fails."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import Final

import pytest
from grpc import aio
from meterline_dev import channels
from meterline_dev.mesh import Mesh

from tests.fault.conftest import Lengths, MakeMesh
from tests.fault.load import Expected, Reporter, assert_exact

pytestmark = [pytest.mark.fault, pytest.mark.timeout(600)]

# A call that a stopping replica has not begun ends with one of these, and is retried on another replica: here
# and in the client library, and in no other layer.
RETRIES: Final = {
    "methodConfig": [
        {
            "name": [{}],
            "retryPolicy": {
                "maxAttempts": 5,
                "initialBackoff": "0.05s",
                "maxBackoff": "0.5s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"],
            },
        }
    ]
}
SECOND: Final = "ingest-second"
DRAINED: Final = {"METERLINE_SHUTDOWN_DRAIN_SECONDS": "0.2"}


class Balanced(Reporter):
    """Uses all replicas, round robin."""

    retries = True

    def _channel(self) -> aio.Channel:
        config: dict[str, object] = {"loadBalancingConfig": [{"round_robin": {}}]}
        both = ",".join(self._mesh.address(name) for name in ("ingest", SECOND))
        return channels.channel(
            f"ipv4:{both}",
            self._mesh.token,
            [
                ("grpc.service_config", json.dumps(config | (RETRIES if self.retries else {}))),
                ("grpc.use_local_subchannel_pool", 1),
                ("grpc.initial_reconnect_backoff_ms", 50),
                ("grpc.max_reconnect_backoff_ms", 200),
            ],
        )


class Unretried(Balanced):
    retries = False


async def roll(
    mesh: Mesh, expected: Expected, rounds: int, kind: type[Balanced], *, kill: bool = False
) -> Counter[str]:
    """Restarts both replicas alternately; returns the failures of calls."""
    await mesh.start_replica("ingest", SECOND)
    reporters = [kind(mesh, expected, batch=20, seed=at) for at in range(6)]
    stop = asyncio.Event()
    load = [asyncio.create_task(reporter.run_until(stop)) for reporter in reporters]
    for _ in range(rounds):
        for name in ("ingest", SECOND):
            await asyncio.gather(*(reporter.more(40) for reporter in reporters))
            await (mesh.supervisor.kill(name) if kill else mesh.supervisor.stop(name))
            await (mesh.start_replica("ingest", SECOND) if name == SECOND else mesh.start_service("ingest"))
    await asyncio.gather(*(reporter.more(40) for reporter in reporters))
    stop.set()
    await asyncio.gather(*load)
    return sum((reporter.failures for reporter in reporters), Counter())


@pytest.mark.req("T7.3", "K5", "X7")
async def test_no_call_fails_during_a_rolling_restart(start_mesh: MakeMesh, lengths: Lengths) -> None:
    expected = Expected()
    async with start_mesh(environment={"ingest": DRAINED}) as mesh:
        assert await roll(mesh, expected, 1 if lengths.rounds <= 3 else 5, Balanced) == {}
        await assert_exact(mesh, expected)


@pytest.mark.planted
@pytest.mark.req("X7")
async def test_killed_replicas_are_caught(start_mesh: MakeMesh) -> None:
    """The planted bug: replicas are not drained, and clients do not retry. Even so no event is lost."""
    expected = Expected()
    async with start_mesh() as mesh:
        assert await roll(mesh, expected, 2, Unretried, kill=True)
        await assert_exact(mesh, expected)
