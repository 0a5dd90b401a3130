"""Random and specific messages for the fold, and changes in a comparable form."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import datetime, timedelta
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np
from hypothesis import strategies as st
from meterline.clock import to_us
from meterline_aggregate.folding.rules.changes import Changes, Numbers
from meterline_aggregate.folding.rules.digests import digest
from meterline_aggregate.folding.rules.rows import (
    EVERY_EVENT,
    SUBJECT,
    TOTAL,
    Batch,
    Message,
    Quantity,
    Series,
    Target,
)
from meterline_aggregate.kinds.slots.events import EVENTS
from meterline_aggregate.kinds.slots.highest import HIGHEST
from meterline_aggregate.kinds.slots.members import MEMBERS
from meterline_aggregate.kinds.slots.slot import Slot
from meterline_aggregate.kinds.slots.sums import SUMS

ZONES = (
    "UTC",
    "America/New_York",
    "Europe/London",
    "Asia/Kolkata",
    "Asia/Kathmandu",
    "Australia/Lord_Howe",
    "America/Sao_Paulo",
    "America/Havana",
    "America/St_Johns",
    "Africa/Cairo",
    "Asia/Beirut",
    "Pacific/Apia",
    "Pacific/Kiritimati",
    "Africa/Monrovia",
)

# Moments of clock changes (at midnight, by half an hour, across midnight, by a whole day, to whole minutes),
# leap days, ends of months and years.
ANCHORS = tuple(
    to_us(datetime.fromisoformat(moment))
    for moment in (
        "2026-03-08T07:00:00+00:00",
        "2026-11-01T06:00:00+00:00",
        "2026-03-29T01:00:00+00:00",
        "2026-04-04T15:00:00+00:00",
        "2018-11-04T03:00:00+00:00",
        "2018-02-18T02:00:00+00:00",
        "2024-04-25T22:00:00+00:00",
        "2009-11-01T02:31:00+00:00",
        "2011-12-30T10:00:00+00:00",
        "1972-01-07T00:44:30+00:00",
        "2024-02-29T00:00:00+00:00",
        "2024-03-01T00:00:00+00:00",
        "2026-12-31T18:30:00+00:00",
    )
)

_HOUR_US = timedelta(hours=1) // timedelta(microseconds=1)

times = st.one_of(
    st.builds(lambda anchor, shift: anchor + shift, st.sampled_from(ANCHORS), st.integers(-90, 90)),
    st.builds(
        lambda anchor, minutes, us: anchor + minutes * 60_000_000 + us,
        st.sampled_from(ANCHORS),
        st.integers(-30 * 60, 30 * 60),
        st.integers(0, 59_999_999),
    ),
    st.integers(0, to_us(datetime.fromisoformat("2060-01-01T00:00:00+00:00"))),
)

small = st.integers(-1000, 1000)
huge = st.sampled_from([10**18 - 1, 1 - 10**18, 10**15, 2**62, 2**63 - 1, -(2**63), -1, 0])

SUBJECTS = ("", "alice", "bob", "żółw", "a" * 256)
GROUPS = (7, 9, 10**12)


_ONE_TO_THREE = st.integers(1, 3)
_TENANTS = st.sampled_from((1, 2))
_GROUPS = st.sampled_from(GROUPS)
_MEMBERS = st.sampled_from((digest("x"), digest("y")))
_METERS = st.lists(st.integers(0, 5), unique=True)
_MOMENTS = st.lists(times, min_size=1, max_size=6)
_QUANTITIES = st.sets(st.sampled_from(("a", "b", "unmetered")))
_SCALES = st.sampled_from((0, 2, 9))
_BOOLEANS, _IDS = st.booleans(), st.uuids()


@st.composite
def series(draw: st.DrawFn, zones: dict[int, str]) -> Series:
    """A series that some meters count, out of one meter of each kind; in total and, for some, for a group."""
    tenant_id, group, member = draw(_TENANTS), draw(_GROUPS), draw(_MEMBERS)
    choices: list[tuple[int, Slot, str, bytes | None]] = [
        (1, EVENTS, EVERY_EVENT, None),
        (2, SUMS, "a", None),
        (3, HIGHEST, "a", None),
        (4, MEMBERS, SUBJECT, None),
        (5, MEMBERS, EVERY_EVENT, member),
        (6, SUMS, "b", None),
    ]
    targets = [
        Target(meter_id, slot, group_id, measure, member)
        for meter_id, slot, measure, member in (choices[position] for position in draw(_METERS))
        for group_id in ((TOTAL, group) if meter_id % 2 else (TOTAL,))
    ]
    return Series(tenant_id, zones[tenant_id], tuple(targets))


# Strategies are made once: Hypothesis takes longer to make one than to draw from it.
@cache
def _up_to(most: int) -> st.SearchStrategy[int]:
    return st.integers(0, most)


@cache
def _cuts(rows: int) -> st.SearchStrategy[list[int]]:
    return st.lists(_up_to(rows), max_size=3)


@cache
def _column(strategy: st.SearchStrategy[int], rows: int) -> st.SearchStrategy[list[int]]:
    return st.lists(strategy, min_size=rows, max_size=rows)


@cache
def positions(rows: int, choices: int) -> st.SearchStrategy[list[int]]:
    """A position below `choices` for each row, in one draw."""
    return st.binary(min_size=rows, max_size=rows).map(lambda drawn: [byte % choices for byte in drawn])


@st.composite
def messages(
    draw: st.DrawFn, zones: dict[int, str], values: st.SearchStrategy[int] = small, max_rows: int = 16
) -> Message:
    """One message, in which some columns and values are missing."""
    rows = draw(_up_to(max_rows))
    own = series(zones)
    known = [draw(own) for _ in range(draw(_ONE_TO_THREE))]
    moments = draw(_MOMENTS)
    cuts = sorted(draw(_cuts(rows)))
    sizes = [end - begin for begin, end in zip([0, *cuts], [*cuts, rows], strict=True)]
    quantities = {
        name: Quantity(
            draw(_SCALES),
            np.array(draw(_column(values, rows)), np.int64),
            np.array(draw(positions(rows, 2)), np.bool_) if draw(_BOOLEANS) else None,
        )
        for name in draw(_QUANTITIES)
    }
    return message(
        [draw(_IDS) for _ in sizes],
        sizes,
        known,
        draw(positions(rows, len(known))),
        draw(positions(rows, len(SUBJECTS))),
        [moments[position] for position in draw(positions(rows, len(moments)))],
        quantities,
    )


def message(
    batch_ids: Sequence[uuid.UUID],
    sizes: Sequence[int],
    known: Sequence[Series],
    series_index: Sequence[int],
    subject_index: Sequence[int],
    times_us: Sequence[int],
    quantities: dict[str, Quantity],
) -> Message:
    return Message(
        [Batch(one.bytes, size, "", 0) for one, size in zip(batch_ids, sizes, strict=True)],
        known,
        SUBJECTS,
        np.array(series_index, np.uint32),
        np.array(subject_index, np.uint32),
        np.array(times_us, np.int64),
        quantities,
    )


tenants = st.fixed_dictionaries({1: st.sampled_from(ZONES), 2: st.sampled_from(ZONES)})


@st.composite
def several_messages(draw: st.DrawFn, values: st.SearchStrategy[int] = small) -> list[Message]:
    one = messages(draw(tenants), values)
    return [draw(one) for _ in range(draw(_ONE_TO_THREE))]


def values_of(numbers: Numbers) -> list[Fraction | None]:
    """Exact values; None for rows that only count, and for maxima without values."""
    return [
        None if slot == EVENTS.code or units is None else Fraction(units, 10**scale)
        for slot, units, scale in zip(
            numbers.slot.tolist(), numbers.units, numbers.scale.tolist(), strict=True
        )
    ]


def comparable(changes: Changes) -> dict[str, Any]:
    """The whole content of the changes, rows in their order, batches by their ids."""
    ids = [batch.batch_id for batch in changes.batches]
    windows, members, given = changes.windows, changes.members, changes.contributions
    return {
        "windows": [
            (*row[:6], ids[row[6]], value)
            for *row, value in zip(
                windows.grain.tolist(),
                windows.tenant_id.tolist(),
                windows.meter_id.tolist(),
                windows.start_us.tolist(),
                windows.group_id.tolist(),
                windows.event_count.tolist(),
                windows.last_batch.tolist(),
                values_of(windows.numbers),
                strict=True,
            )
        ],
        "members": list(
            zip(
                members.grain.tolist(),
                members.tenant_id.tolist(),
                members.meter_id.tolist(),
                members.start_us.tolist(),
                members.group_id.tolist(),
                [member.tobytes() for member in members.member],
                strict=True,
            )
        ),
        "contributions": [
            (*row[:3], ids[row[3]], row[4], value)
            for *row, value in zip(
                given.tenant_id.tolist(),
                given.meter_id.tolist(),
                given.start_us.tolist(),
                given.batch.tolist(),
                given.event_count.tolist(),
                values_of(given.numbers),
                strict=True,
            )
        ],
        "totals": changes.totals,
    }
