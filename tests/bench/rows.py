"""The figures of one case, and their comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tests.bench.cases import BARE, COPY, TEXTBOOK


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """The figures of one case.

    events_per_s: end to end: accepted events by the time until usage showed all; None without aggregate
    capture_per_s: accepted events by the time until the last acknowledgement
    exact: whether every sum was right
    measures: the quantity of p50_ms, p99_ms and max_ms: `ack` or `freshness`
    drain_s: from the last acknowledgement until all events were visible
    exhausted: all prepared events were sent before the end of the time
    cpu_us, wal_bytes: per event, by process
    reference: name of the case of which this is a variant
    slices: accepted events a second by time of acknowledgement, for each slice of the time of sending
    """

    name: str
    title: str
    capture_per_s: float
    exact: bool
    events_per_s: float | None = None
    measures: str = "ack"
    p50_ms: float | None = None
    p99_ms: float | None = None
    max_ms: float | None = None
    ack_p50_ms: float | None = None
    ack_p99_ms: float | None = None
    accepted: int = 0
    duplicate: int = 0
    retries: int = 0
    seconds: float = 0.0
    drain_s: float | None = None
    exhausted: bool = False
    offered_per_s: float | None = None
    samples: int = 0
    cpu_us: Mapping[str, float] = field(default_factory=dict)
    wal_bytes: float | None = None
    differences: Sequence[str] = ()
    runs: Sequence[float] = ()
    reference: str = ""
    slices: Sequence[float] = ()

    @classmethod
    def failed(cls, name: str, title: str, error: str) -> Row:
        """A case that failed."""
        return cls(name=name, title=title, capture_per_s=0.0, exact=False, differences=[error])

    @property
    def rate(self) -> float:
        """The end to end rate, or the capture rate without aggregate."""
        return self.capture_per_s if self.events_per_s is None else self.events_per_s


def median(runs: Sequence[Row]) -> Row:
    """The run with the median rate, exact only if all runs are. `runs` has the rates of all."""
    ordered = sorted(runs, key=lambda row: row.p99_ms or 0.0 if row.offered_per_s else row.rate)
    middle = ordered[(len(ordered) - 1) // 2]
    return replace(
        middle,
        exact=all(row.exact for row in runs),
        differences=[each for row in runs for each in row.differences],
        runs=[row.rate for row in runs],
    )


def greatest(rows: Sequence[Row]) -> float:
    """The greatest end to end rate of the mesh as deployed; 0 if nothing was measured."""
    own = [row for row in rows if row.name not in (COPY, TEXTBOOK) and not row.name.endswith(BARE)]
    return max((row.events_per_s or 0.0 for row in own), default=0.0)


def ratio(rows: Sequence[Row], row: Row, reference: str) -> float | None:
    """The ratio to the reference's end to end rate; None if either was not measured."""
    found = [each.events_per_s for each in rows if each.name == reference]
    if not found or not found[0] or row.events_per_s is None or row.offered_per_s is not None:
        return None
    return row.events_per_s / found[0]


def as_dict(rows: Sequence[Row], row: Row) -> dict[str, Any]:
    """The form of the JSON output."""

    def short(value: float | None, digits: int = 2) -> float | None:
        return None if value is None else round(value, digits)

    return {
        "name": row.name,
        "title": row.title,
        "events_per_s": short(row.events_per_s, 0),
        "capture_per_s": short(row.capture_per_s, 0),
        "offered_per_s": short(row.offered_per_s, 0),
        "ratio_to_copy": short(ratio(rows, row, COPY), 3),
        "ratio_to_textbook": short(ratio(rows, row, TEXTBOOK), 1),
        "ratio_to_bare": short(ratio(rows, row, row.name + BARE), 3),
        "reference": row.reference or None,
        "ratio_to_reference": short(ratio(rows, row, row.reference), 3),
        "exact": row.exact,
        "measures": row.measures,
        "p50_ms": short(row.p50_ms),
        "p99_ms": short(row.p99_ms),
        "max_ms": short(row.max_ms),
        "ack_p50_ms": short(row.ack_p50_ms),
        "ack_p99_ms": short(row.ack_p99_ms),
        "samples": row.samples,
        "accepted": row.accepted,
        "duplicate": row.duplicate,
        "retries": row.retries,
        "seconds": short(row.seconds),
        "drain_s": short(row.drain_s, 3),
        "exhausted": row.exhausted,
        "cpu_us": {name: round(spent, 3) for name, spent in row.cpu_us.items()},
        "wal_bytes": short(row.wal_bytes, 1),
        "runs": [round(rate) for rate in row.runs],
        "slices": [round(rate) for rate in row.slices],
        "differences": list(row.differences[:20]),
    }
