"""Flags events that are stored already, or occur twice in a flush, as duplicates or conflicts.

This includes events whose time is out of bounds by now: an accepted event stays accepted at any time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from meterline.db.pool import Connection
from meterline.tasks import Pace

from meterline_ingest.capture.details import Contents
from meterline_ingest.capture.rules.validation import Checked
from meterline_ingest.capture.store import details
from meterline_ingest.capture.store.details import Key, StoredBody
from meterline_ingest.capture.store.events import Inserted, Rows
from meterline_ingest.capture.store.stored_rows import StoredRows, stored_rows
from meterline_ingest.event.columns import Flags, Int64s
from meterline_ingest.event.outcomes import DUPLICATE, Problem, conflict


async def settle(
    connection: Connection,
    checked: Checked,
    rows: Rows,
    positions: Int64s,
    inserted: Inserted,
    contents: Contents,
    skews_by_batch: Mapping[int, int],
) -> None:
    """Flags the rows that are not new.

    positions: where `rows` are in the flush
    """
    sides = _Sides(connection, checked, contents, skews_by_batch)
    repeated, stored = np.flatnonzero(~inserted.new), inserted.stored
    found = stored.find(rows.ids[repeated], rows.tenant_ids[repeated]) >= 0
    await _compare(sides, rows.take(repeated[found]), positions[repeated[found]], stored)
    others = repeated[~found]
    if len(others):
        # Stored in this transaction, or by another one that ended meanwhile.
        chosen = rows.take(others)
        stored = await stored_rows(connection, chosen.ids, chosen.tenant_ids)
        await _compare(sides, chosen, positions[others], stored)


@dataclass(frozen=True, slots=True)
class _Sides:
    """Where the bodies of a flush are, and those that are stored."""

    connection: Connection
    checked: Checked
    contents: Contents
    skews_by_batch: Mapping[int, int]

    def stored_digest(self, key: Key, before: StoredBody) -> bytes:
        sent_us = before.sent_at(self.skews_by_batch)
        return before.body_digest or self.contents.digest_of_row(key[1], before, sent_us)


async def _compare(sides: _Sides, rows: Rows, positions: Int64s, stored: StoredRows) -> None:
    """Flags repeated `rows`. Computes digests only of those that do not simply equal their stored rows."""
    if not len(rows):
        return
    contents, flag = sides.contents, sides.checked.problems.flag
    at = stored.find(rows.ids, rows.tenant_ids)
    found = np.flatnonzero(at >= 0)
    at, here = at[found], positions[found]
    units, missing = rows.units()
    same = ~(stored.detailed[at] | stored.batch_unknown[at] | contents.have_details()[here])
    same &= stored.subject_ids[at] == rows.subject_ids[found]
    same &= stored.series_ids[at] == rows.series_ids[found]
    same &= stored.sent_us[at] == contents.sent_us(here)
    same &= stored.missing[at] == missing[found]
    same &= (stored.units[at] == units[found]).all(axis=1)
    flag(here[same].tolist(), DUPLICATE)
    detailed, pace = stored.detailed[at], Pace()
    for row, theirs in zip(here[detailed].tolist(), stored.digests[at[detailed]].tolist(), strict=True):
        if pace.due:
            await pace.rest()
        flag([row], _verdict(theirs, contents.digest(row)))
    settled = here[same | detailed]
    rest = positions[~np.isin(positions, settled)]
    for start in range(0, len(rest), details.PORTION):
        await _compare_bodies(sides, rest[start : start + details.PORTION])


async def _compare_bodies(sides: _Sides, portion: Int64s) -> None:
    """Flags rows of the flush by the digests of their bodies and of the stored ones."""
    checked, pace = sides.checked, Pace()
    tenant_ids = checked.tenant_ids[checked.columns.tenant_index[portion]]
    stored = await details.stored_bodies(sides.connection, checked.columns.ids[portion], tenant_ids)
    for row, key in zip(portion.tolist(), _keys(checked, portion), strict=True):
        if pace.due:
            await pace.rest()
        theirs = sides.stored_digest(key, stored[key])
        checked.problems.flag([row], _verdict(theirs, sides.contents.digest(row)))


def twins(checked: Checked, rows: Sequence[int], good: Flags) -> tuple[list[int], list[int]]:
    """Those of `rows` whose event is among the good rows too, and the others."""
    coming = set(_keys(checked, np.flatnonzero(good)))
    keys = _keys(checked, np.array(rows))
    known = [key in coming for key in keys]
    return (
        [row for row, is_known in zip(rows, known, strict=True) if is_known],
        [row for row, is_known in zip(rows, known, strict=True) if not is_known],
    )


def tenants(checked: Checked, rows: Sequence[int]) -> set[int]:
    """The tenants of `rows`."""
    found: Int64s = checked.tenant_ids[checked.columns.tenant_index[np.array(rows)]]
    return set(found.tolist())


async def settle_doubtful(
    connection: Connection,
    checked: Checked,
    rows: Sequence[int],
    contents: Contents,
    skews_by_batch: Mapping[int, int],
) -> None:
    """Flags those of `rows`, taken from `checked.doubtful`, that are stored; leaves the others."""
    sides = _Sides(connection, checked, contents, skews_by_batch)
    pace, columns = Pace(), checked.columns
    for start in range(0, len(rows), details.PORTION):
        portion = np.array(rows[start : start + details.PORTION])
        tenant_ids = checked.tenant_ids[columns.tenant_index[portion]]
        stored = await details.stored_bodies(connection, columns.ids[portion], tenant_ids)
        for row, key in zip(portion.tolist(), _keys(checked, portion), strict=True):
            if pace.due:
                await pace.rest()
            before = stored.get(key)
            if before is not None:
                # They have no dictionary numbers to compare, so digests are compared.
                theirs = sides.stored_digest(key, before)
                checked.problems.put_first([row], _verdict(theirs, contents.digest(row)))


def _keys(checked: Checked, rows: Int64s) -> list[Key]:
    tenant_ids = checked.tenant_ids[checked.columns.tenant_index[rows]]
    return list(zip(checked.columns.ids[rows].tolist(), tenant_ids.tolist(), strict=True))


def _verdict(theirs: bytes, mine: bytes) -> Problem:
    return DUPLICATE if theirs == mine else conflict(theirs, mine)
