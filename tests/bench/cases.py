"""The benchmark cases."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from tests.bench.workload import Workload

COPY: Final = "copy"
TEXTBOOK: Final = "textbook"
# The end to end rate of this case is the greatest load; the freshness case offers half of it.
FASTEST: Final = "columnar-5000"
FRESHNESS: Final = "freshness-half"
_MIDDLE: Final = "columnar-1000"
# The suffix of a case that equals another one without guards.
BARE: Final = "-bare"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One row of the table.

    form: `copy`, `rows`, `columns` or `stream` (events one by one)
    batch: events a call
    concurrency: calls in flight, or streams, or connections; unused in an open loop
    events: bound of the whole case
    stretch: of the run's seconds: more where percentiles need samples, less where there is much to drain
    duplicates: share of each batch that repeats earlier events
    rate: events a second of an open loop; 0: closed loop
    bare: without the rules of types, and without limits (see `guards`)
    reference: name of the case of which this one is a variant; both alternate, and are compared
    extra: runs only when it is named
    alone: runs on a mesh on which no other case has run
    slice_seconds: width of the separately reported time slices; 0: none
    spread_ms, random_ids, days: override those of the run's workload; 0 and false keep them
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
    reference: str = ""
    extra: bool = False
    alone: bool = False
    slice_seconds: float = 0.0
    spread_ms: int = 0
    random_ids: bool = False
    days: int = 0

    def workload(self, given: Workload) -> Workload:
        """The run's workload with this case's overrides."""
        return replace(
            given,
            spread_ms=self.spread_ms or given.spread_ms,
            random_ids=self.random_ids or given.random_ids,
            days=self.days or given.days,
        )


# Cases that are also measured without guards.
_GUARDED: Final = ("rows-1000", _MIDDLE, FASTEST, "single-256")

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
        name=_MIDDLE,
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
        reference=_MIDDLE,
    ),
    Case(
        name="columnar-5000-duplicates",
        title="columns, 5,000 a call, 1% duplicates",
        form="columns",
        batch=5_000,
        concurrency=6,
        events=1_500_000,
        duplicates=0.01,
        reference=FASTEST,
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

_FASTEST: Final = next(case for case in _CASES if case.name == FASTEST)
_VARIANT: Final = replace(_FASTEST, reference=FASTEST, extra=True)
# Long cases, or of special interest. Their names do not contain those of other cases, so that selecting one
# of those does not select these too.
_EXTRAS: Final = (
    replace(
        _VARIANT,
        name="duplicates-10",
        title="columns, 5,000 a call, 10% duplicates",
        events=1_500_000,
        duplicates=0.1,
    ),
    replace(_VARIANT, name="spread-1s", title="columns, 5,000 a call, ids made over 1 s", spread_ms=1_000),
    replace(_VARIANT, name="spread-20s", title="columns, 5,000 a call, ids made over 20 s", spread_ms=20_000),
    replace(_VARIANT, name="random-ids", title="columns, 5,000 a call, random ids", random_ids=True),
    replace(
        _VARIANT,
        name="month",
        title="columns, 5,000 a call, dated over 30 days",
        # Nearly every event makes its own windows, so events are few: the case waits for the whole backlog.
        events=300_000,
        days=30,
    ),
    replace(
        _FASTEST,
        name="sustained",
        title="columns, 5,000 a call, for long, on an empty mesh",
        # 1.2 GB of requests: at 500,000 events/s they last for the minute.
        events=30_000_000,
        stretch=12.0,
        slice_seconds=10.0,
        extra=True,
        alone=True,
    ),
)


def _with_bare_ones() -> Iterator[Case]:
    for case in (*_CASES, *_EXTRAS):
        yield case
        if case.name in _GUARDED:
            yield replace(case, name=f"{case.name}{BARE}", title=f"{case.title}, without guards", bare=True)


CASES: Final = tuple(_with_bare_ones())


def turn_about(cases: Sequence[Case]) -> Iterator[list[Case]]:
    """Groups of cases that alternate, since they are compared: a case, its bare variant and its variants."""
    groups: dict[str, list[Case]] = {}
    for case in cases:
        groups.setdefault(case.reference or case.name.removesuffix(BARE), []).append(case)
    yield from groups.values()


def selected(patterns: str) -> list[Case]:
    """The cases whose name contains one of the comma-separated `patterns`; without one, all but the extra.

    A variant also selects its reference, and the freshness case selects the case that measures the greatest
    load. Raises ValueError if no case matches a pattern.
    """
    wanted = [pattern.strip() for pattern in patterns.split(",") if pattern.strip()]
    for pattern in wanted:
        if not any(pattern in case.name for case in CASES):
            raise ValueError(
                f"no case is called {pattern}; there are {', '.join(each.name for each in CASES)}"
            )
    if not wanted:
        return [case for case in CASES if not case.extra]
    chosen = [case for case in CASES if any(pattern in case.name for pattern in wanted)]
    names = {case.name for case in chosen} | {case.reference for case in chosen}
    if FRESHNESS in names:
        names.add(FASTEST)
    return [case for case in CASES if case.name in names]
