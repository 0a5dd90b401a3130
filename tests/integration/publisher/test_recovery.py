"""Recovery: processes that die between two steps, and answers that are missing for longer than the
provider remembers an identifier. Each case has a counterpart without the guard, which must be detected."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from uuid import uuid4

import pytest
from grpc import aio
from meterline.clock import SystemClock, to_datetime
from meterline_publisher.ledger import sender
from meterline_publisher.ledger.rules.publications import Publication
from meterline_publisher.providers.port import RejectedError, UsageEvent

from tests.integration.publisher.catalogue import PER_UNIT, Priced
from tests.integration.publisher.conftest import StartPublisher
from tests.integration.publisher.world import NOW, PUBLISHED, SENT, START, Api, Billed, World
from tests.support.fake_billing import FakeBilling, busy, lost
from tests.support.polling import eventually

EVENTS = "/v1/billing/meter_events"
DAY = timedelta(hours=25)

pytestmark = pytest.mark.req("S6", "T7.3", "X7")


async def unanswered(world: World, start: StartPublisher, kind: str) -> tuple[Api, Billed]:
    """Publishes a usage of 50 whose first send fails with fault `kind`, and whose retries are all refused."""
    api = await start(publish_wait_seconds=0.3)
    acme = await world.tenant()
    await world.use("acme", "50")
    world.lab.control.add_fault(EVENTS, kind, next_n=1)
    world.lab.control.add_fault(EVENTS, "rate_limit_429")
    (row,) = (await api.publish("acme")).publications
    assert not row.HasField("sent_at")
    return api, acme


def let_a_day_pass(world: World) -> None:
    """Advances the publisher's and the provider's clock by `DAY`, and clears the provider's faults."""
    world.lab.control.advance(DAY // timedelta(milliseconds=1))
    world.clock.advance(DAY)
    world.lab.control.clear_faults()


async def sent(world: World) -> list[tuple[object, ...]]:
    return await eventually(lambda: world.rows("SELECT * FROM publications WHERE state = 'sent'"))


async def test_unanswered_usage_that_arrived_is_not_sent_again_after_a_day(
    world: World, start: StartPublisher
) -> None:
    api, acme = await unanswered(world, start, "timeout_after_accept")
    let_a_day_pass(world)
    await sent(world)
    assert (world.at_provider(acme), world.sends(acme)) == (50, 1)
    (invoice,) = await api.invoice_list("acme")
    assert invoice.state == PUBLISHED


async def test_resend_without_lookup_is_detected_as_double_count(
    world: World, start: StartPublisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sender, "must_look_up", lambda *_: False)
    _, acme = await unanswered(world, start, "timeout_after_accept")
    let_a_day_pass(world)
    await sent(world)
    assert world.at_provider(acme) == 100


async def test_unanswered_usage_that_never_arrived_is_sent_after_a_day(
    world: World, start: StartPublisher
) -> None:
    _, acme = await unanswered(world, start, "timeout_before")
    let_a_day_pass(world)
    await sent(world)
    assert (world.at_provider(acme), world.sends(acme)) == (50, 1)


async def test_ambiguous_provider_sum_is_left_to_operators(world: World, start: StartPublisher) -> None:
    _, acme = await unanswered(world, start, "timeout_after_accept")
    world.lab.control.clear_faults()
    world.lab.control.add_fault(EVENTS, "rate_limit_429", method="POST", next_n=10_000)
    world.lab.control.advance(DAY // timedelta(milliseconds=1))
    world.lab.control.clear_faults()
    world.lab.send(world.stripe_meter(acme), acme.customer, 3, at=int(START.timestamp()) + 60)
    world.clock.advance(DAY)
    await eventually(lambda: world.rows("SELECT FROM publications WHERE error_code = 'unreconciled'"))
    assert world.rows("SELECT state FROM publications") == [("ambiguous",)]
    assert world.sends(acme) == 2


async def test_new_identifier_for_each_attempt_is_detected_as_double_count(
    world: World, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The counterpart of fault 8: an answer is lost after the provider stored the event."""
    real = sender._event

    def careless(row: Publication) -> UsageEvent:
        return replace(real(row), identifier=uuid4().hex, idempotency_key=uuid4().hex)

    monkeypatch.setattr(sender, "_event", careless)
    acme = await world.tenant()
    await world.use("acme", "50")
    world.lab.control.add_fault(EVENTS, "timeout_after_accept", next_n=1)
    await api.publish("acme")
    assert world.at_provider(acme) == 100


async def test_rejected_retry_does_not_discard_earlier_accepted_attempt(
    world: World, start: StartPublisher
) -> None:
    """The first call succeeded, its answer was lost; the rejected retry must not add another event."""
    billing = FakeBilling(lambda: NOW, meters={"event"})
    billing.faults = [lost(after=True), (RejectedError("archived_meter", "planted"), False), busy()]
    api = await start(billing)
    world.mesh.add_tenant("acme", 1, "UTC")
    world.mesh.add_meter("calls")
    await api.put("plan-acme", Priced("calls", PER_UNIT), "event")
    await world.announce("acme", 1, "cus_acme")
    await world.use("acme", "50")
    answer = await api.publish("acme")
    assert [(row.value, row.state) for row in answer.publications] == [("50", SENT)]
    assert [kept.event.value for kept in billing.kept] == [50]
    assert billing.calls == 4


async def test_refused_usage_is_sent_after_a_day_without_lookup(world: World, start: StartPublisher) -> None:
    """A refused call cannot have stored an event: the usage is sent after a day without checking the sums."""
    api, acme = await unanswered(world, start, "rate_limit_429")
    world.lab.control.add_fault("/v1/billing/meters", "error_500")
    let_a_day_pass(world)
    await sent(world)
    assert (world.at_provider(acme), world.sends(acme)) == (50, 1)
    assert (await api.invoice_list("acme"))[0].state == PUBLISHED


@asynccontextmanager
async def process(world: World, crash_at: str = "") -> AsyncIterator[tuple[asyncio.subprocess.Process, Api]]:
    """Runs the publisher as a separate process; kills it on exit if it still runs."""
    environment = {
        **os.environ,
        "METERLINE_DATABASE_URL": world.database.app_dsn("publisher"),
        "METERLINE_NATS_URL": world.broker.url,
        "METERLINE_NATS_MONITOR_URL": world.broker.monitor_url,
        "METERLINE_ALLOW_OPEN_BROKER": "true",
        "METERLINE_METRICS_PORT": "-1",
        "METERLINE_AUTHENTICATION": "off",
        "METERLINE_IDENTITY_ADDRESS": world.aggregate,
        "METERLINE_AGGREGATE_ADDRESS": world.aggregate,
        "METERLINE_INGEST_ADDRESS": world.aggregate,
        "METERLINE_STRIPE_API_KEY": "rk_test_recovery",
        "METERLINE_STRIPE_API_BASE": world.lab.address,
        "METERLINE_STRIPE_TIMEOUT_SECONDS": "0.5",
        "METERLINE_CRASH_AT": crash_at,
    }
    command = (sys.executable, "-m", "meterline_publisher.main")
    child = await asyncio.create_subprocess_exec(*command, env=environment, stdout=asyncio.subprocess.PIPE)
    try:
        assert child.stdout is not None
        ready = json.loads(await asyncio.wait_for(child.stdout.readline(), 60))
        async with aio.insecure_channel(ready["grpc"]) as channel:
            yield child, Api(channel, world.mesh)
    finally:
        if child.returncode is None:
            child.kill()
        await child.wait()


@pytest.mark.slow
@pytest.mark.parametrize("point", ["before_call", "after_call", "after_commit"])
async def test_kill_during_send_neither_loses_nor_duplicates_usage(
    world: World, api: Api, point: str
) -> None:
    """Another replica sends what the killed process left, whose clock is the real one."""
    world.clock.advance(to_datetime(SystemClock().now_us()) - world.now())
    acme = await world.tenant()
    await world.use("acme", "50")
    async with process(world, f"publisher.send.{point}") as (child, killed):
        with pytest.raises(aio.AioRpcError):
            await killed.publish("acme")
        assert await asyncio.wait_for(child.wait(), 30) == -9
    answer = await api.publish("acme")
    assert answer.invoice.state == PUBLISHED
    assert (world.at_provider(acme), world.sends(acme)) == (50, 1)
