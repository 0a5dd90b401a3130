"""Stores a flush in one transaction: events, details, batches, rejected events and the message."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final

import numpy as np
from meterline.bus import subjects
from meterline.crashpoints import crash_point
from meterline.tasks import in_thread
from meterline.telemetry import metrics, propagation
from meterline.telemetry.tracing import MAX_LINKS, tracer
from meterline.transactions.unit_of_work import Transaction, UnitOfWork
from opentelemetry import trace

from meterline_ingest.capture import message as events
from meterline_ingest.capture import repetitions
from meterline_ingest.capture.call import Submission
from meterline_ingest.capture.details import Contents, Keyrings, Sealer
from meterline_ingest.capture.numbering import Numbering, Numbers
from meterline_ingest.capture.rejected import Kept, Quarantine
from meterline_ingest.capture.rules.combinations import distinct
from meterline_ingest.capture.rules.quantities import Slot
from meterline_ingest.capture.rules.skew import Corrected
from meterline_ingest.capture.rules.validation import Checked
from meterline_ingest.capture.store import details
from meterline_ingest.capture.store.events import BatchRow, EventWriter, Rows
from meterline_ingest.capture.store.rejected import Entry
from meterline_ingest.event.columns import Flags, Int64s
from meterline_ingest.event.outcomes import DUPLICATE
from meterline_ingest.event_types.rules.book import TypeBook

# Series and combinations, beyond which the message is made off the event loop.
MANY: Final = 500


@dataclass(slots=True)
class Flush:
    """The judged events of a flush. `batch_ids` is one a submission."""

    submissions: Sequence[Submission]
    batch_ids: Sequence[bytes]
    checked: Checked
    corrected: Corrected
    types: TypeBook

    def calls(self) -> Int64s:
        """The submission of each row."""
        sizes = [len(submission) for submission in self.submissions]
        return np.repeat(np.arange(len(sizes)), sizes)

    def flags(self) -> dict[int, Sequence[str]]:
        """Flags to store with single rows."""
        found: dict[int, Sequence[str]] = {}
        start = 0
        for submission in self.submissions:
            for row, flags in submission.flags.items():
                found[start + row] = flags
            start += len(submission)
        return found


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a flush before its events are stored.

    good: the rows to store
    twins: rows whose time is out of bounds, of events that are among the good rows too; they are judged
        after those are stored
    """

    numbers: Numbers
    good: Flags
    contents: Contents
    twins: Sequence[int]


@dataclass(frozen=True, slots=True)
class Prepared:
    """The parts of a flush that are ready to store. `positions`: where `rows` are in the flush."""

    batch_numbers: Int64s
    positions: Int64s
    rows: Rows
    known: Known
    tenants: set[int]


class FlushTransaction:
    """One for each process."""

    def __init__(
        self,
        unit_of_work: UnitOfWork,
        writer: EventWriter,
        numbering: Numbering,
        keys: Keyrings,
        quarantine: Quarantine,
    ) -> None:
        self._unit_of_work = unit_of_work
        self._writer = writer
        self._numbering = numbering
        self._keys = keys
        self._quarantine = quarantine

    async def store(self, flush: Flush) -> Kept:
        """Stores the good events, and the rejected ones in quarantine; returns which of these were kept.
        Flags those that were stored before."""
        known = await self._look(flush)
        rejected = await self._quarantine.gather(flush.submissions, flush.checked)
        if known.good.any():
            with _span(flush):
                return await self._store(flush, known, rejected)
        return await self._keep(rejected) if rejected else {}

    async def dry_run(self, flush: Flush) -> bytes:
        """As `store`, but rolls back all but new numbers; returns the message that it would publish."""
        known = await self._look(flush)
        if not known.good.any():
            return b""
        prepared = await self._prepare(flush, known)
        async with self._unit_of_work.begin(prepared.tenants) as transaction:
            _, message = await self._insert(transaction, flush, prepared)
        return message

    async def _look(self, flush: Flush) -> Known:
        """Flags what only the database can decide before the events are stored."""
        checked = flush.checked
        sealers = await self._sealers(checked)
        doubtful = _refuse_shredded(checked, sealers)
        numbers = await self._numbering.number(checked, flush.types)
        good = checked.problems.good()
        contents = Contents(checked, flush.corrected, flush.types, sealers, flush.flags())
        twins: Sequence[int] = []
        if doubtful:
            twins, others = repetitions.twins(checked, doubtful, good)
            # Their originals are stored with the good rows; until then this keeps them out of quarantine.
            checked.problems.put_first(twins, DUPLICATE)
            if others:
                tenant_ids = repetitions.tenants(checked, others)
                async with self._unit_of_work.begin(tenant_ids) as transaction:
                    await repetitions.settle_doubtful(transaction.connection, checked, others, contents, {})
        return Known(numbers, good, contents, twins)

    async def _keep(self, rejected: Sequence[Entry]) -> Kept:
        """Stores the rejected events of a flush without good ones."""
        async with self._unit_of_work.begin({entry.tenant_id for entry in rejected}) as transaction:
            kept = await self._quarantine.keep(transaction, rejected)
            await transaction.commit()
        return kept

    async def _store(self, flush: Flush, known: Known, rejected: Sequence[Entry]) -> Kept:
        prepared = await self._prepare(flush, known)
        async with self._unit_of_work.begin(prepared.tenants) as transaction:
            accepted, _ = await self._insert(transaction, flush, prepared)
            kept = await self._quarantine.keep(transaction, rejected)
            if rejected or accepted.any():
                crash_point("ingest.report.before_commit")
                await transaction.commit()
                crash_point("ingest.report.after_commit")
        metrics.BATCHES.inc(len(np.unique(flush.calls()[accepted])))
        return kept

    async def _prepare(self, flush: Flush, known: Known) -> Prepared:
        """Does everything that needs no transaction."""
        checked, good = flush.checked, known.good
        batches = np.array(await self._writer.batch_numbers(len(flush.submissions)))
        positions = np.flatnonzero(good)
        rows = _rows(checked, batches[flush.calls()], known.numbers, None if good.all() else positions)
        return Prepared(batches, positions, rows, known, set(checked.tenant_ids.tolist()) - {0})

    async def _insert(
        self, transaction: Transaction, flush: Flush, prepared: Prepared
    ) -> tuple[Flags, bytes]:
        """Returns which rows were accepted, and the message that reports them."""
        connection, numbers, rows = transaction.connection, prepared.batch_numbers, prepared.rows
        good, contents, twins = prepared.known.good, prepared.known.contents, prepared.known.twins
        inserted = await self._writer.insert(connection, rows, prepared.tenants)
        new = inserted.new
        accepted = good if new.all() else _only(len(good), prepared.positions[new])
        message = b""
        if accepted.any():
            message = await self._write_message(transaction, flush, accepted, numbers, contents)
        skews = dict(zip(numbers.tolist(), flush.corrected.skews_us, strict=True))
        if not new.all():
            await repetitions.settle(
                connection, flush.checked, rows, prepared.positions, inserted, contents, skews
            )
        if twins:
            await repetitions.settle_doubtful(connection, flush.checked, twins, contents, skews)
        return accepted, message

    async def _write_message(
        self, transaction: Transaction, flush: Flush, accepted: Flags, numbers: Int64s, contents: Contents
    ) -> bytes:
        """Stores everything about the new events but their rows; returns the message."""
        connection, call = transaction.connection, flush.calls()
        if detailed := await contents.details(accepted):
            await details.insert(connection, detailed)
        counts = np.bincount(call[accepted], minlength=len(flush.submissions))
        headers = _headers(flush, counts.tolist())
        if len(flush.checked.series) + len(flush.checked.fields.variants) > MANY:
            payload = await in_thread(events.events_accepted, flush.checked, accepted, headers, flush.types)
        else:
            payload = events.events_accepted(flush.checked, accepted, headers, flush.types)
        envelope = transaction.emit(subjects.events_accepted(), payload)
        batches = _batches(flush, numbers.tolist(), call, accepted)
        await self._writer.insert_batches(connection, batches, envelope.message_id)
        return payload

    async def _sealers(self, checked: Checked) -> Mapping[int, Sealer]:
        """Keys of the tenants whose events have sensitive properties."""
        variants = checked.fields.variants.values()
        tenants = {each.tenant_id for each in variants if each.definition.sensitive} - {0}
        return await self._keys.keyrings(tenants) if tenants else {}


def _rows(checked: Checked, batch_numbers: Int64s, numbers: Numbers, positions: Int64s | None) -> Rows:
    columns = checked.columns
    rows = slice(None) if positions is None else positions
    slots = [
        slot and Slot(slot.units[rows], None if slot.present is None else slot.present[rows])
        for slot in checked.slots
    ]
    text_ids = columns.text_ids
    if text_ids is not None and positions is not None:
        text_ids = [text_ids[row] for row in positions.tolist()]
    return Rows(
        columns.ids[rows],
        checked.tenant_ids[columns.tenant_index[rows]],
        batch_numbers[rows],
        numbers.subjects[rows],
        columns.times_us[rows],
        numbers.series[rows],
        slots,
        text_ids,
    )


def _refuse_shredded(checked: Checked, sealers: Mapping[int, Sealer]) -> Sequence[int]:
    """Flags events that can no longer be sealed, so that other events do not fail with them. Returns the
    doubtful rows that are left: without the tenant's key no bodies can be compared."""
    shredded = [tenant_id for tenant_id, sealer in sealers.items() if sealer.shredded]
    if not shredded:
        return checked.doubtful
    variants = checked.fields.variants.items()
    gone = [at for at, each in variants if each.tenant_id in shredded and each.sensitive]
    field, rule = "properties", "no sensitive ones: the keys of the tenant were destroyed"
    lost = np.isin(checked.fields.index, gone)
    checked.problems.flag_where(lost, "TENANT_SHREDDED", field, rule)
    return [row for row in checked.doubtful if not lost[row]]


def _only(size: int, rows: Int64s) -> Flags:
    flags = np.zeros(size, np.bool_)
    flags[rows] = True
    return flags


def _span(flush: Flush) -> AbstractContextManager[trace.Span]:
    """The span of the commit, in the trace of the first call and linked to those of the others."""
    first, *others = [submission.origin.trace for submission in flush.submissions]
    return tracer().start_as_current_span(
        "commit events",
        context=propagation.context_of(first),
        links=[trace.Link(other) for other in others[:MAX_LINKS]],
        attributes={"meterline.batch_id": str(uuid.UUID(bytes=flush.batch_ids[0]))},
    )


def _headers(flush: Flush, counts: Sequence[int]) -> list[events.BatchHeader]:
    """One for each call with accepted rows, in order."""
    return [
        events.BatchHeader(
            batch_id, count, propagation.to_proto(submission.origin.trace), submission.origin.received_at_us
        )
        for submission, batch_id, count in zip(flush.submissions, flush.batch_ids, counts, strict=True)
        if count
    ]


def _batches(flush: Flush, numbers: Sequence[int], call: Int64s, accepted: Flags) -> list[BatchRow]:
    """One for each call and tenant with accepted rows."""
    checked = flush.checked
    # A tenant may occur twice in the dictionary, since dictionaries are concatenated.
    tenant_ids, tenant_of = np.unique(checked.tenant_ids, return_inverse=True)
    both = (call * len(tenant_ids) + tenant_of[checked.columns.tenant_index])[accepted]
    codes, index = distinct(both, len(flush.submissions) * len(tenant_ids))
    times = checked.columns.times_us[accepted]
    first, last = np.full(len(codes), times.max()), np.full(len(codes), times.min())
    np.minimum.at(first, index, times)
    np.maximum.at(last, index, times)
    spans = zip(codes.tolist(), np.bincount(index).tolist(), first.tolist(), last.tolist(), strict=True)
    rows = []
    for code, count, first_us, last_us in spans:
        at = code // len(tenant_ids)
        origin = flush.submissions[at].origin
        rows.append(
            BatchRow(
                flush.batch_ids[at],
                int(tenant_ids[code % len(tenant_ids)]),
                numbers[at],
                origin.source,
                count,
                origin.received_at_us,
                origin.sent_at_us,
                flush.corrected.skews_us[at],
                origin.kind,
                first_us,
                last_us,
                origin.trace,
                import_id=origin.import_id,
            )
        )
    return rows
