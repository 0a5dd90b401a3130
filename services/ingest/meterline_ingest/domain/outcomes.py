"""What became of an event that was not accepted."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum

import numpy as np

from meterline_ingest.domain.columns import Columns, Flags


class Kind(IntEnum):
    """Numbers as in the API."""

    ACCEPTED = 1
    DUPLICATE = 2
    CONFLICT = 3
    REJECTED = 4


class Stage(StrEnum):
    """Where an event was found to be bad. Stored as these words."""

    READ = "read"
    VALIDATE = "validate"
    ENRICH = "enrich"


@dataclass(frozen=True, slots=True)
class Problem:
    """Why an event was not accepted: `field` breaks `message`; `reason` is a stable code.

    stored_digest, sent_digest: of the bodies of a conflict
    """

    kind: Kind
    reason: str
    field: str
    message: str
    stored_digest: bytes = b""
    sent_digest: bytes = b""
    stage: Stage = Stage.VALIDATE


DUPLICATE = Problem(Kind.DUPLICATE, "DUPLICATE", "id", "this event was accepted before")


def conflict(stored_digest: bytes, sent_digest: bytes) -> Problem:
    """The same id with another body: the first one stands."""
    rule = "another event with this id was accepted before; that one stands"
    return Problem(Kind.CONFLICT, "CONFLICT", "id", rule, stored_digest, sent_digest)


@dataclass(slots=True)
class Problems:
    """The problems of one batch by row. The first one found of a row stands."""

    rows: int
    by_row: dict[int, Problem] = field(default_factory=dict)

    @classmethod
    def read_with(cls, columns: Columns) -> Problems:
        """What was found while the columns were read."""
        return cls(len(columns), dict(columns.misread))

    def flag(self, rows: Iterable[int], problem: Problem) -> None:
        for row in rows:
            self.by_row.setdefault(row, problem)

    def put_first(self, rows: Iterable[int], problem: Problem) -> None:
        """As `flag`, but whatever else is wrong with a row, this is said of it."""
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
