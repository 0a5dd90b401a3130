"""Fault 26, the large ones: no request holds the event loop of its service for long, whatever fills it, since
everybody else would wait.

Every RPC of every service is called with honest requests of which one field is as large as a request may be.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
from google.protobuf.message import Message
from meterline_dev.mesh import SERVICES
from meterline_dev.testing import scratch_directory

from tests.fault.conftest import MakeMesh
from tests.fault.figures import tell
from tests.fault.fuzzing import FAULTS, RULES, Gun, Shot, honest_shots
from tests.fault.honest import requests
from tests.fault.honest_world import World, build
from tests.fault.inflation import inflated
from tests.fault.strangers import Rpc, all_rpcs
from tests.support.loop_hold import reference_seconds

pytestmark = [pytest.mark.fault, pytest.mark.timeout(900), pytest.mark.req("T2.4", "T8.3")]

# In units of `reference_seconds`: 50 ms where the unit is 10.
ALLOWED: Final = 5.0
ENVIRONMENT: Final = {"publisher": {"METERLINE_PUBLISH_WAIT_SECONDS": "0.2"}}


@dataclass(frozen=True)
class Held:
    """What held a service's loop while a request was served."""

    seconds: float
    by: str
    request: str


def shots(world: World, rpcs: list[Rpc], most: int = 0) -> Iterator[tuple[str, Shot]]:
    """most: bytes of a request; 0 stands for what the rule of its RPC allows"""
    everything = all_rpcs()
    for rpc in rpcs:
        method = f"{rpc.method.containing_service.full_name}/{rpc.method.name}"
        for honest in first_of(requests(world, everything)[rpc.name]):
            for name, sent in inflated(honest, most or RULES[method].max_bytes):
                (shot, *_) = honest_shots([rpc], {rpc.name: [honest]})
                yield f"{rpc.name} {name}", Shot(rpc, shot.service, (sent,), 0)


def first_of(honest: list[Message]) -> list[Message]:
    """One of each set of fields: other values of the same fields are inflated alike."""
    by_fields = {tuple(field.name for field, _ in each.ListFields()): each for each in honest}
    return list(by_fields.values())


async def hold(gun: Gun, directory: Path, shots: Iterator[tuple[str, Shot]]) -> tuple[list[Held], list[str]]:
    """What held loops, and which calls were faults."""
    held, faults = [], []
    for name, shot in shots:
        path = directory / shot.service
        path.unlink(missing_ok=True)
        code, details = await gun.fire(shot)
        if code in FAULTS:
            faults.append(f"{name}: {code} {details}")
        if path.exists():
            steps = [json.loads(line) for line in path.read_text().splitlines()]
            held += [Held(step["seconds"], step["by"], name) for step in steps]
    return held, faults


async def test_no_inflated_request_holds_a_loop(start_mesh: MakeMesh) -> None:
    with scratch_directory() as directory:
        programs = {
            name: [sys.executable, "-m", "tests.fault.watched", name, str(directory / name)]
            for name in SERVICES
        }
        options = {"services": SERVICES, "environment": ENVIRONMENT, "programs": programs}
        async with start_mesh(**options) as mesh, Gun.of(mesh) as gun:
            world = await build(mesh)
            unit = reference_seconds()
            held, faults = await hold(gun, directory, shots(world, all_rpcs()))
    longest = sorted(held, key=lambda each: each.seconds, reverse=True)
    tell("\n".join(f"{each.seconds / unit:.1f} {each.by} {each.request}" for each in longest[:20]))
    assert faults == []
    assert [each for each in longest if each.seconds > ALLOWED * unit] == []


@pytest.mark.planted
async def test_parsing_what_is_too_large_is_caught(start_mesh: MakeMesh) -> None:
    rpcs = [rpc for rpc in all_rpcs() if rpc.name == "ingest.v1.CatalogueService/PutEntries"]
    with scratch_directory() as directory:
        programs = {
            "ingest": [sys.executable, "-m", "tests.fault.planted.reads_any_size", str(directory / "ingest")]
        }
        async with start_mesh(services=SERVICES, programs=programs) as mesh, Gun.of(mesh) as gun:
            world = await build(mesh)
            unit = reference_seconds()
            held, _ = await hold(gun, directory, shots(world, rpcs, most=4 << 20))
    assert max(each.seconds for each in held) > ALLOWED * unit
