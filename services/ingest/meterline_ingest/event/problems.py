"""The problems of one batch, by row."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from meterline_ingest.event.columns import Columns, Flags
from meterline_ingest.event.outcomes import Kind, Problem


@dataclass(slots=True)
class Problems:
    """The problems of one batch by row. The first one found of a row is kept."""

    rows: int
    by_row: dict[int, Problem] = field(default_factory=dict)

    @classmethod
    def read_with(cls, columns: Columns) -> Problems:
        """The problems found while the columns were read."""
        return cls(len(columns), dict(columns.misread))

    def flag(self, rows: Iterable[int], problem: Problem) -> None:
        for row in rows:
            self.by_row.setdefault(row, problem)

    def put_first(self, rows: Iterable[int], problem: Problem) -> None:
        """As `flag`, but replaces any other problem of these rows."""
        self.by_row.update(dict.fromkeys(rows, problem))

    def flag_where(self, mask: Flags, reason: str, name: str, message: str) -> None:
        if mask.any():
            self.flag(np.nonzero(mask)[0].tolist(), Problem(Kind.REJECTED, reason, name, message))

    def good(self) -> Flags:
        """The rows without a problem."""
        good = np.ones(self.rows, np.bool_)
        if self.by_row:
            good[list(self.by_row)] = False
        return good
