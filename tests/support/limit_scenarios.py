"""Scenarios for `limit_world`: random ones, and those that reveal each planted bug."""

from __future__ import annotations

from hypothesis import strategies as st
from meterline_ingest.rate_limits.rules.limits import Limits

from tests.support.limit_world import LARGEST, REPLICAS, US, AtOnce, Call, Change, Quiet, Step

_limits = st.one_of(
    st.just(Limits()),
    st.builds(Limits, events_per_second=st.integers(1, 300), burst=st.integers(1, 1_000)),
    st.sampled_from([Limits(100, 100), Limits(5_000, 1), Limits(200_000, 200_000), Limits(1, 1)]),
)
_calls = st.builds(
    Call,
    replica=st.integers(0, REPLICAS - 1),
    events=st.one_of(st.integers(1, 20), st.integers(1, LARGEST), st.just(LARGEST)),
    gone_after=st.one_of(st.none(), st.none(), st.none(), st.integers(0, 10)),
)
_quiet = st.builds(
    Quiet,
    st.one_of(st.integers(0, 200_000), st.integers(0, 3 * US), st.integers(0, 90 * US)),
    st.booleans(),
)


def scenarios(steps: int = 25) -> st.SearchStrategy[list[Step]]:
    """Limit changes, quiet times and concurrent calls, in at most `steps` steps."""
    calls = st.builds(AtOnce, st.lists(_calls, min_size=1, max_size=20))
    step: st.SearchStrategy[Step] = st.one_of(calls, calls, _quiet, _quiet, st.builds(Change, _limits))
    begin = st.tuples(st.builds(Change, _limits), _quiet)
    return st.builds(lambda first, rest: [*first, *rest], begin, st.lists(step, max_size=steps))


def _everywhere(events: int, count: int) -> AtOnce:
    return AtOnce([Call(replica, events) for replica in range(REPLICAS) for _ in range(count)])


# Every replica cached long ago that the tenant has no limits.
AFTER_QUIET: tuple[Step, ...] = (
    Change(Limits()),
    _everywhere(LARGEST, 1),
    Change(Limits(100, 100)),
    Quiet(60 * US),
    _everywhere(LARGEST, 20),
)

# Calls keep a lease of a large limit in use until a smaller limit becomes known.
LARGE_LEASES: tuple[Step, ...] = (
    Change(Limits(200_000, 200_000)),
    Quiet(3 * US),
    _everywhere(1, 1),
    Change(Limits(100, 100)),
    *(step for _ in range(4) for step in (Quiet(300_000, swept=True), _everywhere(1, 1))),
    Quiet(810_000),
    _everywhere(LARGEST, 20),
)
