"""Fault 26: requests that are wrong in every way. Whatever comes, it is told what is wrong, and nobody else
notices.

Every RPC of every service is called with honest requests first, and then with mutations of them, while other
tenants report. A failure prints the number of the mutation and what was sent.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Final

import pytest
from meterline_dev.mesh import SERVICES, Mesh

from tests.fault.conftest import LONG, QUICK, MakeMesh
from tests.fault.figures import tell
from tests.fault.fuzzing import Gun, Outcome, fire_all, honest_shots, mutated_shots, unhandled
from tests.fault.honest import REFUSABLE, requests
from tests.fault.honest_world import World, build
from tests.fault.load import Expected, Reporter, assert_counted
from tests.fault.strangers import Rpc, all_rpcs

pytestmark = [pytest.mark.fault, pytest.mark.timeout(900), pytest.mark.req("T8.3")]

SEED: Final = 26
MUTATIONS: Final = 16_000 if LONG else 4_000


async def begin(mesh: Mesh, gun: Gun) -> tuple[World, list[Rpc]]:
    """A world of which every honest request is answered."""
    world, rpcs = await build(mesh), all_rpcs()
    refused = []
    for shot in honest_shots(rpcs, requests(world, rpcs)):
        code, details = await gun.fire(shot)
        if code != "OK" and code not in REFUSABLE.get(shot.rpc.name, ()):
            refused.append((shot.rpc.name, code, details))
    assert refused == []
    return world, rpcs


async def fuzz(mesh: Mesh, gun: Gun, count: int) -> Outcome:
    world, rpcs = await begin(mesh, gun)
    shots = mutated_shots(rpcs, requests(world, rpcs), world, SEED, count)
    return await fire_all(gun, shots)


@pytest.mark.req("T2.4", "X7")
async def test_no_request_is_a_fault_and_nobody_else_notices(start_mesh: MakeMesh) -> None:
    expected = Expected()
    async with start_mesh(services=SERVICES, environment=QUICK) as mesh, Gun.of(mesh) as gun:
        world, rpcs = await begin(mesh, gun)
        shots = mutated_shots(rpcs, requests(world, rpcs), world, SEED, MUTATIONS)
        pids = {name: mesh.supervisor.pid(name) for name in SERVICES}
        reporter, stop = Reporter(mesh, expected, batch=10), asyncio.Event()
        load = asyncio.create_task(reporter.run_until(stop))
        await reporter.more(50)
        outcome = await fire_all(gun, shots)
        await reporter.more(50)
        stop.set()
        await load
        tell(f"{outcome.told.total()} mutations, {reporter.acknowledged} events of others: {codes(outcome)}")
        faults = [*outcome.faults, *unhandled(mesh.directory / "logs")]
        assert not faults, "\n".join(faults)
        assert {name: mesh.supervisor.pid(name) for name in SERVICES} == pids
        # Every call of the others was taken at once, and each of their events counts once.
        assert not reporter.failures
        await assert_counted(mesh, expected)


def codes(outcome: Outcome) -> dict[str, int]:
    found: dict[str, int] = {}
    for (_, code), count in outcome.told.items():
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
async def test_a_field_that_no_rule_judges_is_caught(
    start_mesh: MakeMesh, service: str, program: str, rpc: str
) -> None:
    programs = {service: [sys.executable, "-m", f"tests.fault.planted.{program}"]}
    async with start_mesh(services=SERVICES, environment=QUICK, programs=programs) as mesh:
        async with Gun.of(mesh) as gun:
            outcome = await fuzz(mesh, gun, 4_000)
        assert "INTERNAL" in outcome.of_rpc(rpc)
        assert unhandled(mesh.directory / "logs")
