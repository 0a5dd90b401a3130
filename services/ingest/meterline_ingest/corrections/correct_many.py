"""Corrects many events: a bounded number in each transaction, so that it can resume after an interruption."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Final

from meterline.clock import to_datetime
from meterline.db.pool import Connection
from meterline.deadline import time_left
from meterline.errors import AbortedError
from meterline.tenants import Tenant

from meterline_ingest.audit import store as audit_store
from meterline_ingest.audit.rules import EVENTS_CORRECTED
from meterline_ingest.corrections.correct_one import (
    ATTEMPTS,
    Call,
    CorrectionContext,
    add_effect,
    commit,
    known,
)
from meterline_ingest.corrections.corrector import Prepared
from meterline_ingest.corrections.rules.changes import MAX_FAILURES, MAX_MESSAGE_ROWS, Changes, Failure, Kind
from meterline_ingest.corrections.rules.effects import Effect
from meterline_ingest.corrections.rules.selection import EventsFilter, NamedEvents
from meterline_ingest.corrections.store import corrections, current, selecting
from meterline_ingest.corrections.store.corrections import Position, Request
from meterline_ingest.corrections.store.current import Current

Selection = NamedEvents | EventsFilter

_FIRST: Final[Position] = {"at": 0}
# A chunk is begun only while the call has this many times the longest chunk's duration left.
_SPARE: Final = 3


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a call got, including earlier attempts."""

    complete: bool
    corrected: int
    unchanged: int
    failed: int
    failures: Sequence[Failure]


@dataclass(slots=True)
class _Chunk:
    """Events to correct, failures, and where to go on."""

    events: list[Current]
    failures: list[Failure]
    position: Position | None


async def correct_events(
    context: CorrectionContext, slug: str, selection: Selection, changes: Changes | None, call: Call
) -> Progress:
    """Corrects as many as time permits. Raises AbortedError, AlreadyExistsError, ShreddedError."""
    tenant = await context.tenants.get(slug)
    digest = await context.digest(tenant.tenant_id, changes, call.body)
    request = await _open(context, tenant.tenant_id, selection, changes, call, digest)
    has_time = _pace()
    while request.position is not None and has_time():
        await _correct_chunk(context, tenant, selection, changes, call, request)
        request = await _read(context, tenant.tenant_id, call.correction_id, digest)
    async with context.database.connection([tenant.tenant_id]) as connection:
        corrected = await corrections.count(connection, tenant.tenant_id, call.correction_id)
    failures = [Failure(**each) for each in request.failures]
    return Progress(request.position is None, corrected, request.unchanged, request.failed, failures)


async def preview_corrections(
    context: CorrectionContext, slug: str, selection: Selection, changes: Changes | None
) -> tuple[Progress, Effect]:
    """What `correct_events` would do; for a part, when time does not permit all."""
    tenant = await context.tenants.get(slug)
    found, effect = Progress(False, 0, 0, 0, []), Effect()
    position: Position | None = _start(selection)
    asked_at, has_time = to_datetime(context.corrector.now_us()), _pace()
    while position is not None and has_time():
        async with context.database.connection([tenant.tenant_id]) as connection:
            chunk = await _next(connection, tenant.tenant_id, selection, changes, asked_at, position)
        prepared = await context.corrector.prepare(tenant, chunk.events, changes)
        await add_effect(context, effect, tenant, prepared)
        failures = [*chunk.failures, *prepared.failures]
        position = chunk.position
        found = Progress(
            position is None,
            found.corrected + len(prepared.revisions),
            found.unchanged + prepared.unchanged,
            found.failed + len(failures),
            [*found.failures, *failures][:MAX_FAILURES],
        )
    return found, await context.effects.finish(effect, slug)


def _pace() -> Callable[[], bool]:
    """A function that returns before each chunk whether there is time for it; for the first one always."""
    began: float | None = None
    longest = 0.0

    def has_time() -> bool:
        nonlocal began, longest
        now = time.monotonic()
        first = began is None
        longest = max(longest, now - (now if began is None else began))
        began = now
        left = time_left.get()
        seconds = left() if left else None
        return first or seconds is None or seconds > _SPARE * longest

    return has_time


def _start(selection: Selection) -> Position:
    return _FIRST if isinstance(selection, NamedEvents) else selecting.START


async def _open(
    context: CorrectionContext,
    tenant_id: int,
    selection: Selection,
    changes: Changes | None,
    call: Call,
    digest: uuid.UUID,
) -> Request:
    """The call as stored, now or in an earlier attempt."""
    change = call.change
    async with context.unit_of_work.begin([tenant_id]) as transaction:
        connection = transaction.connection
        new = await corrections.add_request(
            connection,
            tenant_id,
            call.correction_id,
            digest,
            change.requested_by,
            change.reason,
            _start(selection),
        )
        if new:
            await audit_store.record(
                connection,
                tenant_id,
                action=EVENTS_CORRECTED,
                subject=f"correction {call.correction_id}",
                principal=change.requested_by,
                reason=change.reason,
                details={"kind": _kind(changes).name.lower(), **_described(selection)},
            )
            await transaction.commit()
    return await _read(context, tenant_id, call.correction_id, digest)


async def _read(
    context: CorrectionContext, tenant_id: int, correction_id: uuid.UUID, digest: uuid.UUID
) -> Request:
    async with context.database.connection([tenant_id]) as connection:
        request = await known(connection, tenant_id, correction_id, digest)
    assert request is not None, "a call that was opened stays"
    return request


async def _correct_chunk(
    context: CorrectionContext,
    tenant: Tenant,
    selection: Selection,
    changes: Changes | None,
    call: Call,
    request: Request,
) -> None:
    """Continues from the request's position, unless the same call does so elsewhere."""
    tenant_id, position = tenant.tenant_id, request.position
    assert position is not None, "there is more to do"
    for _ in range(ATTEMPTS):
        async with context.database.connection([tenant_id]) as connection:
            chunk = await _next(connection, tenant_id, selection, changes, request.at, position)
            ids = [event.event_id for event in chunk.events]
            done = await corrections.already(connection, tenant_id, call.correction_id, ids)
        events = [event for event in chunk.events if event.event_id not in done]
        prepared = await context.corrector.prepare(tenant, events, changes)
        prepared.failures[:0] = chunk.failures
        try:
            await _store(context, tenant_id, call, request, prepared, chunk.position)
            return
        except AbortedError:
            continue
    raise AbortedError("others are correcting the same events")


async def _store(
    context: CorrectionContext,
    tenant_id: int,
    call: Call,
    request: Request,
    prepared: Prepared,
    position: Position | None,
) -> None:
    batch = await context.corrector.batch(tenant_id, prepared) if prepared.revisions else None
    async with context.unit_of_work.begin([tenant_id]) as transaction:
        connection, correction_id = transaction.connection, call.correction_id
        if await corrections.lock_request(connection, tenant_id, correction_id) != request.position:
            return
        if batch is not None:
            await context.corrector.store(transaction, tenant_id, correction_id, batch)
        room = MAX_FAILURES - len(request.failures)
        await corrections.move_request(
            connection,
            tenant_id,
            correction_id,
            position,
            unchanged=prepared.unchanged,
            failed=len(prepared.failures),
            failures=[asdict(failure) for failure in prepared.failures[:room]],
        )
        await commit(transaction)


async def _next(
    connection: Connection,
    tenant_id: int,
    selection: Selection,
    changes: Changes | None,
    asked_at: datetime,
    position: Position,
) -> _Chunk:
    limit = MAX_MESSAGE_ROWS if changes is None else MAX_MESSAGE_ROWS // 2
    if isinstance(selection, NamedEvents):
        return await _named(connection, tenant_id, selection, position, limit)
    found = await selecting.search(connection, tenant_id, selection, asked_at, position, limit)
    events = await current.read(connection, tenant_id, found.event_ids)
    # Retracted events have no content to match.
    meant = [each for each in events if not each.retracted and selection.fits(each.content)]
    return _Chunk(meant, [], found.position)


async def _named(
    connection: Connection, tenant_id: int, selection: NamedEvents, position: Position, limit: int
) -> _Chunk:
    end = position["at"] + limit
    names = dict(selection.events[position["at"] : end])
    events = await current.read(connection, tenant_id, list(names))
    missing = names.keys() - {event.event_id for event in events}
    failures = [
        Failure(text, "NOT_FOUND", "ids.event_ids", "an event of the tenant")
        for event_id, text in names.items()
        if event_id in missing
    ]
    return _Chunk(events, failures, {"at": end} if end < len(selection.events) else None)


def _kind(changes: Changes | None) -> Kind:
    return Kind.RETRACTED if changes is None else Kind.AMENDED


def _described(selection: Selection) -> Mapping[str, Any]:
    """The selection, for the audit log."""
    if isinstance(selection, NamedEvents):
        return {"events": str(len(selection.events))}
    stated = {
        "type": selection.event_type,
        "subject": selection.subject,
        "source": selection.source,
        "batch_ids": [str(each) for each in selection.batch_ids],
        "start": None if selection.start_us is None else to_datetime(selection.start_us).isoformat(),
        "end": None if selection.end_us is None else to_datetime(selection.end_us).isoformat(),
    }
    return {name: value for name, value in stated.items() if value}
