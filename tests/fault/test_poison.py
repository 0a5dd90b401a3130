"""Fault 16: messages that cannot be applied, and a release that can apply none."""

from __future__ import annotations

import asyncio
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import httpx
import psycopg
import pytest
from meterline.bus.connection import Bus
from meterline_dev.mesh import Mesh
from meterline_protos.events.v1 import events_pb2
from meterline_protos.operations.v1 import dead_letters_pb2, dead_letters_pb2_grpc

from tests.fault.conftest import Lengths, MakeMesh
from tests.fault.load import (
    Expected,
    Reporter,
    accepted,
    assert_exact,
    counted,
    dead_letters,
    wait_until_settled,
)
from tests.fault.planted.bad_release import REASON
from tests.support.aggregate import Event, Feed
from tests.support.aggregate import accepted as fact_of
from tests.support.polling import eventually

pytestmark = [pytest.mark.fault, pytest.mark.timeout(600), pytest.mark.req("T3.1", "O2", "X7")]

UNKNOWN_NUMBER = 9_999
UNKNOWN_TENANT = f"unknown tenants [{UNKNOWN_NUMBER}]; given up after 2 s"
# The window is the last twenty messages, see meterline.consuming.breaker.
MOST_BURIED = 18
# Seconds of the cooldown, short for tests.
QUICK = {"METERLINE_BREAKER_COOLDOWN_SECONDS": "0.2", "METERLINE_BREAKER_LONGEST_COOLDOWN_SECONDS": "0.5"}


def planted(name: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", f"tests.fault.planted.{name}", *arguments]


# --- poison messages and dead letters


def unknown_tenant_events() -> events_pb2.EventsAccepted:
    """Three events of an unknown tenant."""
    return fact_of([Event(UNKNOWN_NUMBER, datetime.now(UTC), type="api.request")] * 3)


def poison() -> dict[str, bytes]:
    """A message of each kind of poison, by the expected reason of its burial."""
    astray = unknown_tenant_events()
    astray.series_index = b"\7\7\7"
    short = unknown_tenant_events()
    short.times_us = short.times_us[:-1]
    other = events_pb2.TenantChanged(tenant_id=7, version=1, active=True)
    return {
        "not an EventsAccepted: Error parsing message": b"\xff" * 40,
        "no batches": other.SerializeToString(),
        "series_index points beyond its dictionary": astray.SerializeToString(),
        "times_us is not of 3 rows": short.SerializeToString(),
        UNKNOWN_TENANT: unknown_tenant_events().SerializeToString(),
    }


@asynccontextmanager
async def feeding(mesh: Mesh) -> AsyncIterator[Feed]:
    bus = Bus(mesh.nats.url, name="poison")
    await bus.start()
    try:
        yield Feed(bus)
    finally:
        await bus.stop()


async def publish_poison(mesh: Mesh, times: int) -> dict[uuid.UUID, str]:
    """Publishes poison; returns the expected reasons by message id."""
    async with feeding(mesh) as feed:
        return {await feed.publish(data): reason for _ in range(times) for reason, data in poison().items()}


def letters(mesh: Mesh, state: str = "open") -> list[tuple[uuid.UUID, str, int]]:
    """(message, error, attempts) of aggregate's dead letters in `state`."""
    with psycopg.connect(mesh.admin_dsn()) as connection:
        rows = connection.execute(
            "SELECT message_id, error, attempts FROM aggregate.dead_letters WHERE state = %s", (state,)
        ).fetchall()
    return [(message_id, error, attempts) for message_id, error, attempts in rows]


def total_of_unknown_tenant(mesh: Mesh) -> int:
    with psycopg.connect(mesh.admin_dsn()) as connection:
        query = "SELECT coalesce(sum(aggregated), 0) FROM aggregate.tenant_totals WHERE tenant_id = %s"
        row = connection.execute(query, (UNKNOWN_NUMBER,)).fetchone()
    assert row is not None
    return int(row[0])


async def breaker(mesh: Mesh) -> bool:
    """Whether aggregate has stopped consuming events."""
    async with httpx.AsyncClient(trust_env=False) as client:
        text = (await client.get(mesh.metrics_url("aggregate"))).text
    return 'meterline_consumer_breaker_open{consumer="aggregate-events"} 1.0' in text


async def redrive_all(mesh: Mesh) -> dict[str, int]:
    """Redrives all dead letters; returns the counts of outcomes."""
    request = dead_letters_pb2.RedriveDeadLettersRequest(all=True, requested_by="test", reason="it is mended")
    async with mesh.channel("aggregate") as channel:
        stub = dead_letters_pb2_grpc.DeadLettersServiceStub(channel)
        answer = await stub.RedriveDeadLetters(request, timeout=60, wait_for_ready=True)
    assert answer.left == 0
    outcomes = [dead_letters_pb2.RedriveOutcome.Name(result.outcome) for result in answer.results]
    return {outcome: outcomes.count(outcome) for outcome in outcomes}


async def release(mesh: Mesh, *command: str) -> None:
    """Replaces aggregate by another program, or by the real one."""
    await mesh.supervisor.stop("aggregate")
    programs = mesh.options.programs
    assert isinstance(programs, dict)
    programs.pop("aggregate", None)
    if command:
        programs["aggregate"] = list(command)
    await mesh.start_service("aggregate")


# --- poison among good messages


async def poison_under_load(mesh: Mesh, expected: Expected, lengths: Lengths) -> dict[uuid.UUID, str]:
    """Publishes poison among good messages, singly and in one batch with some; returns the reasons."""
    reporter = Reporter(mesh, expected, batch=20)
    load = asyncio.create_task(reporter.run(lengths.events))
    published = await publish_poison(mesh, 1)
    for _ in range(lengths.rounds - 1):
        await reporter.more(100)
        published |= await publish_poison(mesh, 1)
    await load
    # The messages that wait at its start are one batch.
    await mesh.supervisor.stop("aggregate")
    await reporter.run(200)
    published |= await publish_poison(mesh, 1)
    await reporter.run(200)
    await mesh.start_service("aggregate")
    await wait_until_settled(mesh)
    return published


async def only_poison_is_buried(mesh: Mesh, expected: Expected, published: dict[uuid.UUID, str]) -> bool:
    """Whether each poison message is buried once with its reason, and every good event counted once."""
    found = letters(mesh)
    reasons = {message_id: reason for message_id, reason, _ in found}
    stored = {tenant: count for tenant, (count, _) in expected.usage().items() if count}
    return (
        len(found) == len(published)
        and reasons.keys() == published.keys()
        and all(reasons[message_id].startswith(reason) for message_id, reason in published.items())
        and await accepted(mesh) == stored
        and await counted(mesh) == expected.usage()
    )


ENVIRONMENT = {"aggregate": {"METERLINE_MESSAGE_PATIENCE_SECONDS": "2", **QUICK}}


async def test_poison_is_buried_once_and_redriven_once_after_a_fix(
    start_mesh: MakeMesh, lengths: Lengths
) -> None:
    expected = Expected()
    async with start_mesh(environment=ENVIRONMENT) as mesh:
        published = await poison_under_load(mesh, expected, lengths)
        assert await only_poison_is_buried(mesh, expected, published)
        assert not await breaker(mesh)

        async with feeding(mesh) as feed:
            await feed.onboard(UNKNOWN_NUMBER, "stranger")
        await asyncio.gather(*(redrive_all(mesh) for _ in range(4)))
        mended = [message_id for message_id, reason in published.items() if reason == UNKNOWN_TENANT]
        # The tenant may arrive after the first of the calls.
        await redrive_all(mesh)
        assert sorted(message_id for message_id, _, _ in letters(mesh, "redriven")) == sorted(mended)
        assert total_of_unknown_tenant(mesh) == 3 * len(mended)
        assert await counted(mesh) == expected.usage()
        still = {message_id: reason for message_id, reason in published.items() if reason != UNKNOWN_TENANT}
        assert await only_poison_is_buried(mesh, expected, still)
        assert all(attempts >= 2 for _, _, attempts in letters(mesh))


@pytest.mark.planted
async def test_burial_of_the_whole_batch_is_caught(start_mesh: MakeMesh) -> None:
    expected = Expected()
    programs = {"aggregate": planted("bury_the_batch")}
    async with start_mesh(environment=ENVIRONMENT, programs=programs) as mesh:
        published = await poison_under_load(mesh, expected, Lengths(200, 1))
        assert not await only_poison_is_buried(mesh, expected, published)


# --- a bad release


async def bad_release_under_load(mesh: Mesh, expected: Expected, lengths: Lengths, refused: str) -> None:
    """Reports events before, during and after a release that refuses one in `refused` messages."""
    reporter, stop = Reporter(mesh, expected, batch=10), asyncio.Event()
    load = asyncio.create_task(reporter.run_until(stop))
    await reporter.more(200)
    await release(mesh, *planted("bad_release", refused))
    await reporter.more(lengths.events)
    stop.set()
    await load


async def test_release_that_refuses_everything_buries_few_and_loses_none(
    start_mesh: MakeMesh, lengths: Lengths
) -> None:
    expected = Expected()
    async with start_mesh(environment={"aggregate": QUICK}, programs={}) as mesh:
        await bad_release_under_load(mesh, expected, lengths, "1")
        await eventually(lambda: breaker(mesh), seconds=30)
        assert 0 < dead_letters(mesh) <= MOST_BURIED
        assert {reason for _, reason, _ in letters(mesh)} == {REASON}

        await release(mesh)
        await wait_until_settled(mesh, seconds=90)
        assert dead_letters(mesh) <= MOST_BURIED
        await asyncio.gather(*(redrive_all(mesh) for _ in range(3)))
        assert dead_letters(mesh) == 0
        await assert_exact(mesh, expected)


async def test_messages_refused_by_a_bad_release_are_redriven(start_mesh: MakeMesh, lengths: Lengths) -> None:
    expected = Expected()
    async with start_mesh(environment={"aggregate": QUICK}, programs={}) as mesh:
        await bad_release_under_load(mesh, expected, lengths, "4")
        await wait_until_settled(mesh)
        buried = dead_letters(mesh)
        assert buried > 0
        assert not await breaker(mesh)
        assert set(await redrive_all(mesh)) == {"REDRIVE_OUTCOME_FAILED"}

        await release(mesh)
        outcomes = await asyncio.gather(*(redrive_all(mesh) for _ in range(3)))
        assert sum(outcome.get("REDRIVE_OUTCOME_APPLIED", 0) for outcome in outcomes) == buried
        await assert_exact(mesh, expected)


@pytest.mark.planted
async def test_breaker_that_never_opens_is_caught(start_mesh: MakeMesh, lengths: Lengths) -> None:
    expected = Expected()
    environment = {"aggregate": {"METERLINE_BREAKER_PERCENT": "100"}}
    async with start_mesh(environment=environment, programs={}) as mesh:
        await bad_release_under_load(mesh, expected, Lengths(500, 1), "1")
        await wait_until_settled(mesh)
        assert not dead_letters(mesh) <= MOST_BURIED
