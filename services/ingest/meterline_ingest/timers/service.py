"""Timers: started, kept alive, stopped once, and turned into one event each."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from cachetools import TTLCache
from meterline.clock import Clock, to_datetime
from meterline.crashpoints import crash_point
from meterline.db.pool import Connection, Database
from meterline.decimals import units_to_text
from meterline.errors import (
    AlreadyExistsError,
    InvalidArgumentError,
    NotFoundError,
    OverloadedError,
)
from meterline.telemetry.logging import logger
from meterline.tenants import Tenant, TenantReplica
from meterline.transactions.unit_of_work import UnitOfWork
from meterline_protos.ingest.v1 import capture_pb2
from opentelemetry import trace

from meterline_ingest.capture.call import Origin, Result, Submission
from meterline_ingest.capture.group_commit import Committer
from meterline_ingest.capture.parse import wire
from meterline_ingest.event.batches import BatchOrigin
from meterline_ingest.event.bounds import MAX_SOURCE, MAX_SUBJECT
from meterline_ingest.event.names import NOBODY
from meterline_ingest.event.outcomes import Kind
from meterline_ingest.event_types import store as event_types_store
from meterline_ingest.event_types.cache import TypeRegistry
from meterline_ingest.event_types.rules.types import TIMER_SCALE, EventType, TimerPolicy
from meterline_ingest.timers import rules, store
from meterline_ingest.timers.rules import MAX_TIMER_ID, Content, Timer, TimerFilter, TimerState
from meterline_ingest.timers.store import TimerKey

log = logger()

# How long a count of running timers is cached: the limit protects memory and disk, and need not be exact.
_COUNTED_SECONDS: Final = 5.0

Preview = Callable[[Sequence[Submission]], Awaitable[list[Result]]]
"""The results that capture would return, without storing anything."""


@dataclass(frozen=True, slots=True)
class TimerLimits:
    max_running: int
    max_ahead_us: int


class Timers:
    """One for each process. Transactions are short: none is open while capture works."""

    def __init__(
        self,
        database: Database,
        unit_of_work: UnitOfWork,
        tenants: TenantReplica,
        types: TypeRegistry,
        committer: Committer,
        preview: Preview,
        clock: Clock,
        limits: TimerLimits,
    ) -> None:
        self._database = database
        self._unit_of_work = unit_of_work
        self._tenants = tenants
        self._types = types
        self._committer = committer
        self._preview = preview
        self._clock = clock
        self._limits = limits
        self.on_due: Callable[[int], None] = lambda due_us: None
        """Called with the time at which a new timer is due."""
        self._running: TTLCache[int, int] = TTLCache(10_000, _COUNTED_SECONDS)

    async def start(
        self, slug: str, timer_id: str, content: Content, started_us: int | None
    ) -> tuple[Timer, bool]:
        """The timer, and whether it is new. Raises AlreadyExistsError for another timer of this name."""
        _check_text("timer_id", timer_id, MAX_TIMER_ID)
        _check_text("source", content.source, MAX_SOURCE)
        if len(content.subject) > MAX_SUBJECT:
            raise InvalidArgumentError("subject", f"at most {MAX_SUBJECT} characters")
        tenant = await self._tenants.get(slug)
        async with self._database.connection([tenant.tenant_id]) as connection:
            known = await store.find(connection, (tenant.tenant_id, timer_id))
        if known is not None:
            # Before anything that may have changed since it was started: its type, and the room for more.
            return _same(known, content, started_us), False
        definition = await self._definition(tenant.tenant_id, content)
        now_us = await self._now_us()
        timer = rules.start(
            tenant.tenant_id,
            timer_id,
            content,
            _policy(definition),
            started_us,
            now_us,
            self._limits.max_ahead_us,
        )
        await self._check_event(tenant, timer, definition)
        async with self._unit_of_work.begin([tenant.tenant_id]) as tx:
            await self._require_room(tx.connection, tenant)
            await self._hold_type(tx.connection, tenant.tenant_id, definition)
            if await store.insert(tx.connection, timer):
                await tx.commit()
                self._running[tenant.tenant_id] = self._running.get(tenant.tenant_id, 0) + 1
                self._announce_due(timer)
                return timer, True
            known = await store.find(tx.connection, (tenant.tenant_id, timer_id))
        return _same(_found(known, timer_id), content, started_us), False

    async def heartbeat(self, slug: str, timer_id: str) -> Timer:
        """Raises NotFoundError, and FailedPreconditionError when it has ended."""
        tenant = await self._tenants.get(slug)
        async with self._unit_of_work.begin([tenant.tenant_id]) as tx:
            timer = await _locked(tx.connection, (tenant.tenant_id, timer_id))
            definition = await self._definition(tenant.tenant_id, timer.content)
            beaten = timer.heartbeat(_policy(definition), await store.now_us(tx.connection))
            await store.update(tx.connection, beaten)
            await tx.commit()
        return beaten

    async def stop(self, slug: str, timer_id: str, stopped_us: int | None) -> Timer:
        """Stops it for good, then submits its event. Raises as `Timer.stop`, and what capture raises: the
        timer is stopped nevertheless, and its event is tried again."""
        tenant = await self._tenants.get(slug)
        key = tenant.tenant_id, timer_id
        async with self._unit_of_work.begin([tenant.tenant_id]) as tx:
            timer = await _locked(tx.connection, key)
            now_us = await store.now_us(tx.connection)
            stopped = timer.stop(stopped_us, now_us, self._limits.max_ahead_us)
            if stopped is not timer:
                await store.update(tx.connection, stopped)
                await tx.commit()
        return (
            await self._submit_and_settle(tenant, stopped)
            if stopped.state is TimerState.STOPPING
            else stopped
        )

    async def get(self, slug: str, timer_id: str) -> Timer:
        """Raises NotFoundError, also for a timer of another tenant."""
        tenant = await self._tenants.get(slug)
        async with self._database.connection([tenant.tenant_id]) as connection:
            return _found(await store.find(connection, (tenant.tenant_id, timer_id)), timer_id)

    async def page(self, slug: str, chosen: TimerFilter, after: str, limit: int) -> list[Timer]:
        """In the order of their names, after `after`."""
        tenant = await self._tenants.get(slug)
        async with self._database.connection([tenant.tenant_id]) as connection:
            return await store.page(connection, tenant.tenant_id, chosen, after, limit)

    async def process(self, key: TimerKey) -> None:
        """Abandons a timer whose heartbeats stopped, and submits the event of one that has ended."""
        tenant = await self._tenants.find_by_id(key[0])
        if tenant is None:
            return  # the next message adds it to the replica; the timer is due again soon
        async with self._unit_of_work.begin([tenant.tenant_id]) as tx:
            timer = await store.lock(tx.connection, key)
            if timer is None:
                return
            now_us = await store.now_us(tx.connection)
            if timer.is_forgotten(now_us):
                await store.delete(tx.connection, key)
                await tx.commit()
                return
            definition = await self._definition(tenant.tenant_id, timer.content)
            timer = timer.sweep(_policy(definition), now_us)
            await store.update(tx.connection, timer)
            await tx.commit()
        if timer.state is TimerState.STOPPING:
            await self._submit_and_settle(tenant, timer)

    async def _submit_and_settle(self, tenant: Tenant, timer: Timer) -> Timer:
        """Submits the event to capture. Its id is derived from the timer, so repeated attempts count once."""
        crash_point("timers.stop.before_capture")
        definition = await self._definition(tenant.tenant_id, timer.content)
        submission = self._submission(tenant, timer, definition)
        self._committer.submit(submission)
        problem = (await submission.result).problems.get(0)
        crash_point("timers.stop.after_capture")
        async with self._unit_of_work.begin([tenant.tenant_id]) as tx:
            current = await _locked(tx.connection, (timer.tenant_id, timer.timer_id))
            if current.state is not TimerState.STOPPING:
                return current
            now_us = await store.now_us(tx.connection)
            if problem is None or problem.kind is Kind.DUPLICATE:
                current = current.settled(now_us)
            else:
                current = current.refused(f"{problem.reason}: {problem.field}: {problem.message}", now_us)
                log.warning("timer.event_refused", timer_id=timer.timer_id, reason=problem.reason)
            await store.update(tx.connection, current)
            await tx.commit()
        return current

    async def _definition(self, tenant_id: int, content: Content) -> EventType:
        book = await self._types.current({content.event_type})
        definition = book.find(tenant_id, content.event_type)
        if definition is None or definition.timer is None:
            raise InvalidArgumentError("type", "an event type with a timer policy")
        if definition.sensitive & content.properties.keys():
            raise InvalidArgumentError("properties", "no sensitive ones: they would wait in the open")
        if definition.timer.quantity in content.quantities:
            raise InvalidArgumentError(
                f"quantities.{definition.timer.quantity}", "is what the timer measures"
            )
        return definition

    def _submission(self, tenant: Tenant, timer: Timer, definition: EventType) -> Submission:
        content, measured = timer.content, units_to_text(timer.duration_us, TIMER_SCALE)
        event = capture_pb2.Event(
            id=str(timer.event_id),
            type=content.event_type,
            subject=content.subject,
            dimensions=content.dimensions,
            quantities={**content.quantities, _policy(definition).quantity: measured},
            properties=content.properties,
        )
        event.time.FromDatetime(to_datetime(timer.stopped_us or timer.started_us))
        span = trace.get_current_span().get_span_context()
        return Submission(
            # The time at which the timer stopped is kept, however late the event is.
            Origin(content.source, self._clock.now_us(), None, span, BatchOrigin.TIMED, any_age=True),
            tenant.slug,
            rows=wire.events([event]),
            flags={0: timer.flags} if timer.flags else {},
        )

    async def _now_us(self) -> int:
        async with self._database.connection() as connection:
            return await store.now_us(connection)

    def _announce_due(self, timer: Timer) -> None:
        if timer.due_us is not None:
            self.on_due(timer.due_us)

    async def _check_event(self, tenant: Tenant, timer: Timer, definition: EventType) -> None:
        """Refuses at the start an event that capture would refuse at the end."""
        ended = timer.stop(None, timer.last_heartbeat_us, self._limits.max_ahead_us)
        (result,) = await self._preview([self._submission(tenant, ended, definition)])
        problem = result.problems.get(0)
        if problem is not None:
            raise InvalidArgumentError(problem.field, problem.message, problem.reason)

    async def _hold_type(self, connection: Connection, tenant_id: int, definition: EventType) -> None:
        """Locks the type against deletion until the timer is stored. Raises as `_definition`."""
        name = definition.name
        there = await event_types_store.held(connection, [tenant_id], [name])
        if definition.since not in (there.get((NOBODY, name)), there.get((tenant_id, name))):
            raise InvalidArgumentError("type", "an event type with a timer policy")

    async def _require_room(self, connection: Connection, tenant: Tenant) -> None:
        running, most = self._running.get(tenant.tenant_id), self._limits.max_running
        if running is None:
            running = await store.count_running(connection, tenant.tenant_id, most)
            self._running[tenant.tenant_id] = running
        if running >= most:
            raise OverloadedError(f"the list of running timers ({most})", 60.0)


def _policy(definition: EventType) -> TimerPolicy:
    assert definition.timer is not None
    return definition.timer


async def _locked(connection: Connection, key: TimerKey) -> Timer:
    return _found(await store.lock(connection, key), key[1])


def _same(timer: Timer, content: Content, started_us: int | None) -> Timer:
    if not timer.is_of(content, started_us):
        raise AlreadyExistsError("timer", timer.timer_id, "it was started with other content")
    return timer


def _found(timer: Timer | None, timer_id: str) -> Timer:
    if timer is None:
        raise NotFoundError("timer", timer_id)
    return timer


def _check_text(field: str, text: str, most: int) -> None:
    if not 0 < len(text) <= most:
        raise InvalidArgumentError(field, f"1 to {most} characters")
