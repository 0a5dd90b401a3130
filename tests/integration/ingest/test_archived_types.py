"""Archived event types accept no events; types without any event can be deleted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from dataclasses import replace
from typing import Any

import grpc
import psycopg
import pytest
from grpc.aio import AioRpcError
from meterline.db.pool import Database
from meterline_dev.servers import NatsServer
from meterline_ingest.dictionaries.rules import Quotas
from meterline_ingest.dictionaries.store import TYPE_GONE, Dictionaries, series_digest
from meterline_ingest.event.series import SeriesKey
from meterline_ingest.event_types.rules.book import TypeBook
from meterline_ingest.event_types.store import EventTypeRepository, held
from meterline_protos.ingest.v1 import (
    corrections_pb2,
    events_pb2,
    quarantine_pb2,
    timers_pb2,
    timers_pb2_grpc,
)
from meterline_protos.ingest.v1 import event_types_pb2 as pb

from tests.support.calls import status_of
from tests.support.capture import RunningIngest, Sample, columns, is_known, rows, running_ingest
from tests.support.corrections_calls import Corrections
from tests.support.databases import TestDatabase
from tests.support.polling import eventually
from tests.support.quarantine import QuarantineApi

pytestmark = pytest.mark.req("O1", "O2")

NAME = "own.call"
ACME: dict[str, Any] = {"tenant_id": "acme"}


def definition(name: str = NAME, scale: int = 6, quantity: str = "own.seconds", **more: Any) -> pb.EventType:
    return pb.EventType(name=name, quantities=[pb.QuantityDefinition(name=quantity, scale=scale)], **more)


def timed(name: str = NAME) -> pb.EventType:
    policy = pb.TimerPolicy(
        quantity="own.seconds", abandoned_after_seconds=60, when_abandoned=pb.ABANDONED_TIMER_DISCARD
    )
    return definition(name, timer=policy)


def call(**more: Any) -> Sample:
    return Sample(**({"type": NAME, "dimensions": {}, "quantities": {"own.seconds": "1.5"}} | more))


class Types:
    """Calls that change event types, by default those of `acme`."""

    def __init__(self, ingest: RunningIngest) -> None:
        self.stub = ingest.types

    async def put(self, wanted: pb.EventType, tenant_id: str = "acme", by: str = "ann") -> pb.EventType:
        request = pb.PutEventTypeRequest(event_type=wanted, tenant_id=tenant_id, changed_by=by)
        return (await self.stub.PutEventType(request)).event_type

    async def archive(self, name: str = NAME, tenant_id: str = "acme", by: str = "bob") -> pb.EventType:
        request = pb.ArchiveEventTypeRequest(name=name, tenant_id=tenant_id, changed_by=by)
        return (await self.stub.ArchiveEventType(request)).event_type

    async def restore(self, name: str = NAME, tenant_id: str = "acme", by: str = "cai") -> pb.EventType:
        request = pb.RestoreEventTypeRequest(name=name, tenant_id=tenant_id, changed_by=by)
        return (await self.stub.RestoreEventType(request)).event_type

    async def delete(self, name: str = NAME, tenant_id: str = "acme", by: str = "dee") -> None:
        request = pb.DeleteEventTypeRequest(name=name, tenant_id=tenant_id, changed_by=by)
        await self.stub.DeleteEventType(request)

    async def listed(self, tenant_id: str = "acme") -> dict[str, pb.EventType]:
        answer = await self.stub.ListEventTypes(pb.ListEventTypesRequest(tenant_id=tenant_id))
        return {each.name: each for each in answer.event_types}

    async def versions(self, name: str = NAME, tenant_id: str = "acme") -> list[tuple[int, int, str]]:
        request = pb.ListEventTypeVersionsRequest(name=name, tenant_id=tenant_id)
        answer = await self.stub.ListEventTypeVersions(request)
        return [(each.version, each.change, each.changed_by) for each in answer.versions]


@pytest.fixture
def types(ingest: RunningIngest) -> Types:
    return Types(ingest)


@pytest.fixture
def corrections(ingest: RunningIngest) -> Corrections:
    return Corrections(ingest)


async def reason_of(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(AioRpcError) as refused:
        await call
    return refused.value.code(), "TYPE_HAS_EVENTS" if _says(refused.value, b"TYPE_HAS_EVENTS") else ""


def _says(error: AioRpcError, text: bytes) -> bool:
    return any(text in each.value for each in status_of(error).details)


async def outcomes(ingest: RunningIngest, *samples: Sample, form: Any = rows) -> list[str]:
    found = [""] * len(samples)
    for each in (await ingest.report(form(*samples))).outcomes:
        found[each.index] = each.reason
    return found


async def test_archived_type_accepts_no_new_events(
    ingest: RunningIngest, types: Types, corrections: Corrections, quarantine: QuarantineApi
) -> None:
    await types.put(timed())
    old, waiting = call(), call(quantities={"own.seconds": "-1"})
    assert await outcomes(ingest, old, waiting) == ["", "QUANTITY_NEGATIVE"]
    archived = await types.archive()
    assert archived.archived_at.seconds

    for form in (rows, columns):
        new = call()
        answer = await ingest.report(form(new))
        assert [(each.reason, each.field) for each in answer.outcomes] == [("TYPE_ARCHIVED", "type")]
        since = archived.archived_at.ToDatetime().isoformat(timespec="seconds")
        assert since in answer.outcomes[0].message
        assert answer.outcomes[0].quarantined
        # Repeats of accepted events are still recognised, and other faults are reported first.
        assert await outcomes(ingest, old, form=form) == ["DUPLICATE"]
        assert await outcomes(ingest, replace(old, subject="x"), form=form) == ["CONFLICT"]
        assert await outcomes(ingest, call(subject="\0"), form=form) == ["TEXT_INVALID"]
    imported = await corrections.import_events("00000000-0000-4000-8000-000000000001", call(), old)
    assert [each.reason for each in imported.outcomes] == ["TYPE_ARCHIVED", "DUPLICATE"]
    timers = timers_pb2_grpc.TimersServiceStub(ingest.channel)
    with pytest.raises(AioRpcError) as refused:
        await timers.StartTimer(timers_pb2.StartTimerRequest(**ACME, timer_id="t", type=NAME, source="test"))
    assert _says(refused.value, b"TYPE_ARCHIVED")
    # A quarantined event of the type stays rejected, also when its first fault is fixed.
    await types.put(definition(timer=timed().timer, dimensions=[pb.DimensionDefinition(name="kind")]))
    assert (await quarantine.replay()).accepted == 0

    await types.restore()
    assert (await quarantine.replay()).accepted == 2
    assert await outcomes(ingest, call()) == [""]


async def test_events_of_an_archived_type_can_be_read_and_corrected(
    ingest: RunningIngest, types: Types, corrections: Corrections
) -> None:
    await types.put(definition())
    first, second = call(), call()
    assert await outcomes(ingest, first, second) == ["", ""]
    await types.archive()

    changes = corrections_pb2.EventChanges(quantities={"own.seconds": "7"})
    await corrections.amend(first.id, changes)
    await corrections.retract(second.id)

    assert dict((await corrections.get(first.id)).event.quantities) == {"own.seconds": "7"}
    assert await corrections.total() == 1
    request = events_pb2.GetEventRequest(tenant_id="acme", event_id=first.id)
    assert (await ingest.events.GetEvent(request)).event.type == NAME


async def test_archiving_is_idempotent_and_versions_record_the_author(
    ingest: RunningIngest, types: Types
) -> None:
    await types.put(definition())
    archived = await types.archive()
    assert await types.archive(by="eve") == archived
    assert (await types.listed())[NAME] == archived
    # Putting the same definition again succeeds, and does not restore the type.
    assert await types.put(definition()) == archived
    grown = await types.put(definition(subject_required=True))
    assert grown.archived_at == archived.archived_at
    assert (await types.listed())[NAME] == grown
    restored = await types.restore()
    assert not restored.HasField("archived_at")
    assert await types.restore(by="eve") == restored
    assert await types.versions() == [
        (1, pb.EVENT_TYPE_CHANGE_PUT, "ann"),
        (2, pb.EVENT_TYPE_CHANGE_ARCHIVED, "bob"),
        (3, pb.EVENT_TYPE_CHANGE_PUT, "ann"),
        (4, pb.EVENT_TYPE_CHANGE_RESTORED, "cai"),
    ]


async def test_type_without_events_is_deleted(ingest: RunningIngest, types: Types) -> None:
    await types.put(definition("typo", 2, "cents"), tenant_id="")
    with pytest.raises(AioRpcError, match="scale 2"):
        await types.put(definition("right", 3, "cents"), tenant_id="")
    await types.archive("typo", tenant_id="")
    # An archived type still determines the scale of its quantities.
    with pytest.raises(AioRpcError, match="scale 2"):
        await types.put(definition("right", 3, "cents"), tenant_id="")

    await types.delete("typo", tenant_id="")

    assert "typo" not in await types.listed("")
    sample = Sample(type="typo", dimensions={}, quantities={"cents": "1"})
    assert await outcomes(ingest, sample) == ["UNKNOWN_EVENT_TYPE"]
    await types.put(definition("right", 3, "cents"), tenant_id="")
    for operation in (types.delete, types.archive, types.restore):
        assert await reason_of(operation("typo", tenant_id="")) == (grpc.StatusCode.NOT_FOUND, "")
    # A new type of the same name continues the version numbers.
    await types.put(definition("typo", 3, "cents"), tenant_id="")
    assert await types.versions("typo", tenant_id="") == [
        (1, pb.EVENT_TYPE_CHANGE_PUT, "ann"),
        (2, pb.EVENT_TYPE_CHANGE_ARCHIVED, "bob"),
        (3, pb.EVENT_TYPE_CHANGE_DELETED, "dee"),
        (4, pb.EVENT_TYPE_CHANGE_PUT, "ann"),
    ]
    again = Sample(type="typo", dimensions={}, quantities={"cents": "0.125"})
    assert await outcomes(ingest, again) == [""]
    request = events_pb2.GetEventRequest(tenant_id="acme", event_id=again.id)
    assert dict((await ingest.events.GetEvent(request)).event.quantities) == {"cents": "0.125"}


async def test_type_with_events_timers_or_quarantined_events_is_not_deleted(
    ingest: RunningIngest, types: Types, corrections: Corrections, quarantine: QuarantineApi
) -> None:
    needed = grpc.StatusCode.FAILED_PRECONDITION, "TYPE_HAS_EVENTS"
    await types.put(timed())
    bad = call(quantities={"own.seconds": "-1"})
    assert await outcomes(ingest, bad) == ["QUANTITY_NEGATIVE"]
    assert await reason_of(types.delete()) == needed
    await quarantine.discard(everything=quarantine_pb2.EverythingQuarantined())

    timers = timers_pb2_grpc.TimersServiceStub(ingest.channel)
    await timers.StartTimer(timers_pb2.StartTimerRequest(**ACME, timer_id="t", type=NAME, source="test"))
    assert await reason_of(types.delete()) == needed
    await timers.StopTimer(timers_pb2.StopTimerRequest(**ACME, timer_id="t"))
    # The stopped timer has become an event, which blocks deletion even after its retraction.
    assert await reason_of(types.delete()) == needed
    for event in (await ingest.events.ListEvents(_all_events())).events:
        await corrections.retract(event.event_id)
    assert await reason_of(types.delete()) == needed
    assert NAME in await types.listed()
    assert [kind for _, kind, _ in await types.versions()] == [pb.EVENT_TYPE_CHANGE_PUT]


def _all_events() -> events_pb2.ListEventsRequest:
    request = events_pb2.ListEventsRequest(tenant_id="acme", type=NAME)
    request.time.start_time.FromSeconds(0)
    request.time.end_time.FromSeconds(4_000_000_000)
    return request


@pytest.mark.req("T4.1")
async def test_operator_can_reuse_name_of_deleted_legacy_tenant_type(
    ingest: RunningIngest, types: Types, database: TestDatabase
) -> None:
    """Legacy types of tenants may have names without a prefix."""
    await ingest.onboard(2, "bolt")
    await eventually(lambda: is_known(ingest, "bolt"))
    _insert_legacy_type(database, 1, "flight")
    _insert_legacy_type(database, 2, "flight")
    wanted = definition("flight", 2, "miles")
    for tenant_id in ("acme", "bolt"):
        with pytest.raises(AioRpcError, match="a tenant has a type of this name"):
            await types.put(wanted, tenant_id="")
        await types.delete("flight", tenant_id=tenant_id)
    await types.put(wanted, tenant_id="")
    sample = Sample(type="flight", dimensions={}, quantities={"miles": "12.25"})
    assert await outcomes(ingest, sample) == [""]


def _insert_legacy_type(database: TestDatabase, tenant_id: int, name: str) -> None:
    stated = '{"quantities": [], "dimensions": [], "subject_required": false}'
    with psycopg.connect(database.admin_dsn) as connection:
        values = (tenant_id, name, stated)
        connection.execute("INSERT INTO ingest.tenant_event_types VALUES (%s, %s, %s, 1)", values)
        connection.execute(
            "INSERT INTO ingest.event_type_versions (tenant_id, name, version, definition, changed_by)"
            " VALUES (%s, %s, 1, %s, '')",
            values,
        )


@pytest.fixture
async def other(
    database: TestDatabase, broker: NatsServer, ingest: RunningIngest
) -> AsyncIterator[RunningIngest]:
    """A second replica."""
    async with running_ingest(database, broker) as service:
        await eventually(lambda: is_known(service, "acme"))
        yield service


async def test_replica_with_stale_cache_stores_no_event_of_a_deleted_type(
    ingest: RunningIngest, other: RunningIngest, types: Types
) -> None:
    """Its cached type has another scale than the new type of the same name."""
    await types.put(definition("cargo", 2, "tons"), tenant_id="")
    sample = Sample(type="cargo", dimensions={}, quantities={"tons": "1.25"})
    # Makes the other replica cache the type, without a series of it.
    assert await outcomes(other, replace(sample, quantities={"tons": "x"})) == ["QUANTITY_NOT_A_DECIMAL"]
    await QuarantineApi(ingest.channel).discard()
    await types.delete("cargo", tenant_id="")
    assert await outcomes(other, sample) == ["UNKNOWN_EVENT_TYPE"]

    await types.put(definition("cargo", 3, "tons"), tenant_id="")
    if await outcomes(other, sample) == [""]:
        # The replica has reloaded the types meanwhile.
        assert await tons(other, sample) == "1.25"
    fine = Sample(type="cargo", dimensions={}, quantities={"tons": "0.125"})
    assert await outcomes(ingest, fine) == [""]
    assert await tons(ingest, fine) == "0.125"


async def tons(ingest: RunningIngest, sample: Sample) -> str:
    request = events_pb2.GetEventRequest(tenant_id="acme", event_id=sample.id)
    return (await ingest.events.GetEvent(request)).event.quantities["tons"]


@pytest.fixture
async def pool(database: TestDatabase) -> AsyncIterator[Database]:
    made = Database(database.app_dsn("ingest"), size=4, application_name="test")
    await made.start()
    yield made
    await made.stop()


async def test_series_is_created_only_for_the_validated_type(types: Types, pool: Database) -> None:
    async def numbers(book: TypeBook) -> list[int | None]:
        keys = [SeriesKey(1, name, ()) for name in ("cargo", "own.cargo")]
        return await Dictionaries(pool, quotas).series_ids(keys, book)

    async def quotas(tenant_ids: Collection[int]) -> dict[int, Quotas]:
        return dict.fromkeys(tenant_ids, Quotas(50, 40))

    names = (("cargo", ""), ("own.cargo", "acme"))
    for name, owner in names:
        await types.put(definition(name, 6, "own.tons" if owner else "tons"), tenant_id=owner)
    first = await EventTypeRepository(pool).book()
    for name, owner in names:
        await types.delete(name, tenant_id=owner)
    assert await numbers(first) == [TYPE_GONE, TYPE_GONE]
    for name, owner in names:
        await types.put(definition(name, 6, "own.tons" if owner else "tons"), tenant_id=owner)
    assert await numbers(first) == [TYPE_GONE, TYPE_GONE]
    second = await EventTypeRepository(pool).book()
    found = await numbers(second)
    assert TYPE_GONE not in found
    # Types with series cannot be deleted, so existing series are found without a check of the type.
    assert await numbers(first) == found


async def test_deletion_of_a_type_waits_for_its_first_series(
    types: Types, pool: Database, database: TestDatabase
) -> None:
    await types.put(definition())
    async with pool.connection([1]) as connection:
        assert await held(connection, [1], [NAME]) == {(1, NAME): 1}
        deleting = asyncio.create_task(reason_of(types.delete()))
        await eventually(lambda: _waits(database))
        # Reading the type, and creating the series, do not wait for the deletion.
        await asyncio.wait_for(types.listed(), 10)
        key = (series_digest(NAME, ()), NAME)
        await connection.execute(
            "INSERT INTO series (tenant_id, series_key, event_type, dimensions)"
            " VALUES (1, encode(%s, 'hex')::uuid, %s, '{}')",
            key,
        )
        await connection.commit()
    assert await deleting == (grpc.StatusCode.FAILED_PRECONDITION, "TYPE_HAS_EVENTS")


def _waits(database: TestDatabase) -> bool:
    with psycopg.connect(database.admin_dsn) as connection:
        rows = connection.execute(
            "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
            " AND query LIKE '%DELETE FROM tenant_event_types%'"
        ).fetchall()
    return bool(rows)
