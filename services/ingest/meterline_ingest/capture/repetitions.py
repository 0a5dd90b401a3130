"""Flags events that are stored already, or occur twice in a flush, as duplicates or conflicts.

This includes events whose time is out of bounds by now: an accepted event stays accepted at any time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from meterline.db.pool import Connection
from meterline.tasks import Pace

from meterline_ingest.capture.details import Contents
from meterline_ingest.capture.rules.validation import Checked
from meterline_ingest.capture.store import details
from meterline_ingest.capture.store.details import StoredBody
from meterline_ingest.capture.store.events import Rows
from meterline_ingest.event.columns import Flags, Int64s
from meterline_ingest.event.outcomes import DUPLICATE, Problem, conflict


async def settle(
    connection: Connection,
    checked: Checked,
    rows: Rows,
    positions: Int64s,
    new: Flags,
    contents: Contents,
    skews_by_batch: Mapping[int, int],
) -> None:
    """Flags the rows that are not `new`.

    positions: where `rows` are in the flush
    """
    pace, repeated = Pace(), np.flatnonzero(~new)
    for start in range(0, len(repeated), details.PORTION):
        again = repeated[start : start + details.PORTION]
        portion = rows.take(again)
        stored = await details.stored_bodies(connection, portion.ids, portion.tenant_ids)
        keys = zip(portion.ids.tolist(), portion.tenant_ids.tolist(), strict=True)
        for at, (row, key) in enumerate(zip(positions[again].tolist(), keys, strict=True)):
            if pace.due:
                await pace.rest()
            before = stored[key]
            sent_us = before.sent_at(skews_by_batch)
            checked.problems.flag([row], _problem(before, sent_us, portion, at, row, contents))


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
                sent_us = before.sent_at(skews_by_batch)
                theirs = before.body_digest or contents.digest_of_row(key[1], before, sent_us)
                checked.problems.put_first([row], _verdict(theirs, contents.digest(row)))


def _keys(checked: Checked, rows: Int64s) -> list[details.Key]:
    tenant_ids = checked.tenant_ids[checked.columns.tenant_index[rows]]
    return list(zip(checked.columns.ids[rows].tolist(), tenant_ids.tolist(), strict=True))


def _problem(
    before: StoredBody, sent_us: int, portion: Rows, at: int, row: int, contents: Contents
) -> Problem:
    """An event without details that equals its stored row needs no digest."""
    if before.body_digest is None and not contents.has_details(row):
        same = (
            before.subject_id == portion.subject_ids[at]
            and before.series_id == portion.series_ids[at]
            and sent_us == contents.sent_us(row)
            and before.units == portion.units(at)
        )
        if same:
            return DUPLICATE
    tenant_id = int(portion.tenant_ids[at])
    theirs = before.body_digest or contents.digest_of_row(tenant_id, before, sent_us)
    return _verdict(theirs, contents.digest(row))


def _verdict(theirs: bytes, mine: bytes) -> Problem:
    return DUPLICATE if theirs == mine else conflict(theirs, mine)
