"""Reads, corrects, judges and stores the events of a flush."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import timedelta
from typing import Final

import numpy as np
from meterline.clock import Clock
from meterline.ids import new_id_bytes
from meterline.tasks import in_thread

from meterline_ingest.capture.call import Result, Submission
from meterline_ingest.capture.parse.rows import RowReader
from meterline_ingest.capture.rejected import Kept
from meterline_ingest.capture.rules import horizon
from meterline_ingest.capture.rules.ownership import Share, flag_foreign, named
from meterline_ingest.capture.rules.skew import Sending, correct
from meterline_ingest.capture.rules.validation import Check, check_times
from meterline_ingest.capture.skew_metric import Skews
from meterline_ingest.capture.store.horizon import OldEvents
from meterline_ingest.capture.transaction import Flush, FlushTransaction
from meterline_ingest.catalogue.store import CatalogueReader
from meterline_ingest.event.batches import BatchOrigin
from meterline_ingest.event.bounds import TimeLimits
from meterline_ingest.event.columns import Columns, Flags, Int64s, concatenate
from meterline_ingest.event.outcomes import Problem
from meterline_ingest.event.problems import Problems
from meterline_ingest.event_types.cache import TypeRegistry
from meterline_ingest.event_types.rules.book import TypeBook
from meterline_ingest.tenants.directory import TenantDirectory

# Usual bytes of an event in a row. Beyond MUCH bytes above these in a flush, or MANY combinations of fields
# and columns of quantities, events are read and judged off the event loop: that takes some 20 ms.
USUAL_BYTES: Final = 128
MUCH: Final = 256 << 10
MANY: Final = 500

_LEAST_US = timedelta(days=horizon.LEAST_DAYS) // timedelta(microseconds=1)


class Capture:
    """Flushes submissions. One for each process."""

    def __init__(
        self,
        flush_transaction: FlushTransaction,
        tenants: TenantDirectory,
        types: TypeRegistry,
        catalogue: CatalogueReader,
        skews: Skews,
        old_events: OldEvents,
        clock: Clock,
        *,
        max_age: timedelta,
        max_ahead: timedelta,
    ) -> None:
        self._flush_transaction = flush_transaction
        self._tenants = tenants
        self._types = types
        self._catalogue = catalogue
        self._skews = skews
        self._old_events = old_events
        self._clock = clock
        microsecond = timedelta(microseconds=1)
        self._limits = TimeLimits(max_age // microsecond, max_ahead // microsecond)

    async def flush(self, submissions: Sequence[Submission]) -> list[Result]:
        """Stores all good events of `submissions` in one transaction; one result each."""
        self._skews.observe(submissions)
        flush = await self._judge(submissions)
        kept = await self._flush_transaction.store(flush)
        return _results(submissions, flush.batch_ids, flush.checked.problems, kept)

    async def dry_run(self, submission: Submission) -> tuple[Result, bytes]:
        """The result of `flush`, and the message that it would publish. Stores only numbers of new series."""
        flush = await self._judge([submission])
        message = await self._flush_transaction.dry_run(flush)
        (result,) = _results([submission], flush.batch_ids, flush.checked.problems)
        return result, message

    async def preview(self, submissions: Sequence[Submission]) -> list[Result]:
        """The results of `flush`, without regard to quotas and stored events: a duplicate whose time is out
        of bounds by now is reported as rejected. Changes nothing."""
        flush = await self._judge(submissions)
        return _results(submissions, flush.batch_ids, flush.checked.problems)

    async def _judge(self, submissions: Sequence[Submission]) -> Flush:
        book = await self._types.current()
        columns = await _read(submissions, book)
        types = await self._types.current(columns.types)
        if types is not book:
            columns = await _read(submissions, types)
        problems = Problems.read_with(columns)
        # Checks times as they were sent, before computing with them.
        check_times(columns.times_us, problems)
        await self._refuse_old(columns, problems)
        flag_foreign(columns, [Share(len(each), each.origin.tenant) for each in submissions], problems)
        corrected = correct(columns.times_us, list(map(_sending, submissions)), self._skews.tolerance_us)
        now_us, any_age = _moments(submissions, self._clock.now_us()), _any_age(submissions)
        check = Check(columns, await self._tenants.numbers(named(columns, problems)), types, problems)
        many = check.combinations + len(columns.quantities) > MANY
        needed = await in_thread(check.entries_needed) if many else check.entries_needed()
        catalogue = await self._catalogue.find(needed) if needed else {}
        arguments = self._limits, now_us, catalogue, any_age, corrected
        checked = await in_thread(check.verdict, *arguments) if many else check.verdict(*arguments)
        batch_ids = [new_id_bytes() for _ in submissions]
        return Flush(submissions, batch_ids, checked, corrected, types)

    async def _refuse_old(self, columns: Columns, problems: Problems) -> None:
        """Reads the horizon, which may move at any moment, only if an event could lie behind it."""
        ids, sent_us = columns.ids, columns.times_us
        if len(ids) and horizon.oldest_us(ids, sent_us) < self._clock.now_us() - _LEAST_US:
            kept_since_us = await self._old_events.kept_since_us()
            if kept_since_us is not None:
                horizon.refuse_old(ids, sent_us, kept_since_us, problems)


def _sending(submission: Submission) -> Sending:
    origin = submission.origin
    return Sending(len(submission), origin.received_at_us, origin.sent_at_us)


def _moments(submissions: Sequence[Submission], now_us: int) -> int | Int64s:
    """The moment as of which each row is judged: now, or its receipt if it is replayed from quarantine."""
    replayed = [submission.origin.kind is BatchOrigin.REPLAYED for submission in submissions]
    if not any(replayed):
        return now_us
    received = [submission.origin.received_at_us for submission in submissions]
    return np.repeat(np.where(replayed, received, now_us), [len(each) for each in submissions])


def _any_age(submissions: Sequence[Submission]) -> Flags | None:
    """The rows of calls that may report events of any age."""
    if not any(submission.origin.any_age for submission in submissions):
        return None
    return np.repeat(
        [submission.origin.any_age for submission in submissions], [len(each) for each in submissions]
    )


async def _read(submissions: Sequence[Submission], types: TypeBook) -> Columns:
    rows = [each for each in submissions if each.columns is None]
    if sum(each.bytes - len(each) * USUAL_BYTES for each in rows) > MUCH:
        return await in_thread(_columns, submissions, types)
    return _columns(submissions, types)


def _columns(submissions: Sequence[Submission], types: TypeBook) -> Columns:
    """All rows in the order of `submissions`. Neighbouring calls with rows are read at once."""
    parts: list[Columns] = []
    reader: RowReader | None = None
    for submission in submissions:
        if submission.columns is None:
            reader = reader or RowReader(types.quantity_names)
            reader.add(submission.rows, submission.tenant_id, submission.origin.source)
            continue
        if reader is not None:
            parts.append(reader.finish())
            reader = None
        parts.append(submission.columns)
    if reader is not None:
        parts.append(reader.finish())
    return concatenate(parts, types.quantity_names)


def _results(
    submissions: Sequence[Submission],
    batch_ids: Sequence[bytes],
    problems: Problems,
    kept: Kept | None = None,
) -> list[Result]:
    by_call: list[dict[int, Problem]] = [{} for _ in submissions]
    kept_of: list[dict[int, int]] = [{} for _ in submissions]
    starts = np.cumsum([0, *map(len, submissions)])
    rows = np.array(sorted(problems.by_row), np.int64)
    calls = np.searchsorted(starts, rows, side="right") - 1
    places = zip(rows.tolist(), calls.tolist(), (rows - starts[calls]).tolist(), strict=True)
    for row, call, row_of_call in places:
        by_call[call][row_of_call] = problems.by_row[row]
        if kept and row in kept:
            kept_of[call][row_of_call] = kept[row]
    return [
        Result(
            len(submission),
            found,
            str(uuid.UUID(bytes=raw)) if len(found) < len(submission) else "",
            frozenset(quarantined),
            sum(quarantined.values()),
        )
        for submission, found, raw, quarantined in zip(submissions, by_call, batch_ids, kept_of, strict=True)
    ]
