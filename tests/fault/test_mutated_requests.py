"""Fault 26: invalid requests of many kinds. Each is refused with the reason, and other callers are not
affected.

Every RPC of every service is called with valid requests first, and then with mutations of them, while other
tenants report. A failure prints the number of the mutation and the sent request.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Final

import pytest
from meterline_dev.mesh import SERVICES, Mesh

from tests.fault.conftest import LONG, QUICK, MakeMesh
from tests.fault.figures import report_figures
from tests.fault.foreign_requests import Rpc, all_rpcs
from tests.fault.fuzzing import FuzzClient, Outcome, mutated_calls, send_all, unhandled, valid_calls
from tests.fault.load import Expected, Reporter, assert_counted
from tests.fault.request_world import World, build
from tests.fault.valid_requests import REFUSABLE, requests

pytestmark = [pytest.mark.fault, pytest.mark.timeout(900), pytest.mark.req("T8.3")]

SEED: Final = 26
# Half of the smaller number misses some of the planted bugs.
MUTATIONS: Final = 16_000 if LONG else 4_000


async def begin(mesh: Mesh, fuzzer: FuzzClient) -> tuple[World, list[Rpc]]:
    """A world in which every valid request succeeds."""
    world, rpcs = await build(mesh), all_rpcs()
    refused = []
    for fuzz_call in valid_calls(rpcs, requests(world, rpcs)):
        code, details = await fuzzer.send(fuzz_call)
        if code != "OK" and code not in REFUSABLE.get(fuzz_call.rpc.name, ()):
            refused.append((fuzz_call.rpc.name, code, details))
    assert refused == []
    return world, rpcs


async def fuzz(mesh: Mesh, fuzzer: FuzzClient, count: int) -> Outcome:
    world, rpcs = await begin(mesh, fuzzer)
    fuzz_calls = mutated_calls(rpcs, requests(world, rpcs), world, SEED, count)
    return await send_all(fuzzer, fuzz_calls)


@pytest.mark.req("T2.4", "X7")
async def test_no_mutated_request_causes_a_fault_or_affects_others(start_mesh: MakeMesh) -> None:
    expected = Expected()
    async with start_mesh(services=SERVICES, environment=QUICK) as mesh, FuzzClient.of(mesh) as fuzzer:
        world, rpcs = await begin(mesh, fuzzer)
        fuzz_calls = mutated_calls(rpcs, requests(world, rpcs), world, SEED, MUTATIONS)
        pids = {name: mesh.supervisor.pid(name) for name in SERVICES}
        reporter, stop = Reporter(mesh, expected, batch=10), asyncio.Event()
        load = asyncio.create_task(reporter.run_until(stop))
        await reporter.more(50)
        outcome = await send_all(fuzzer, fuzz_calls)
        await reporter.more(50)
        stop.set()
        await load
        report_figures(
            f"{outcome.calls_by_status.total()} mutations, {reporter.acknowledged} events of others: "
            f"{codes(outcome)}"
        )
        faults = [*outcome.faults, *unhandled(mesh.directory / "logs")]
        assert not faults, "\n".join(faults)
        assert {name: mesh.supervisor.pid(name) for name in SERVICES} == pids
        # Every other call succeeded at the first attempt, and each of their events counts once.
        assert not reporter.failures
        await assert_counted(mesh, expected)


def codes(outcome: Outcome) -> dict[str, int]:
    found: dict[str, int] = {}
    for (_, code), count in outcome.calls_by_status.items():
        found[code] = found.get(code, 0) + count
    return found


@pytest.mark.planted
@pytest.mark.req("X7")
@pytest.mark.parametrize(
    ("service", "program", "rpc"),
    [
        ("ingest", "unchecked_texts", "ingest.v1.TimersService/GetTimer"),
        ("publisher", "trusted_page_tokens", "publisher.v1.InvoicesService/ListInvoices"),
        ("publisher", "trusted_times", "publisher.v1.InvoicesService/PreviewInvoice"),
    ],
)
async def test_unvalidated_field_is_caught(
    start_mesh: MakeMesh, service: str, program: str, rpc: str
) -> None:
    programs = {service: [sys.executable, "-m", f"tests.fault.planted.{program}"]}
    async with start_mesh(services=SERVICES, environment=QUICK, programs=programs) as mesh:
        async with FuzzClient.of(mesh) as fuzzer:
            outcome = await fuzz(mesh, fuzzer, 4_000)
        assert "INTERNAL" in outcome.of_rpc(rpc)
        assert unhandled(mesh.directory / "logs")
