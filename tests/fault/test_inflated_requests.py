"""Fault 26, large requests: no request blocks the event loop of its service for long, since all other calls
would wait.

Every RPC of every service is called with valid requests in which one field has the maximal size.
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
from tests.fault.figures import report_figures
from tests.fault.foreign_requests import Rpc, all_rpcs
from tests.fault.fuzzing import FAULTS, RULES, FuzzCall, FuzzClient, valid_calls
from tests.fault.inflation import inflated
from tests.fault.request_world import World, build
from tests.fault.valid_requests import requests
from tests.support.loop_hold import reference_seconds

pytestmark = [pytest.mark.fault, pytest.mark.timeout(900), pytest.mark.req("T2.4", "T8.3")]

# In units of `reference_seconds`: 50 ms where the unit is 10.
ALLOWED: Final = 5.0
# Calls refused before parsing block nothing, and prove nothing.
UNPROVEN: Final = FAULTS | {"UNAUTHENTICATED", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED"}
TOO_LARGE: Final = re.compile("request: at most [0-9,]+ bytes")
ENVIRONMENT: Final = {"publisher": {"METERLINE_PUBLISH_WAIT_SECONDS": "0.2"}}


@dataclass(frozen=True)
class Held:
    """The longest step of a service's event loop during a request."""

    seconds: float
    by: str
    request: str


def fuzz_calls(world: World, rpcs: list[Rpc], most: int = 0) -> Iterator[tuple[str, FuzzCall]]:
    """most: bytes of a request; 0: the limit of its RPC's rule"""
    all_valid = requests(world, all_rpcs())
    for rpc in rpcs:
        method = f"{rpc.method.containing_service.full_name}/{rpc.method.name}"
        for valid in first_of(all_valid[rpc.name]):
            (fuzz_call, *_) = valid_calls([rpc], {rpc.name: [valid]})
            for name, sent in sent_for(world, valid, most or RULES[method].max_bytes):
                yield f"{rpc.name} {name}", FuzzCall(rpc, fuzz_call.service, (sent,), 0)


def sent_for(world: World, valid: Message, most: int) -> Iterator[tuple[str, bytes]]:
    """Signs after the inflation: the service would read nothing else of a call with a wrong signature."""
    if not isinstance(valid, capture_pb2.ReportSignedRequest):
        yield from inflated(valid, most)
        return
    around = valid.ByteSize() - len(valid.body)
    for name, body in inflated(capture_pb2.ReportRequest.FromString(valid.body), most - around):
        yield f"body.{name}", world.client.request(body).SerializeToString()


def first_of(valid: list[Message]) -> list[Message]:
    """One request for each set of fields: other values of the same fields would be inflated alike."""
    by_fields = {tuple(field.name for field, _ in each.ListFields()): each for each in valid}
    return list(by_fields.values())


async def hold(
    fuzzer: FuzzClient, directory: Path, fuzz_calls: Iterator[tuple[str, FuzzCall]], limit: float
) -> tuple[list[Held], list[str]]:
    """The longest loop step of each request, and which calls were faults or were refused before parsing.

    limit: in seconds; a request above it is sent again, and its shortest time counts, since only the time
        of other work on the machine varies
    """
    held, faults = [], []
    for name, fuzz_call in fuzz_calls:
        code, details, longest = await send(fuzzer, directory / fuzz_call.service, name, fuzz_call)
        if code in UNPROVEN or TOO_LARGE.fullmatch(details):
            faults.append(f"{name}: {code} {details}")
        for _ in range(2):
            if longest.seconds > limit:
                *_, again = await send(fuzzer, directory / fuzz_call.service, name, fuzz_call)
                longest = min(longest, again, key=lambda each: each.seconds)
        held.append(longest)
    return held, faults


async def send(fuzzer: FuzzClient, path: Path, name: str, fuzz_call: FuzzCall) -> tuple[str, str, Held]:
    """The status, its text, and the longest step that the service recorded in `path`."""
    taken(path)
    code, details = await fuzzer.send(fuzz_call)
    found = [Held(step["seconds"], step["by"], name) for step in taken(path)]
    return code, details, max(found, key=lambda each: each.seconds, default=Held(0, "", name))


def taken(path: Path) -> list[dict[str, Any]]:
    """Reads and deletes the recorded steps."""
    steps = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    path.unlink(missing_ok=True)
    return steps


async def test_no_inflated_request_blocks_an_event_loop(start_mesh: MakeMesh) -> None:
    with scratch_directory() as directory:
        programs = {
            name: [sys.executable, "-m", "tests.fault.watched", name, str(directory / name)]
            for name in SERVICES
        }
        options = {"services": SERVICES, "environment": ENVIRONMENT, "programs": programs}
        async with start_mesh(**options) as mesh, FuzzClient.of(mesh) as fuzzer:
            world = await build(mesh)
            unit = reference_seconds()
            held, faults = await hold(fuzzer, directory, fuzz_calls(world, all_rpcs()), ALLOWED * unit)
    longest = sorted(held, key=lambda each: each.seconds, reverse=True)
    report_figures("\n".join(f"{each.seconds / unit:.1f} {each.by} {each.request}" for each in longest[:20]))
    assert faults == []
    assert [each for each in longest if each.seconds > ALLOWED * unit] == []


@pytest.mark.planted
async def test_parsing_oversized_requests_is_caught(start_mesh: MakeMesh) -> None:
    rpcs = [rpc for rpc in all_rpcs() if rpc.name == "ingest.v1.CatalogueService/PutEntries"]
    with scratch_directory() as directory:
        programs = {
            "ingest": [sys.executable, "-m", "tests.fault.planted.reads_any_size", str(directory / "ingest")]
        }
        async with (
            start_mesh(services=SERVICES, programs=programs) as mesh,
            FuzzClient.of(mesh) as fuzzer,
        ):
            world = await build(mesh)
            unit = reference_seconds()
            held, _ = await hold(fuzzer, directory, fuzz_calls(world, rpcs, most=4 << 20), ALLOWED * unit)
    assert max(each.seconds for each in held) > ALLOWED * unit
