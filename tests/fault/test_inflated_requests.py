"""Fault 26, the large ones: no request holds the event loop of its service for long, whatever fills it, since
everybody else would wait.

Every RPC of every service is called with honest requests of which one field is as large as a request may be.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
from google.protobuf.message import Message
from meterline_dev.mesh import SERVICES
from meterline_dev.testing import scratch_directory
from meterline_protos.ingest.v1 import capture_pb2

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
# Whoever is turned away at the door holds nothing, and proves nothing.
UNPROVEN: Final = FAULTS | {"UNAUTHENTICATED", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED"}
TOO_LARGE: Final = re.compile("request: at most [0-9,]+ bytes")
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
            (shot, *_) = honest_shots([rpc], {rpc.name: [honest]})
            for name, sent in sent_for(world, honest, most or RULES[method].max_bytes):
                yield f"{rpc.name} {name}", Shot(rpc, shot.service, (sent,), 0)


def sent_for(world: World, honest: Message, most: int) -> Iterator[tuple[str, bytes]]:
    """What is signed is inflated before: a wrong proof would be all that its service looks at."""
    if not isinstance(honest, capture_pb2.ReportSignedRequest):
        yield from inflated(honest, most)
        return
    around = honest.ByteSize() - len(honest.body)
    for name, body in inflated(capture_pb2.ReportRequest.FromString(honest.body), most - around):
        yield f"body.{name}", world.client.request(body).SerializeToString()


def first_of(honest: list[Message]) -> list[Message]:
    """One of each set of fields: other values of the same fields are inflated alike."""
    by_fields = {tuple(field.name for field, _ in each.ListFields()): each for each in honest}
    return list(by_fields.values())


async def hold(
    gun: Gun, directory: Path, shots: Iterator[tuple[str, Shot]], limit: float
) -> tuple[list[Held], list[str]]:
    """The longest step of a loop for each request that took one, and which calls were faults or turned away
    unread.

    limit: in seconds; what held a loop for longer is sent again, and its shortest time counts, since work is
        as long each time, and what else a machine does is not
    """
    held, faults = [], []
    for name, shot in shots:
        code, details, longest = await fire(gun, directory / shot.service, name, shot)
        if code in UNPROVEN or TOO_LARGE.fullmatch(details):
            faults.append(f"{name}: {code} {details}")
        for _ in range(2):
            if longest.seconds > limit:
                *_, again = await fire(gun, directory / shot.service, name, shot)
                longest = min(longest, again, key=lambda each: each.seconds)
        held.append(longest)
    return held, faults


async def fire(gun: Gun, path: Path, name: str, shot: Shot) -> tuple[str, str, Held]:
    """Status, its text, and the longest step that the service noted in `path`."""
    taken(path)
    code, details = await gun.fire(shot)
    found = [Held(step["seconds"], step["by"], name) for step in taken(path)]
    return code, details, max(found, key=lambda each: each.seconds, default=Held(0, "", name))


def taken(path: Path) -> list[dict[str, Any]]:
    """The steps that were noted, which are then forgotten."""
    steps = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    path.unlink(missing_ok=True)
    return steps


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
            held, faults = await hold(gun, directory, shots(world, all_rpcs()), ALLOWED * unit)
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
            held, _ = await hold(gun, directory, shots(world, rpcs, most=4 << 20), ALLOWED * unit)
    assert max(each.seconds for each in held) > ALLOWED * unit
