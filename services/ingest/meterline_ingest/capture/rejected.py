"""Rejected events of a flush: stored sealed, with its good events, until they are replayed or discarded."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
from meterline.crypto.framing import part
from meterline.db.pool import Connection
from meterline.errors import ShreddedError, TamperedError
from meterline.tasks import Pace
from meterline.transactions.unit_of_work import Transaction
from meterline_protos.ingest.v1 import capture_pb2

from meterline_ingest.capture.call import Submission
from meterline_ingest.capture.details import Keyrings, Sealer
from meterline_ingest.capture.parse import to_event
from meterline_ingest.capture.rejection_counts import Labels, Refusal, RejectionCounts
from meterline_ingest.capture.rules.ownership import FOREIGN
from meterline_ingest.capture.rules.rejected import MAX_KEPT_OF_CALL, MAX_KEPT_OF_FLUSH, MAX_PAYLOAD, Held
from meterline_ingest.capture.rules.validation import Checked
from meterline_ingest.capture.store import rejected as store
from meterline_ingest.capture.store.rejected import PAYLOAD, TABLE, Entry, Key
from meterline_ingest.event.batches import BatchOrigin
from meterline_ingest.event.outcomes import Kind, Problem

# Entries of one statement: building its parameters blocks the event loop.
PORTION: Final = 1_000

# Imports, replays and timers keep their rejected events themselves.
NOT_QUARANTINED: Final = frozenset({BatchOrigin.IMPORTED, BatchOrigin.REPLAYED, BatchOrigin.TIMED})


Kept = Mapping[int, int]
"""Rows of a flush, and the bytes that each added."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """A row of a flush, and its row in its call."""

    row: int
    problem: Problem
    tenant_id: int
    tenant: str
    submission: Submission
    row_of_call: int

    @property
    def labels(self) -> Labels:
        return self.tenant, self.submission.origin.source, self.problem.reason


class Quarantine:
    """One for each process. Costs nothing while nothing is rejected."""

    def __init__(self, keys: Keyrings, counts: RejectionCounts, *, most: Held) -> None:
        """most: what a tenant may keep; each concurrent flush may exceed it by its own entries"""
        self._keys = keys
        self._counts = counts
        self._most = most

    async def gather(self, submissions: Sequence[Submission], checked: Checked) -> list[Entry]:
        """The rejected events of active tenants, sealed. The same event twice is one entry."""
        return await self.seal(list(_rejected(submissions, checked)))

    async def seal(self, rejected: Sequence[Rejected]) -> list[Entry]:
        """As `gather`, for given rows of one flush."""
        if not rejected:
            return []
        keyrings = await self._keys.keyrings({each.tenant_id for each in rejected})
        entries: dict[Key, Entry] = {}
        refused: dict[Refusal, list[Labels]] = {}
        room = _Room()
        pace = Pace()
        for each in rejected:
            if pace.due:
                await pace.rest()
            why = _add(entries, each, keyrings, room)
            if why is not None:
                refused.setdefault(why, []).append(each.labels)
        for why, labels in refused.items():
            self._counts.refused(why, labels)
        return list(entries.values())

    async def keep(self, transaction: Transaction, entries: Sequence[Entry]) -> Kept:
        """Stores the entries that there is room for."""
        if not entries:
            return {}
        fitting = await self._fitting(transaction.connection, entries)
        # In key order, as within each statement, so that two flushes cannot deadlock.
        ordered = sorted(fitting, key=lambda entry: entry.key)
        for start in range(0, len(ordered), PORTION):
            await store.keep(transaction.connection, ordered[start : start + PORTION])
        kept = {
            row: len(entry.payload) if row == entry.rows[0] else 0 for entry in fitting for row in entry.rows
        }
        transaction.after_commit(partial(self._count, entries, kept))
        return kept

    async def _fitting(self, connection: Connection, entries: Sequence[Entry]) -> Sequence[Entry]:
        """All entries, as a rule. If a tenant lacks room, those that are stored already, and the first of the
        others."""
        tenant_ids = {entry.tenant_id for entry in entries}
        held = await store.held(connection, tenant_ids)
        room = {tenant_id: self._most - held.get(tenant_id, Held()) for tenant_id in tenant_ids}
        left = dict(room)
        for entry in entries:
            left[entry.tenant_id] -= entry.needs
        short = {tenant_id for tenant_id, rest in left.items() if not rest.fits(Held())}
        if not short:
            return entries
        known = await store.known(connection, [each.key for each in entries if each.tenant_id in short])
        fitting = []
        for entry in entries:
            if entry.tenant_id in short and entry.key not in known:
                if not room[entry.tenant_id].fits(entry.needs):
                    continue
                room[entry.tenant_id] -= entry.needs
            fitting.append(entry)
        return fitting

    def _count(self, entries: Sequence[Entry], kept: Collection[int]) -> None:
        by_fate: dict[bool, list[Labels]] = {True: [], False: []}
        for entry in entries:
            labels = entry.tenant, entry.source, entry.problem.reason
            by_fate[entry.rows[0] in kept] += [labels] * len(entry.rows)
        self._counts.kept(by_fate[True])
        self._counts.refused(Refusal.FULL, by_fate[False])


def _rejected(submissions: Sequence[Submission], checked: Checked) -> Iterator[Rejected]:
    """The rejected rows that belong in quarantine.

    Replays and timers keep their events themselves. So do imports: a replay would judge the age of their
    events, and belong to no import. An event of an unknown tenant has no owner, and one of an inactive tenant
    is unwanted: neither has a number. And no caller may fill the quarantine of a tenant that it may not
    report for.
    """
    if not checked.problems.by_row:
        return
    columns = checked.columns
    rows = np.array(sorted(checked.problems.by_row))
    tenants = columns.tenant_index[rows]
    starts = np.cumsum([0, *map(len, submissions)])
    calls = np.searchsorted(starts, rows, side="right") - 1
    found = zip(
        rows.tolist(), tenants.tolist(), checked.tenant_ids[tenants].tolist(), calls.tolist(), strict=True
    )
    for row, tenant_at, tenant_id, call in found:
        problem, submission = checked.problems.by_row[row], submissions[call]
        wanted = problem.kind is Kind.REJECTED and problem.reason != FOREIGN
        if tenant_id and wanted and submission.origin.kind not in NOT_QUARANTINED:
            tenant = columns.tenants[tenant_at]
            yield Rejected(row, problem, tenant_id, tenant, submission, row - int(starts[call]))


class _Room:
    """Bytes that each call, and each tenant, may still keep in one flush: a value that columns hold once is
    written out for each row that shares it."""

    def __init__(self) -> None:
        self._of_calls: dict[int, int] = {}
        self._of_tenants: dict[int, int] = {}

    def left(self, rejected: Rejected) -> bool:
        of_call = self._of_calls.get(id(rejected.submission), MAX_KEPT_OF_CALL)
        return of_call > 0 and self._of_tenants.get(rejected.tenant_id, MAX_KEPT_OF_FLUSH) > 0

    def take(self, rejected: Rejected, size: int) -> None:
        call, tenant_id = id(rejected.submission), rejected.tenant_id
        self._of_calls[call] = self._of_calls.get(call, MAX_KEPT_OF_CALL) - size
        self._of_tenants[tenant_id] = self._of_tenants.get(tenant_id, MAX_KEPT_OF_FLUSH) - size


def _add(
    entries: dict[Key, Entry], rejected: Rejected, keyrings: Mapping[int, Sealer], room: _Room
) -> Refusal | None:
    """Adds an event to `entries`, or returns why not."""
    submission, keyring = rejected.submission, keyrings[rejected.tenant_id]
    origin = submission.origin
    if not room.left(rejected):
        return Refusal.TOO_MUCH
    event = to_event.event(submission, rejected.row_of_call)
    payload = to_event.to_bytes(event)
    if len(payload) > MAX_PAYLOAD:
        room.take(rejected, len(payload))
        return Refusal.TOO_LONG
    try:
        quarantine_id = keyring.fingerprint(part(origin.source.encode()) + payload)
        key = rejected.tenant_id, quarantine_id
        if key not in entries:
            room.take(rejected, len(payload))
            sealed = keyring.seal(TABLE, PAYLOAD, quarantine_id, payload)
            entries[key] = _entry(rejected, quarantine_id, event, sealed)
    except (ShreddedError, TamperedError):
        return Refusal.NO_KEY
    entries[key].rows.append(rejected.row)
    return None


def _entry(rejected: Rejected, quarantine_id: bytes, event: capture_pb2.Event, sealed: bytes) -> Entry:
    origin = rejected.submission.origin
    return Entry(
        rejected.tenant_id,
        rejected.tenant,
        quarantine_id,
        origin.source,
        event.id,
        event.type,
        rejected.problem,
        sealed,
        origin.received_at_us,
        origin.sent_at_us,
        origin.trace,
    )
