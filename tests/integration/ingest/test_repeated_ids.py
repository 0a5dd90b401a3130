"""Large calls with stored events: each event is stored once, and each row gets its outcome.

A call sends only as many statements as its repeats need.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from meterline.db.pool import Connection
from meterline_dev.servers import NatsServer
from meterline_ingest.capture.store import events as store
from meterline_ingest.capture.store.events import Rows
from meterline_ingest.capture.store.stored_rows import StoredRows, stored_rows
from meterline_ingest.event.columns import Ids, Int64s
from meterline_protos.ingest.v1 import capture_pb2, event_types_pb2

from tests.support.capture import RunningIngest, Sample, columns, is_known, rows, running_ingest, stored
from tests.support.corrections_calls import Corrections
from tests.support.databases import TestDatabase
from tests.support.polling import eventually

pytestmark = pytest.mark.req("T1.2")

# A type whose events have details; those of `api.request` have none.
NOTED = "api.noted"

Form = Callable[..., capture_pb2.ReportRequest]
both_forms = pytest.mark.parametrize("form", [rows, columns])
doubtful_or_not = pytest.mark.parametrize("doubtful", [0, 30])


@dataclass
class Statements:
    """The statements of capture: the number of rows of each lookup and of each COPY."""

    lookups: list[int] = field(default_factory=list)
    copies: list[int] = field(default_factory=list)

    def clear(self) -> None:
        self.lookups.clear()
        self.copies.clear()


@pytest.fixture
def statements(monkeypatch: pytest.MonkeyPatch) -> Statements:
    counted = Statements()
    copy_to = store._copy_to

    async def counting_lookup(connection: Connection, ids: Ids, tenant_ids: Int64s) -> StoredRows:
        counted.lookups.append(len(ids))
        return await stored_rows(connection, ids, tenant_ids)

    async def counting_copy(connection: Connection, partition: str, chosen: Rows) -> None:
        counted.copies.append(len(chosen))
        await copy_to(connection, partition, chosen)

    monkeypatch.setattr(f"{store.__name__}.stored_rows", counting_lookup)
    monkeypatch.setattr(store, "_copy_to", counting_copy)
    return counted


@pytest.fixture
def doubtful() -> int:
    return 0


@pytest.fixture
async def replicas(
    database: TestDatabase, broker: NatsServer, monkeypatch: pytest.MonkeyPatch, doubtful: int
) -> AsyncIterator[tuple[RunningIngest, RunningIngest]]:
    """Two replicas of ingest on one database; they look up their first `doubtful` batches."""
    monkeypatch.setattr(store, "DOUBTFUL_BATCHES", doubtful)
    async with AsyncExitStack() as stack:
        one, two = [await stack.enter_async_context(running_ingest(database, broker)) for _ in range(2)]
        await put_type(one, "api.request")
        await put_type(one, NOTED, "note")
        await one.onboard(1, "acme")
        await eventually(lambda: is_known(one, "acme"))
        await eventually(lambda: is_known(two, "acme"))
        yield one, two


async def put_type(ingest: RunningIngest, name: str, *properties: str) -> None:
    text = event_types_pb2.PROPERTY_KIND_TEXT
    definition = event_types_pb2.EventType(
        name=name,
        quantities=[
            event_types_pb2.QuantityDefinition(name="units", scale=2),
            event_types_pb2.QuantityDefinition(name="bytes", scale=0),
        ],
        dimensions=[event_types_pb2.DimensionDefinition(name="region")],
        properties=[event_types_pb2.PropertyDefinition(name=each, kind=text) for each in properties],
    )
    await ingest.types.PutEventType(event_types_pb2.PutEventTypeRequest(event_type=definition))


def some(count: int, **fields: Any) -> list[Sample]:
    return [Sample(**fields) for _ in range(count)]


def reasons(count: int, answer: capture_pb2.ReportResponse) -> list[str]:
    found = [""] * count
    for outcome in answer.outcomes:
        found[outcome.index] = outcome.reason
    return found


# Each changes an event with the only quantity `units` = 1 into a different event.
CHANGES: tuple[Callable[[Sample], Sample], ...] = (
    lambda sample: replace(sample, subject="somebody else"),
    lambda sample: replace(sample, quantities={"units": "2"}),
    lambda sample: replace(sample, quantities={}),
    lambda sample: replace(sample, quantities={"units": "1", "bytes": "0"}),
    lambda sample: replace(sample, quantities={"bytes": "1"}),
    lambda sample: replace(sample, dimensions={"region": "us"}),
    lambda sample: replace(sample, time_us=sample.time_us - 1),
    lambda sample: replace(sample, type=NOTED, properties={"note": "new"}),
)


def other(sample: Sample, at: int) -> Sample:
    return CHANGES[at % len(CHANGES)](sample)


@doubtful_or_not
@both_forms
async def test_call_with_all_kinds_of_repeats_answers_each_row(
    replicas: tuple[RunningIngest, RunningIngest], form: Form
) -> None:
    here, there = replicas
    noted = some(24, type=NOTED, properties={"note": "kept"})
    bare = [Sample(quantities={}), Sample(quantities={"units": "1.50", "bytes": "7"})]
    ours, theirs = [*some(250), *noted, *bare], some(250)
    dropped = some(30)
    assert (await here.report(form(*ours))).accepted == len(ours)
    assert (await there.report(form(*theirs))).accepted == len(theirs)
    # A dry run stores nothing, but capture caches its ids.
    await Corrections(here).import_events(str(uuid.uuid4()), *dropped, dry_run=True)
    fresh, twice = some(220), some(3)
    expected = [
        *((sample, "") for sample in fresh),
        *((sample, "DUPLICATE") for sample in ours[-18:]),
        *((other(sample, at), "CONFLICT") for at, sample in enumerate(ours[:16])),
        *((other(sample, at), "CONFLICT") for at, sample in enumerate(noted[:8])),
        *((sample, "") for sample in dropped),
        *((sample, "DUPLICATE") for sample in theirs[:9]),
        *((other(sample, at), "CONFLICT") for at, sample in enumerate(theirs[20:36])),
        *((sample, "") for sample in twice),
    ]
    order = np.random.default_rng(5).permutation(len(expected)).tolist()
    mixed = [expected[at] for at in order]
    # The first rows of these repeats are above.
    mixed += [(sample, "DUPLICATE") for sample in twice]
    mixed += [(other(sample, at), "CONFLICT") for at, sample in enumerate(twice)]

    answer = await here.report(form(*(sample for sample, _ in mixed)))

    assert reasons(len(mixed), answer) == [reason for _, reason in mixed]
    new = len(fresh) + len(dropped) + len(twice)
    assert await stored(here) == len(ours) + len(theirs) + new
    again = await here.report(form(*fresh, *dropped, *twice))
    assert reasons(new, again) == ["DUPLICATE"] * new


async def test_repeat_with_a_new_property_is_a_conflict(
    replicas: tuple[RunningIngest, RunningIngest],
) -> None:
    here, _ = replicas
    first = some(210)
    await here.report(columns(*first))
    await put_type(here, "api.request", "note")

    changed = [replace(each, properties={"note": "new"}) for each in first]
    answer = await here.report(columns(*changed[:105], *first[105:]))

    assert reasons(210, answer) == ["CONFLICT"] * 105 + ["DUPLICATE"] * 105


async def test_repeats_cost_one_lookup_and_one_copy(
    replicas: tuple[RunningIngest, RunningIngest], statements: Statements
) -> None:
    here, _ = replicas
    first = some(400)
    await here.report(columns(*first))
    assert statements == Statements([], [400])
    statements.clear()

    await here.report(columns(*some(500), *first[:5]))
    assert statements == Statements([5], [500])
    statements.clear()

    once = some(300)
    await here.report(columns(*once, *once[:7]))
    assert statements == Statements([], [300])
    statements.clear()

    answer = await here.report(columns(*first))
    assert answer.duplicate == 400
    assert statements == Statements([400], [])


async def test_ids_of_small_calls_are_cached_too(
    replicas: tuple[RunningIngest, RunningIngest], statements: Statements
) -> None:
    here, _ = replicas
    single = Sample()
    await here.report(columns(single))
    await here.report(columns(*some(300), single))
    assert statements == Statements([1], [300])


async def test_batches_are_looked_up_after_an_unsuspected_repeat(
    replicas: tuple[RunningIngest, RunningIngest],
    statements: Statements,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here, there = replicas
    monkeypatch.setattr(store, "DOUBTFUL_BATCHES", 2)
    theirs = some(400)
    await there.report(columns(*theirs))
    statements.clear()

    async def send(*repeats: Sample) -> Statements:
        statements.clear()
        answer = await here.report(columns(*some(300), *repeats))
        assert (answer.accepted, answer.duplicate) == (300, len(repeats))
        return Statements(list(statements.lookups), list(statements.copies))

    # The COPY fails, and is repeated without the stored event.
    assert await send(theirs[0]) == Statements([301], [301, 300])
    # The next two batches are looked up; another unsuspected repeat in the second adds two more.
    assert await send() == Statements([300], [300])
    assert await send(theirs[1]) == Statements([301], [300])
    assert await send() == Statements([300], [300])
    assert await send() == Statements([300], [300])
    assert await send() == Statements([], [300])
    # The cache contains this id now.
    assert await send(theirs[1]) == Statements([1], [300])


async def test_replicas_with_same_events_in_different_orders_do_not_deadlock(
    database: TestDatabase, replicas: tuple[RunningIngest, RunningIngest]
) -> None:
    rng = np.random.default_rng(11)
    for _ in range(5):
        samples = [replace(each, id=str(uuid.uuid4())) for each in some(200)] + some(200)
        calls = [columns(*(samples[at] for at in rng.permutation(400))) for _ in range(6)]
        answers = await asyncio.gather(*(replicas[at % 2].report(call) for at, call in enumerate(calls)))
        assert sum(answer.accepted for answer in answers) == 400
        assert sum(answer.duplicate for answer in answers) == 5 * 400
    assert await stored(replicas[0]) == 2_000
    deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    assert database.read("ingest", deadlocks) == [(0,)]
