"""Folds the slot `members` in columns: each value once per window in which it occurs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from meterline_aggregate.folding.rules.cells import Cells
from meterline_aggregate.folding.rules.changes import MemberChanges
from meterline_aggregate.folding.rules.digests import digest
from meterline_aggregate.folding.rules.layout import Layout, TargetTable
from meterline_aggregate.folding.rules.rows import Message
from meterline_aggregate.folding.rules.starts import Starts
from meterline_aggregate.kinds.grouping import group, packed, unpacked
from meterline_aggregate.windows.calendar import MINUTE_US, Grain

Int64s = npt.NDArray[np.int64]


class _MemberRows:
    """Rows of (series, minute, member), with the targets that count them."""

    def __init__(self) -> None:
        self._numbers: dict[bytes, int] = {}
        self._subjects: dict[str, int] = {}
        self.series: list[Int64s] = []
        self.minute: list[Int64s] = []
        self.member: list[Int64s] = []
        self.meter: list[Int64s] = []
        self.group: list[Int64s] = []

    def number(self, member: bytes) -> int:
        return self._numbers.setdefault(member, len(self._numbers))

    def number_of_subject(self, subject: str) -> int:
        number = self._subjects.get(subject)
        if number is None:
            number = self._subjects[subject] = self.number(digest(subject))
        return number

    def add(
        self,
        table: TargetTable,
        rows: Int64s,
        targets: Int64s,
        series: Int64s,
        minute: Int64s,
        member: Int64s,
    ) -> None:
        """`rows` and `targets` as returned by `TargetTable.expand`; `member` has one element per expanded
        row.
        """
        self.series.append(series[rows])
        self.minute.append(minute[rows])
        self.member.append(member)
        self.meter.append(table.meter[targets])
        self.group.append(table.group[targets])

    def ranked(self) -> tuple[Int64s, npt.NDArray[np.void]]:
        """The rank of each member's digest, by member number, and the digests in order."""
        digests = sorted(self._numbers)
        ranks = np.empty(len(digests), np.int64)
        ranks[[self._numbers[one] for one in digests]] = np.arange(len(digests))
        return ranks, np.frombuffer(b"".join(digests), "V16")


def fold_members(messages: Sequence[Message], layout: Layout, cells: Cells) -> MemberChanges:
    """Raises UnsuitableError when keys get too wide, and OddMinuteError."""
    seen = _MemberRows()
    _add_values(seen, layout, cells)
    _add_subjects(seen, layout, messages)
    series, minute, member, meter, group_rank = (
        np.concatenate(column) for column in (seen.series, seen.minute, seen.member, seen.meter, seen.group)
    )
    ranks, digests = seen.ranked()
    if not len(digests):
        return MemberChanges()
    starts = Starts(layout, series, minute)
    sizes = (starts.span, len(layout.groups), len(digests))
    parts = []
    for grain in Grain:
        keys, bound = packed(
            (meter, len(layout.meters)),
            (starts.of(grain), sizes[0]),
            (group_rank, sizes[1]),
            (ranks[member], sizes[2]),
        )
        parts.append(unpacked(group(keys, bound).keys, *sizes))
    by_meter, start, by_group, rank = (np.concatenate(column) for column in zip(*parts, strict=True))
    return MemberChanges(
        np.repeat(np.array(list(Grain), np.int64), [len(part[0]) for part in parts]),
        layout.tenant_of_meter[by_meter],
        layout.id_of_meter[by_meter],
        starts.microseconds(start),
        np.array(layout.groups, np.int64)[by_group],
        digests[rank],
    )


def _add_values(seen: _MemberRows, layout: Layout, cells: Cells) -> None:
    """A dimension's value belongs to the series, so the cells of a series show when it occurred."""
    table = layout.members_of(subjects=False)
    members = np.array([seen.number(target.member or b"") for target in table.targets], np.int64)
    rows, targets = table.expand(cells.series)
    seen.add(table, rows, targets, cells.series, cells.minute, members[targets])


def _add_subjects(seen: _MemberRows, layout: Layout, messages: Sequence[Message]) -> None:
    table = layout.members_of(subjects=True)
    if not table.targets:
        return
    for message in messages:
        if not len(message):
            continue
        minutes = message.times_us // MINUTE_US
        earliest = int(minutes.min())
        span = int(minutes.max()) - earliest + 1
        keys, bound = packed(
            (message.series_index.astype(np.int64), len(message.series)),
            (minutes - earliest, span),
            (message.subject_index.astype(np.int64), len(message.subjects)),
        )
        local, minute, subject = unpacked(group(keys, bound).keys, span, len(message.subjects))
        series = layout.positions(message)[local]
        numbers = np.array([seen.number_of_subject(name) if name else -1 for name in message.subjects])
        member = numbers[subject]
        named = member >= 0
        series, minute, member = series[named], minute[named] + earliest, member[named]
        rows, targets = table.expand(series)
        seen.add(table, rows, targets, series, minute, member[rows])
