"""Numbers for the subjects and series of a batch. A tenant at its quota gets no new ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from meterline_ingest.capture.rules.combinations import distinct
from meterline_ingest.capture.rules.validation import UNKNOWN_TYPE, Checked
from meterline_ingest.dictionaries.rules import NO_SERIES, NO_SUBJECT, Refusal
from meterline_ingest.dictionaries.store import TYPE_GONE, Dictionaries
from meterline_ingest.event.columns import Int64s
from meterline_ingest.event_types.rules.book import TypeBook


@dataclass(frozen=True, slots=True)
class Numbers:
    """One a row of the batch; meaningless for rows with problems."""

    subjects: Int64s
    series: Int64s


class Numbering:
    """One for each process."""

    def __init__(self, dictionaries: Dictionaries) -> None:
        self._dictionaries = dictionaries

    async def number(self, checked: Checked, types: TypeBook) -> Numbers:
        """Numbers the good rows. Flags rows whose subject or series is new and over quota, or whose type was
        deleted since it was read into `types`.

        Runs after all other checks, so that rejected events make no entries. An entry whose event is not
        stored in the end does no harm, and counts.
        """
        subjects = await self._subjects(checked)
        return Numbers(subjects, await self._series(checked, types))

    async def _subjects(self, checked: Checked) -> Int64s:
        columns, rows = checked.columns, _good(checked)
        most = len(columns.subjects)
        pairs = columns.tenant_index.astype(np.int64) * most + columns.subject_index
        codes, index = distinct(pairs[rows], len(columns.tenants) * most)
        used = [
            (int(checked.tenant_ids[code // most]), columns.subjects[code % most]) for code in codes.tolist()
        ]
        found = await self._dictionaries.subject_ids(used)
        return _of_rows(checked, rows, index, found, NO_SUBJECT)

    async def _series(self, checked: Checked, types: TypeBook) -> Int64s:
        rows = _good(checked)
        codes, index = distinct(checked.series_index[rows], len(checked.series))
        found = await self._dictionaries.series_ids([checked.series[at] for at in codes.tolist()], types)
        gone = np.zeros(len(checked.columns), np.bool_)
        gone[rows] = np.array([number == TYPE_GONE for number in found], np.bool_)[index]
        checked.problems.flag_where(gone, *UNKNOWN_TYPE)
        return _of_rows(checked, rows, index, found, NO_SERIES)


def _good(checked: Checked) -> slice | Int64s:
    good = checked.problems.good()
    return slice(None) if good.all() else np.flatnonzero(good)


def _of_rows(
    checked: Checked, rows: slice | Int64s, index: Int64s, found: Sequence[int | None], refusal: Refusal
) -> Int64s:
    """index: the position in `found` of each of `rows`"""
    # Numbers begin at 1.
    numbers = np.zeros(len(checked.columns), np.int64)
    numbers[rows] = np.array([number or 0 for number in found], np.int64)[index]
    if None in found:
        refused = np.zeros(len(numbers), np.bool_)
        refused[rows] = numbers[rows] == 0
        checked.problems.flag_where(refused, refusal.reason, refusal.field, refusal.rule)
    return numbers
