"""Folds accepted events into windows: all messages of a batch in one transaction."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Final

from meterline.clock import Clock
from meterline.consuming.delivery import Delivery
from meterline.db.pool import Connection
from meterline.db.scope import ALL_TENANTS
from meterline.errors import Poison, RetryLater
from meterline.telemetry import metrics
from meterline.transactions.unit_of_work import Transaction

from meterline_aggregate.folding.counted import drop_uncounted
from meterline_aggregate.folding.decoding import Accepted, GarbledError, decode
from meterline_aggregate.folding.rules.changes import Changes
from meterline_aggregate.folding.rules.dispatch import fold
from meterline_aggregate.folding.series import SeriesBook, UnknownTenantError
from meterline_aggregate.folding.skips import skip
from meterline_aggregate.folding.splitting import WHOLE_KEY
from meterline_aggregate.folding.store import applied, windows
from meterline_aggregate.folding.store.windows import AppliedBeforeError

_FIRST_DELAY_SECONDS: Final = 0.1
_LONGEST_DELAY_SECONDS: Final = 5.0

# Single events arrive as thousands of batches per second; this many per transaction suffice for the metric.
_OBSERVATIONS: Final = 64


class AcceptedEvents:
    """The handler of `events.accepted`. Messages may come in any order, and together with any others."""

    def __init__(self, clock: Clock, book: SeriesBook, wake_rebuilder: Callable[[], None]) -> None:
        self._clock = clock
        self._book = book
        self._wake_rebuilder = wake_rebuilder

    async def handle(self, transaction: Transaction, deliveries: Sequence[Delivery]) -> Collection[uuid.UUID]:
        """Returns the ids of copies: messages whose content was applied before, under another message id, or
        so long ago that the inbox has deleted the id.

        Raises RetryLater for messages of tenants unknown here, Poison for messages that are garbled or repeat
        a batch of an earlier, different message; each names the messages at fault where possible. A repeated
        batch is noticed only if a meter counted its events.
        """
        accepted = _decode(deliveries)
        facts = [message.fact for message in accepted]
        try:
            # A message carries batches of many tenants.
            series = await self._book.look_up(transaction, facts, ALL_TENANTS)
        except UnknownTenantError as error:
            raise _later(deliveries, accepted, error) from error
        copies = await _copies(transaction.connection, deliveries, accepted)
        fresh = [at for at, delivery in enumerate(deliveries) if delivery.message_id not in copies]
        accepted = [accepted[at] for at in fresh]
        messages = [message.with_series(series[at]) for at, message in zip(fresh, accepted, strict=True)]
        counted = await drop_uncounted(transaction, accepted, messages)
        changes = skip(fold(counted), accepted, counted, self._book.unknown)
        if changes.rebuilds.months:
            transaction.after_commit(self._wake_rebuilder)
        try:
            await windows.apply(transaction.connection, changes)
        except AppliedBeforeError as error:
            raise Poison(str(error)) from error
        transaction.after_commit(partial(self._observe, changes))
        return copies

    def _observe(self, changes: Changes) -> None:
        metrics.EVENTS_AGGREGATED.inc(sum(batch.rows for batch in changes.batches))
        now_us = self._clock.now_us()
        for batch in changes.batches[:: 1 + len(changes.batches) // _OBSERVATIONS]:
            metrics.FRESHNESS_SECONDS.observe(max(0, now_us - batch.received_at_us) / 1e6)


def _decode(deliveries: Sequence[Delivery]) -> list[Accepted]:
    accepted: list[Accepted] = []
    garbled: dict[uuid.UUID, str] = {}
    for delivery in deliveries:
        try:
            accepted.append(decode(delivery.data))
        except GarbledError as error:
            garbled[delivery.message_id] = str(error)
    for reason in garbled.values():
        # Each message is buried with this text, so the error names only the messages that share the reason.
        raise Poison(reason, [message_id for message_id, other in garbled.items() if other == reason])
    return accepted


async def _copies(
    connection: Connection, deliveries: Sequence[Delivery], accepted: Sequence[Accepted]
) -> set[uuid.UUID]:
    """The messages that were applied before, or that repeat an earlier one of `deliveries`.

    A message is applied either whole or by batches, whichever comes first. Raises Poison for a whole message
    that was applied by batches.
    """
    copies = await _parts_of_applied(connection, deliveries)
    keys = {
        delivery.message_id: message.key
        for delivery, message in zip(deliveries, accepted, strict=True)
        if delivery.message_id not in copies
    }
    if not keys:
        return copies
    new = await applied.register(connection, set(keys.values()))
    known = set(keys.values()) - new
    by_batches = await applied.in_parts(connection, known) if known else known
    if found := [message_id for message_id, key in keys.items() if key in by_batches]:
        raise Poison("its batches are applied apart from each other", found)
    for message_id, key in keys.items():
        if key in new:
            new.remove(key)
        else:
            copies.add(message_id)
    return copies


async def _parts_of_applied(connection: Connection, deliveries: Sequence[Delivery]) -> set[uuid.UUID]:
    """Records that the messages whose parts are here are applied by batches; returns the parts of those that
    were applied whole."""
    whole_keys = {
        delivery.message_id: bytes.fromhex(delivery.headers[WHOLE_KEY])
        for delivery in deliveries
        if WHOLE_KEY in delivery.headers
    }
    if not whole_keys:
        return set()
    in_parts = await applied.register_in_parts(connection, set(whole_keys.values()))
    return {message_id for message_id, key in whole_keys.items() if key not in in_parts}


def _later(
    deliveries: Sequence[Delivery], accepted: Sequence[Accepted], error: UnknownTenantError
) -> RetryLater:
    """Retries soon at first, since tenants usually arrive soon after their first events; then less often."""
    waiting = [
        delivery
        for delivery, message in zip(deliveries, accepted, strict=True)
        if any(series.tenant_id in error.tenant_ids for series in message.fact.series)
    ]
    attempt = min(delivery.attempt for delivery in waiting)
    delay = min(_LONGEST_DELAY_SECONDS, _FIRST_DELAY_SECONDS * 2 ** min(attempt - 1, 10))
    return RetryLater(str(error), delay, [delivery.message_id for delivery in waiting])
