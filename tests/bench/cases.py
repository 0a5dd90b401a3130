"""What is measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Final

COPY: Final = "copy"
TEXTBOOK: Final = "textbook"
# Its end to end rate is the greatest load, of which the freshness case takes half.
FASTEST: Final = "columnar-5000"
FRESHNESS: Final = "freshness-half"
# Ends the name of a case that is another one with the guards away.
BARE: Final = "-bare"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One row of the table.

    form: `copy`, `rows`, `columns` or `stream` (events one by one)
    batch: events a call
    concurrency: calls in flight, or streams, or connections; no matter in an open loop
    events: bound of the whole case
    stretch: of the run's seconds: more where percentiles need samples, less where there is much to drain
    duplicates: share of each batch that repeats earlier events
    rate: events a second of an open loop; 0: closed loop
    bare: without the rules of types, and without limits (see `guards`)
    """

    name: str
    title: str
    form: str
    batch: int
    events: int
    concurrency: int = 1
    stretch: float = 1.0
    duplicates: float = 0.0
    rate: float = 0.0
    bare: bool = False


# What is measured with the guards away as well.
_GUARDED: Final = ("rows-1000", "columnar-1000", FASTEST, "single-256")

_CASES: Final = (
    Case(
        name=COPY,
        title="binary COPY, 5,000 a batch, 2 connections",
        form="copy",
        batch=5_000,
        concurrency=2,
        events=2_000_000,
    ),
    Case(
        name=TEXTBOOK,
        title="textbook pipeline, rows, 1,000 a call",
        form="rows",
        batch=1_000,
        concurrency=4,
        events=4_000,
        stretch=0.4,
    ),
    Case(name="rows-100", title="rows, 100 a call", form="rows", batch=100, concurrency=16, events=400_000),
    Case(
        name="rows-1000", title="rows, 1,000 a call", form="rows", batch=1_000, concurrency=8, events=750_000
    ),
    Case(
        name="columnar-1000",
        title="columns, 1,000 a call",
        form="columns",
        batch=1_000,
        concurrency=8,
        events=1_500_000,
    ),
    Case(
        name=FASTEST,
        title="columns, 5,000 a call",
        form="columns",
        batch=5_000,
        concurrency=6,
        events=2_000_000,
    ),
    Case(
        name="single-64",
        title="single events, 64 calls in flight",
        form="rows",
        batch=1,
        concurrency=64,
        events=20_000,
    ),
    Case(
        name="single-256",
        title="single events, 256 calls in flight",
        form="rows",
        batch=1,
        concurrency=256,
        events=25_000,
    ),
    Case(
        name="stream",
        title="single events, 8 streams",
        form="stream",
        batch=1,
        concurrency=8,
        events=120_000,
    ),
    Case(
        name="columnar-1000-duplicates",
        title="columns, 1,000 a call, 1% duplicates",
        form="columns",
        batch=1_000,
        concurrency=8,
        events=1_000_000,
        duplicates=0.01,
    ),
    Case(
        name="columnar-5000-duplicates",
        title="columns, 5,000 a call, 1% duplicates",
        form="columns",
        batch=5_000,
        concurrency=6,
        events=1_500_000,
        duplicates=0.01,
    ),
    Case(
        name="ack-50000",
        title="columns, 1,000 a call, at 50,000 events/s",
        form="columns",
        batch=1_000,
        events=500_000,
        stretch=2.0,
        rate=50_000.0,
    ),
    Case(
        name=FRESHNESS,
        title="columns, 5,000 a call, at half of the greatest load",
        form="columns",
        batch=5_000,
        events=3_000_000,
        stretch=2.0,
    ),
)


def _with_bare_ones() -> Iterator[Case]:
    for case in _CASES:
        yield case
        if case.name in _GUARDED:
            yield replace(case, name=f"{case.name}{BARE}", title=f"{case.title}, without guards", bare=True)


CASES: Final = tuple(_with_bare_ones())


def turn_about(cases: Sequence[Case]) -> Iterator[list[Case]]:
    """Those to be run by turns, since they are to be compared: a case and its bare one."""
    for _, group in groupby(cases, key=lambda case: case.name.removesuffix(BARE)):
        yield list(group)


def selected(patterns: str) -> list[Case]:
    """The cases whose name contains one of the comma-separated `patterns`; all when there is none.

    The freshness case brings the case along that tells it the greatest load. Raises ValueError when no case
    fits a pattern.
    """
    wanted = [pattern.strip() for pattern in patterns.split(",") if pattern.strip()]
    for pattern in wanted:
        if not any(pattern in case.name for case in CASES):
            raise ValueError(
                f"no case is called {pattern}; there are {', '.join(each.name for each in CASES)}"
            )
    names = {case.name for case in CASES if not wanted or any(pattern in case.name for pattern in wanted)}
    if FRESHNESS in names:
        names.add(FASTEST)
    return [case for case in CASES if case.name in names]
