"""What happens to the events of a flush: read, judge, store, tell."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from contextlib import AbstractContextManager
from datetime import timedelta

import numpy as np
from meterline.bus import subjects
from meterline.clock import Clock
from meterline.crashpoints import crash_point
from meterline.db.pool import Connection
from meterline.db.unit_of_work import UnitOfWork
from meterline.ids import new_id_bytes
from meterline.telemetry import metrics, propagation
from meterline.telemetry.tracing import MAX_LINKS, tracer
from opentelemetry import trace

from meterline_ingest import events
from meterline_ingest.committer import Result, Submission
from meterline_ingest.domain import validation
from meterline_ingest.domain.columns import Columns, Flags, Int64s, concatenate
from meterline_ingest.domain.limits import TimeLimits
from meterline_ingest.domain.outcomes import CONFLICT, DUPLICATE, Problem, Problems
from meterline_ingest.domain.type_book import TypeBook
from meterline_ingest.domain.validation import Checked
from meterline_ingest.registry import TenantDirectory, TypeRegistry
from meterline_ingest.repository.dictionaries import Dictionaries
from meterline_ingest.repository.writing import BatchRow, EventWriter, Rows
from meterline_ingest.rows import RowReader


class Capture:
    """Flushes submissions. One for each process."""

    def __init__(
        self,
        unit_of_work: UnitOfWork,
        writer: EventWriter,
        dictionaries: Dictionaries,
        tenants: TenantDirectory,
        types: TypeRegistry,
        clock: Clock,
        *,
        max_age: timedelta,
        max_ahead: timedelta,
    ) -> None:
        self._unit_of_work = unit_of_work
        self._writer = writer
        self._dictionaries = dictionaries
        self._tenants = tenants
        self._types = types
        self._clock = clock
        microsecond = timedelta(microseconds=1)
        self._limits = TimeLimits(max_age // microsecond, max_ahead // microsecond)

    async def flush(self, submissions: Sequence[Submission]) -> list[Result]:
        """Stores all good events of `submissions` in one transaction; one result each."""
        book = await self._types.current()
        columns, problems = _read(submissions, book)
        types = await self._types.current(columns.types)
        if types is not book:
            columns, problems = _read(submissions, types)
        checked = validation.check(
            columns,
            await self._tenants.numbers(columns.tenants),
            types,
            self._limits,
            self._clock.now_us(),
            problems,
        )
        batch_ids = [new_id_bytes() for _ in submissions]
        good = checked.problems.good()
        if good.any():
            with _span(submissions, batch_ids):
                await self._store(submissions, batch_ids, checked, good, types)
        return _results(submissions, batch_ids, checked.problems)

    async def _store(
        self,
        submissions: Sequence[Submission],
        batch_ids: list[bytes],
        checked: Checked,
        good: Flags,
        types: TypeBook,
    ) -> None:
        sizes = [len(submission) for submission in submissions]
        call = np.repeat(np.arange(len(sizes)), sizes)
        numbers = np.array(await self._writer.batch_numbers(len(sizes)))
        everything = bool(good.all())
        positions = np.flatnonzero(good)
        rows = await self._rows(checked, numbers[call], None if everything else positions)
        async with self._unit_of_work.begin() as transaction:
            new = await self._writer.insert(transaction.connection, rows)
            if not new.all():
                await self._settle_repeated(transaction.connection, checked.problems, rows, positions, new)
            accepted = checked.problems.good()
            if not accepted.any():
                return
            counts = np.bincount(call[accepted], minlength=len(sizes))
            headers = _headers(submissions, batch_ids, counts.tolist())
            payload = events.events_accepted(checked, accepted, headers, types)
            envelope = transaction.emit(subjects.events_accepted(), payload)
            batches = _batches(submissions, batch_ids, numbers.tolist(), call, checked, accepted)
            await self._writer.insert_batches(transaction.connection, batches, envelope.message_id)
            crash_point("ingest.report.before_commit")
            await transaction.commit()
            crash_point("ingest.report.after_commit")
        metrics.BATCHES.inc(len(headers))

    async def _rows(self, checked: Checked, batch_numbers: Int64s, positions: Int64s | None) -> Rows:
        columns = checked.columns
        rows = slice(None) if positions is None else positions
        tenant_ids = checked.tenant_ids[columns.tenant_index]
        pairs = columns.tenant_index.astype(np.int64) * len(columns.subjects) + columns.subject_index
        codes, subject_index = validation.distinct(pairs[rows], len(columns.tenants) * len(columns.subjects))
        subjects_used = [
            (
                int(checked.tenant_ids[code // len(columns.subjects)]),
                columns.subjects[code % len(columns.subjects)],
            )
            for code in codes.tolist()
        ]
        series_used, series_index = validation.distinct(checked.series_index[rows], len(checked.series))
        subject_ids = np.array(await self._dictionaries.subject_ids(subjects_used))
        series_ids = np.array(
            await self._dictionaries.series_ids([checked.series[at] for at in series_used.tolist()])
        )
        slots = [
            slot and validation.Slot(slot.units[rows], None if slot.present is None else slot.present[rows])
            for slot in checked.slots
        ]
        text_ids = columns.text_ids
        if text_ids is not None and positions is not None:
            text_ids = [text_ids[row] for row in positions.tolist()]
        return Rows(
            columns.ids[rows],
            tenant_ids[rows],
            batch_numbers[rows],
            subject_ids[subject_index],
            columns.times_us[rows],
            series_ids[series_index],
            slots,
            text_ids,
        )

    async def _settle_repeated(
        self, connection: Connection, problems: Problems, rows: Rows, positions: Int64s, new: Flags
    ) -> None:
        repeated = np.flatnonzero(~new)
        differs = await self._writer.stored_differently(connection, rows.take(repeated))
        for position, other in zip(positions[repeated].tolist(), differs, strict=True):
            problems.flag([position], CONFLICT if other else DUPLICATE)


def _read(submissions: Sequence[Submission], types: TypeBook) -> tuple[Columns, Problems]:
    """All rows in the order of `submissions`. Neighbouring calls that brought rows are read in one go."""
    parts: list[tuple[Columns, Problems]] = []
    reader: RowReader | None = None
    for submission in submissions:
        if submission.columns is None:
            reader = reader or RowReader(types.quantity_names)
            reader.add(submission.rows, submission.tenant_id, submission.origin.source)
            continue
        if reader is not None:
            parts.append(reader.finish())
            reader = None
        parts.append((submission.columns, Problems(len(submission.columns))))
    if reader is not None:
        parts.append(reader.finish())
    columns = concatenate([each for each, _ in parts], types.quantity_names)
    problems = Problems(len(columns))
    start = 0
    for each, found in parts:
        for row, problem in found.by_row.items():
            problems.flag([start + row], problem)
        start += len(each)
    return columns, problems


def _span(
    submissions: Sequence[Submission], batch_ids: Sequence[bytes]
) -> AbstractContextManager[trace.Span]:
    """The commit, in the trace of the first call and linked to those of the others."""
    first, *others = [submission.origin.trace for submission in submissions]
    return tracer().start_as_current_span(
        "commit events",
        context=propagation.context_of(first),
        links=[trace.Link(other) for other in others[:MAX_LINKS]],
        attributes={"meterline.batch_id": str(uuid.UUID(bytes=batch_ids[0]))},
    )


def _headers(
    submissions: Sequence[Submission], batch_ids: Sequence[bytes], counts: Sequence[int]
) -> list[events.BatchHeader]:
    """One for each call that something was accepted of, in order."""
    return [
        events.BatchHeader(
            batch_id, count, propagation.to_proto(submission.origin.trace), submission.origin.received_at_us
        )
        for submission, batch_id, count in zip(submissions, batch_ids, counts, strict=True)
        if count
    ]


def _batches(
    submissions: Sequence[Submission],
    batch_ids: Sequence[bytes],
    numbers: Sequence[int],
    call: Int64s,
    checked: Checked,
    accepted: Flags,
) -> list[BatchRow]:
    """One for each call and tenant that something was accepted of."""
    tenants = len(checked.columns.tenants)
    both = (call * tenants + checked.columns.tenant_index)[accepted]
    codes, index = validation.distinct(both, len(submissions) * tenants)
    rows: dict[tuple[int, int], int] = {}
    for code, count in zip(codes.tolist(), np.bincount(index).tolist(), strict=True):
        # A tenant may stand in the dictionary twice, since dictionaries are put side by side.
        key = code // tenants, int(checked.tenant_ids[code % tenants])
        rows[key] = rows.get(key, 0) + count
    return [
        BatchRow(
            batch_ids[at],
            tenant_id,
            numbers[at],
            submissions[at].origin.source,
            count,
            submissions[at].origin.received_at_us,
            submissions[at].origin.sent_at_us,
            submissions[at].origin.trace,
        )
        for (at, tenant_id), count in rows.items()
    ]


def _results(
    submissions: Sequence[Submission], batch_ids: Sequence[bytes], problems: Problems
) -> list[Result]:
    by_call: list[dict[int, Problem]] = [{} for _ in submissions]
    starts = np.cumsum([0, *map(len, submissions)])
    for row, problem in sorted(problems.by_row.items()):
        at = int(np.searchsorted(starts, row, side="right")) - 1
        by_call[at][row - int(starts[at])] = problem
    return [
        Result(len(submission), found, str(uuid.UUID(bytes=raw)) if len(found) < len(submission) else "")
        for submission, found, raw in zip(submissions, by_call, batch_ids, strict=True)
    ]
