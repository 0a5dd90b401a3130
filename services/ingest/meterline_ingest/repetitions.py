"""Events that were stored before, or come twice in a flush: duplicates, or conflicts."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from meterline.db.pool import Connection
from meterline.tasks import Pace

from meterline_ingest.contents import Contents
from meterline_ingest.domain.columns import Flags, Int64s
from meterline_ingest.domain.outcomes import DUPLICATE, Problem, conflict
from meterline_ingest.domain.validation import Checked
from meterline_ingest.repository import details
from meterline_ingest.repository.details import StoredBody
from meterline_ingest.repository.writing import Rows


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

    positions: those of `rows` in the flush
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


def _problem(
    before: StoredBody, sent_us: int, portion: Rows, at: int, row: int, contents: Contents
) -> Problem:
    """What is equal in its row, and has no more, needs no digest."""
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
    mine = contents.digest(row)
    return DUPLICATE if theirs == mine else conflict(theirs, mine)
