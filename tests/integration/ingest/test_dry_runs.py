"""A dry run changes nothing, and reports the effect on windows and invoices."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import grpc
import pytest
from grpc import aio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from meterline.ids import new_id
from meterline_dev.servers import NatsServer
from meterline_dev.servers.ports import reserve_port
from meterline_ingest.corrections import correct_many as bulk
from meterline_protos.common.v1 import types_pb2
from meterline_protos.ingest.v1 import corrections_pb2 as pb
from meterline_protos.publisher.v1 import invoices_pb2, invoices_pb2_grpc

from tests.support.aggregate import METERS, Event, Feed, Node, running_aggregate, some_events
from tests.support.bus import OpenBus
from tests.support.capture import RunningIngest, Sample, rows, running_ingest
from tests.support.corrected import Journal, amended, changes, put_types, sample
from tests.support.corrections_calls import Corrections
from tests.support.databases import TestDatabase
from tests.support.polling import eventually

pytestmark = [pytest.mark.req("T3.4"), pytest.mark.timeout(300)]

START = datetime.now(UTC) - timedelta(days=30)
RETRACT: dict[str, Any] = {"retract": pb.Retraction()}

Windows = dict[tuple[str, int, datetime], tuple[Decimal, int]]


@dataclass
class ScriptedInvoices(invoices_pb2_grpc.InvoicesServiceServicer):
    """A fake of publisher with a price of one cent a mile, for months in UTC."""

    asked: list[invoices_pb2.PreviewInvoiceRequest] = field(default_factory=list)
    fails: bool = False

    async def PreviewInvoice(
        self, request: invoices_pb2.PreviewInvoiceRequest, context: aio.ServicerContext[Any, Any]
    ) -> invoices_pb2.PreviewInvoiceResponse:
        self.asked.append(request)
        if self.fails:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "no price")
        miles = sum(Decimal(change.delta) for change in request.changes if change.meter == "miles")
        invoice = invoices_pb2.Invoice(
            currency="USD", total=f"{100 + miles / 100:.2f}", period_start=request.at
        )
        return invoices_pb2.PreviewInvoiceResponse(invoice=invoice)


@asynccontextmanager
async def serving(invoices: ScriptedInvoices) -> AsyncIterator[str]:
    server = aio.server()
    invoices_pb2_grpc.add_InvoicesServiceServicer_to_server(invoices, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


@dataclass
class World:
    ingest: RunningIngest
    node: Node
    feed: Feed
    journal: Journal
    invoices: ScriptedInvoices
    database: TestDatabase

    async def settled(self) -> None:
        """Waits until all messages are applied and all months rebuilt."""
        await eventually(self._waiting, seconds=60, until=lambda left: left == 0)
        await self.feed.settled()
        await eventually(self._waiting, seconds=60, until=lambda left: left == 0)

    def _waiting(self) -> int:
        ((count,),) = self.database.read(
            "ingest",
            "SELECT (SELECT count(*) FROM outbox WHERE published_at IS NULL)"
            " + (SELECT count(*) FROM aggregate.pending_rebuilds)",
        )
        return int(count)

    async def windows(self) -> Windows:
        """The day and month windows of all meters."""
        return {
            (meter.name, grain, start): value
            for meter in METERS
            for grain in (types_pb2.GRAIN_DAY, types_pb2.GRAIN_MONTH)
            for (start, _), value in (await self.node.used(self.journal.slug, meter.name, grain)).items()
        }


@pytest.fixture
async def world(
    make_database: Callable[..., TestDatabase], broker: NatsServer, open_bus: OpenBus
) -> AsyncIterator[World]:
    database, lease = make_database("ingest", "aggregate"), reserve_port()
    # RPCs that ingest never calls keep their generated answer: UNIMPLEMENTED.
    invoices: Any = ScriptedInvoices()  # type: ignore[abstract]
    aggregate = f"127.0.0.1:{lease.port}"
    async with (
        serving(invoices) as publisher,
        running_ingest(database, broker, aggregate_address=aggregate, publisher_address=publisher) as ingest,
        running_aggregate(database, broker, ingest_address=ingest.address, grpc_port=lease.port) as node,
    ):
        await put_types(ingest)
        await node.create(*METERS)
        feed, journal = Feed(await open_bus()), Journal(ingest, 7, "acme")
        await feed.onboard(7, "acme", "UTC")
        await eventually(journal.corrections.knows_tenant)
        yield World(ingest, node, feed, journal, invoices, database)
    lease.release()


def effect_on_windows(effect: pb.Effect) -> tuple[Windows, dict[Any, tuple[Decimal | None, int]]]:
    """(before, after) by window; the value is None if unknown."""
    before: Windows = {}
    after: dict[Any, tuple[Decimal | None, int]] = {}
    for window in effect.windows:
        key = window.meter, window.grain, window.start_time.ToDatetime(UTC)
        before[key] = Decimal(window.value_before), window.event_count_before
        value = Decimal(window.value_after) if window.value_after else None
        after[key] = value, window.event_count_after
    return before, after


def some(order: random.Random, count: int) -> list[Event]:
    return some_events(7, count, seed=order.randint(0, 10**6), start=START, span=timedelta(days=29))


Run = Callable[[bool], Awaitable[pb.Effect]]


def change(world: World, order: random.Random) -> Run:
    """A random change of events: a function that applies it, or runs it dry."""
    journal, corrections = world.journal, world.journal.corrections
    chosen = order.sample(sorted(journal.left), order.randint(1, 5))
    first, new = chosen[0], [sample(event) for event in some(order, 5)]
    after = amended(journal.left[first], order)
    import_id = str(new_id())
    action = order.choice([RETRACT, {"amend": pb.EventChanges(quantities={"miles": "77"})}])

    async def amend(dry_run: bool) -> pb.Effect:
        said = changes(journal.left[first], after)
        return (await corrections.amend(first, said, dry_run=dry_run)).effect

    async def retract(dry_run: bool) -> pb.Effect:
        return (await corrections.retract(first, dry_run=dry_run)).effect

    async def import_one(dry_run: bool) -> pb.Effect:
        known = sample(journal.left[first])
        known.id = first
        return (await corrections.import_events(import_id, *new, known, dry_run=dry_run)).effect

    async def correct_many(dry_run: bool) -> pb.Effect:
        ids = pb.EventIds(event_ids=chosen)
        return (await corrections.correct(ids=ids, dry_run=dry_run, **action)).effect

    return order.choice([amend, retract, import_one, correct_many])


@given(seed=st.integers(0, 2**32))
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_dry_run_reports_the_windows_after_the_change(world: World, seed: int) -> None:
    order = random.Random(seed)
    await world.journal.report(some(order, order.randint(6, 30)))
    await world.settled()
    run, initial = change(world, order), await world.windows()

    effect = await run(True)
    assert (effect.windows_unknown, effect.invoices_unknown) == ("", "")
    assert await world.windows() == initial
    made = await run(False)
    assert not made.windows
    await world.settled()
    final = await world.windows()

    before, after = effect_on_windows(effect)
    nothing = Decimal(0), 0
    assert {key: initial.get(key, nothing) for key in before} == before
    assert {key: final.get(key, nothing) for key in after} == after
    changed = {key for key in initial.keys() | final.keys() if initial.get(key) != final.get(key)}
    assert changed <= after.keys()
    await retract_all(world)


async def retract_all(world: World) -> None:
    """Retracts the events of this example, so that the next one starts without events."""
    everything = pb.EventsFilter()
    everything.time.start_time.FromSeconds(1)
    await world.journal.corrections.correct(filter=everything, **RETRACT)
    world.journal.left.clear()
    await world.settled()


async def test_bulk_dry_run_adds_up_its_messages(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change of several messages: the effect on sums and counts is exact, that on other meters unknown."""
    order = random.Random(3)
    await world.journal.report(some(order, 30))
    await world.settled()
    monkeypatch.setattr(bulk, "MAX_MESSAGE_ROWS", 7)
    everything = pb.EventIds(event_ids=sorted(world.journal.left))

    effect = (await world.journal.corrections.correct(ids=everything, dry_run=True, **RETRACT)).effect

    assert (effect.retracted, effect.added) == (30, 0)
    month = {w.meter: w for w in effect.windows if w.grain == types_pb2.GRAIN_MONTH}
    assert {name: month[name].value_after for name in ("departures", "miles", "jfk")} == dict.fromkeys(
        ("departures", "miles", "jfk"), "0"
    )
    assert month["longest"].value_after == ""
    assert {window.event_count_after for window in effect.windows} == {0}
    assert {invoice.unknown_meters[0] for invoice in effect.invoices} == {"aircraft"}


async def test_dry_run_reports_invoices_before_and_after(world: World) -> None:
    event = Event(7, START, "flight", "N1", {"origin": "JFK"}, {"miles": "250"})
    await world.journal.report([event])
    await world.settled()
    (event_id,) = world.journal.left

    answer = await world.journal.corrections.amend(
        event_id, pb.EventChanges(quantities={"miles": "50"}), dry_run=True
    )

    (invoice,) = answer.effect.invoices
    assert (invoice.currency, invoice.total_before, invoice.total_after) == ("USD", "100.00", "98.00")
    asked = [(each.meter, each.delta) for each in world.invoices.asked[1].changes]
    assert asked == [("longest", "-200"), ("miles", "-200")]
    assert answer.correction.after.quantities["miles"] == "50"
    assert (answer.correction.batch_id, answer.correction.revision) == ("", 1)
    assert (await world.journal.corrections.get(event_id)).event.revision == 0
    assert await world.journal.corrections.listed() == []


async def test_dry_run_reports_why_invoices_are_unknown(world: World) -> None:
    await world.journal.report([Event(7, START)])
    await world.settled()
    (event_id,) = world.journal.left
    world.invoices.fails = True

    effect = (await world.journal.corrections.retract(event_id, dry_run=True)).effect

    assert effect.windows
    assert (effect.windows_unknown, len(effect.invoices)) == ("", 0)
    assert effect.invoices_unknown == "FAILED_PRECONDITION: publisher: no price"


async def test_dry_run_without_aggregate_reports_events_only(ingest: RunningIngest) -> None:
    corrections, reported = Corrections(ingest), Sample()
    await ingest.report(rows(reported))

    effects = [
        (await corrections.retract(reported.id, dry_run=True)).effect,
        (await corrections.import_events(str(new_id()), Sample(), Sample(), reported, dry_run=True)).effect,
    ]

    assert [(effect.retracted, effect.added) for effect in effects] == [(1, 0), (0, 2)]
    unknown = "UNAVAILABLE: no address of aggregate is configured"
    assert {(effect.windows_unknown, effect.invoices_unknown) for effect in effects} == {(unknown, unknown)}
    assert await corrections.total() == 1


async def test_dry_import_reports_every_outcome_and_stores_nothing(ingest: RunningIngest) -> None:
    corrections, known, import_id = Corrections(ingest), Sample(), str(new_id())
    await ingest.report(rows(known))
    other = Sample(id=known.id, subject="other")
    imported = (Sample(), known, other, Sample(type="no-such-type"))

    dry = await corrections.import_events(import_id, *imported, dry_run=True)
    real = await corrections.import_events(import_id, *imported)

    assert (dry.accepted, dry.duplicate, dry.conflict, dry.rejected) == (1, 1, 1, 1)
    assert dry.batch_id == ""
    assert list(dry.outcomes) == list(real.outcomes)
    assert (real.accepted, real.duplicate) == (1, 1)
