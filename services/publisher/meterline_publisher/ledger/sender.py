"""Sends the rows of the ledger to the billing provider, so that each counts once, whatever the number of
attempts.

A row is leased, sent, and marked. From the lease on it counts as possibly arrived, until an answer shows
otherwise. If the process dies in between, the row is claimed again when the lease ends. Sending it again
under the same identifier is safe for as long as the provider remembers that; later the provider's sums are
read first.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from datetime import timedelta
from typing import Final

from meterline import backoff, tasks
from meterline.clock import Clock, to_datetime
from meterline.crashpoints import crash_point
from meterline.db.pool import Database
from meterline.db.scope import ALL_TENANTS
from meterline.errors import UnavailableError
from meterline.telemetry import propagation, traceparent
from meterline.telemetry.logging import logger
from meterline.telemetry.tracing import tracer
from meterline.transactions.unit_of_work import Transaction, UnitOfWork

from meterline_publisher.gaps import store as gaps_store
from meterline_publisher.gaps.rules import undeliverable
from meterline_publisher.invoices import store as invoices_store
from meterline_publisher.invoices.message import emit_changed
from meterline_publisher.invoices.rules import InvoiceState
from meterline_publisher.ledger import store
from meterline_publisher.ledger.rules.ledger import Finding, find, must_look_up
from meterline_publisher.ledger.rules.publications import Publication, PublicationState
from meterline_publisher.providers.port import (
    AmbiguousError,
    BillingProvider,
    BusyError,
    RejectedError,
    UsageEvent,
)

log = logger()

_POLL_SECONDS: Final = 5.0
# A lease exceeds the call's time limit by this much, so that the caller can still store a slow answer.
_LEASE_MARGIN: Final = timedelta(seconds=2)
# How long a row waits for which the provider's sums are unclear.
_UNCLEAR_PAUSE: Final = timedelta(hours=1)


class Sender:
    """A background task. `start` and `stop` may be called twice; `stop` waits for calls in progress."""

    def __init__(
        self,
        database: Database,
        unit_of_work: UnitOfWork,
        provider: BillingProvider,
        clock: Clock,
        *,
        concurrency: int,
        call_timeout: float,
        backoff_seconds: float,
        backoff_max_seconds: float,
    ) -> None:
        self._database = database
        self._unit_of_work = unit_of_work
        self._provider = provider
        self._clock = clock
        self._concurrency = concurrency
        self._lease = timedelta(seconds=call_timeout) + _LEASE_MARGIN
        self._stop_seconds = call_timeout + 2.0
        self._backoff = backoff.doubling(first=backoff_seconds, longest=backoff_max_seconds)
        self._random = random.Random()
        self._calls: set[asyncio.Task[None]] = set()
        self._loop = tasks.Loop(
            "sender", self._step, retry=backoff.constant(_POLL_SECONDS), grace=self._stop_seconds
        )

    def wake(self) -> None:
        """Starts the next step now: there is something to send."""
        self._loop.wake()

    async def start(self) -> None:
        await self._loop.start()

    async def stop(self) -> None:
        """Waits for calls in progress, up to a limit; unfinished rows are claimed again later."""
        await self._loop.stop()
        if self._calls:
            await asyncio.wait(self._calls, timeout=self._stop_seconds)
        for call in self._calls:
            call.cancel()
        await asyncio.gather(*self._calls, return_exceptions=True)

    # --- the loop

    async def _step(self) -> float:
        # A stop between a lease and its call would leave the row untouched until the lease ends.
        return await tasks.finish(self._fill())

    async def _fill(self) -> float:
        """Starts as many calls as there is room for; returns the seconds until the next step."""
        room = self._concurrency - len(self._calls)
        if room <= 0:
            return _POLL_SECONDS  # the end of a call wakes
        now, provider = to_datetime(self._clock.now_us()), self._provider.capabilities.name
        async with self._database.connection(ALL_TENANTS) as connection:
            rows = await store.claim(connection, provider, now, now + self._lease, room)
            due = None if rows else await store.next_due(connection, provider)
            await connection.commit()
        for row in rows:
            call = asyncio.create_task(self._serve(row), name=f"send {row.identifier}")
            self._calls.add(call)
            call.add_done_callback(self._ended)
        if rows:
            return 0.0
        return _POLL_SECONDS if due is None else min(max((due - now).total_seconds(), 0.0), _POLL_SECONDS)

    def _ended(self, call: asyncio.Task[None]) -> None:
        self._calls.discard(call)
        self._loop.wake()

    # --- one row

    async def _serve(self, row: Publication) -> None:
        parent = propagation.context_of(propagation.to_span_context(traceparent.to_proto(row.trace)))
        with tracer().start_as_current_span("send usage", context=parent):
            try:
                await self._attempt(row)
            except UnavailableError as error:
                # The row stays leased; when the lease ends it is claimed again, as one that may have arrived.
                log.warning("publication.not_marked", identifier=row.identifier, error=str(error))
            except Exception:
                log.exception("publication.fault", identifier=row.identifier)

    async def _attempt(self, row: Publication) -> None:
        now = to_datetime(self._clock.now_us())
        if must_look_up(row.first_attempt_at, now, self._provider.capabilities):
            await self._look_up(row)
            return
        if now >= row.next_attempt_at:
            return  # this process slept through its lease, and the row is somebody else's
        crash_point("publisher.send.before_call")
        try:
            await self._provider.send_usage(_event(row))
        except RejectedError as error:
            await self._reject(row, error)
            return
        except (BusyError, AmbiguousError) as error:
            await self._put_back(row, error)
            return
        crash_point("publisher.send.after_call")
        await self._mark_sent(row)
        crash_point("publisher.send.after_commit")

    async def _mark_sent(self, row: Publication) -> None:
        async with self._unit_of_work.begin([row.tenant_id]) as tx:
            await store.mark_sent(tx.connection, row, to_datetime(self._clock.now_us()))
            await _publish_if_complete(tx, row)
            await tx.commit()

    async def _reject(self, row: Publication, error: RejectedError) -> None:
        if row.state == PublicationState.AMBIGUOUS:
            # An earlier call may have arrived: this answer says nothing about that one.
            await self._put_back(row, AmbiguousError(error.code, str(error)))
            return
        log.error("publication.rejected", identifier=row.identifier, code=error.code, reason=str(error))
        async with self._unit_of_work.begin([row.tenant_id]) as tx:
            await store.mark_rejected(tx.connection, row, error.code)
            gap = undeliverable(row.meter, row.value, error.code)
            await gaps_store.replace(
                tx.connection, row.tenant_id, row.period, [gap], (), to_datetime(self._clock.now_us())
            )
            await tx.commit()

    async def _put_back(self, row: Publication, error: BusyError | AmbiguousError) -> None:
        seconds = backoff.with_jitter(self._backoff(row.attempts), self._random)
        pause = timedelta(seconds=seconds)
        log.warning(
            "publication.retried",
            identifier=row.identifier,
            code=error.code,
            attempt=row.attempts,
            retry_in=pause.total_seconds(),
        )
        at = to_datetime(self._clock.now_us()) + pause
        async with self._unit_of_work.begin([row.tenant_id]) as tx:
            if isinstance(error, BusyError):
                await store.mark_refused(tx.connection, row, error.code, at)
            else:
                await store.mark_unclear(tx.connection, row, error.code, at, new_key=error.replayed)
            await tx.commit()

    async def _look_up(self, row: Publication) -> None:
        """Decides by the provider's sums whether a row arrived that is too old to be sent again."""
        async with self._database.connection([row.tenant_id]) as connection:
            sent = await store.sent_total(
                connection, row.tenant_id, row.event_name, row.period_start, row.provider
            )
        finding, code = Finding.UNCLEAR, "unreconciled"
        try:
            total = await self._provider.usage_total(row.customer_id, row.event_name, row.period)
            finding = find(sent, row.value, total, self._provider.capabilities)
        except RejectedError as error:
            code = error.code
        log.warning("publication.looked_up", identifier=row.identifier, finding=finding.value)
        if finding is Finding.ARRIVED:
            await self._mark_sent(row)
            return
        now = to_datetime(self._clock.now_us())
        async with self._unit_of_work.begin([row.tenant_id]) as tx:
            if finding is Finding.ABSENT:
                await store.mark_absent(tx.connection, row, now)
            else:
                await store.mark_unclear(tx.connection, row, code, now + _UNCLEAR_PAUSE)
            await tx.commit()


async def _publish_if_complete(tx: Transaction, row: Publication) -> None:
    """Publishes the invoice if this was its last unsent row."""
    invoice = await invoices_store.by_id_for_update(tx.connection, row.tenant_id, row.invoice_id)
    if invoice is None or invoice.state != InvoiceState.OPEN:
        return
    if await store.is_complete(tx.connection, row.tenant_id, row.invoice_id):
        published = replace(invoice, state=InvoiceState.PUBLISHED.value, version=invoice.version + 1)
        await invoices_store.upsert(tx.connection, published)
        emit_changed(tx, published)


def _event(row: Publication) -> UsageEvent:
    return UsageEvent(
        identifier=row.identifier,
        idempotency_key=row.idempotency_key,
        event_name=row.event_name,
        customer=row.customer_id,
        value=row.value,
        at=row.event_at,
    )
