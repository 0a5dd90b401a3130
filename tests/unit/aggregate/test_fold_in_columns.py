"""Both implementations of the fold give equal values, in the same order, with equal contributions."""

from __future__ import annotations

import uuid
from datetime import datetime

import numpy as np
import pytest
from hypothesis import assume, event, given, settings
from hypothesis import strategies as st
from meterline.clock import to_us
from meterline_aggregate.folding.rules.digests import digest
from meterline_aggregate.folding.rules.dispatch import fold
from meterline_aggregate.folding.rules.plain import fold_plain
from meterline_aggregate.folding.rules.rows import (
    EVERY_EVENT,
    SUBJECT,
    TOTAL,
    Message,
    Quantity,
    Series,
    Target,
)
from meterline_aggregate.folding.rules.vectors import fold_vectors
from meterline_aggregate.kinds.grouping import UnsuitableError
from meterline_aggregate.kinds.slots.events import EVENTS
from meterline_aggregate.kinds.slots.highest import HIGHEST
from meterline_aggregate.kinds.slots.members import MEMBERS
from meterline_aggregate.kinds.slots.sums import SUMS
from meterline_aggregate.windows.calendar import OddMinuteError

from tests.support.folding import SUBJECTS, comparable, huge, message, several_messages, small

pytestmark = pytest.mark.req("T2.2", "T6.1")


def in_columns(messages: list[Message]) -> object:
    assume(any(len(message) for message in messages))
    try:
        return comparable(fold_vectors(messages))
    except (UnsuitableError, OddMinuteError) as error:
        event(type(error).__name__)
        return None


@given(several_messages())
@settings(max_examples=100, deadline=None)
def test_column_fold_equals_row_fold(messages: list[Message]) -> None:
    found = in_columns(messages)
    assert found is None or found == comparable(fold_plain(messages))


@given(several_messages(st.one_of(small, huge)))
@settings(max_examples=100, deadline=None)
def test_column_fold_equals_row_fold_for_wide_values(messages: list[Message]) -> None:
    found = in_columns(messages)
    assert found is None or found == comparable(fold_plain(messages))


@given(several_messages(st.integers(10**18 - 1000, 10**18 - 1)))
@settings(max_examples=50, deadline=None)
def test_dispatched_fold_equals_row_fold(messages: list[Message]) -> None:
    assert comparable(fold(messages)) == comparable(fold_plain(messages))


@pytest.mark.parametrize("zone", ["America/New_York", "Asia/Kolkata", "Pacific/Apia"])
def test_usual_batches_fold_in_columns(zone: str) -> None:
    """Messages as capture sends them never fall back to the row fold."""
    messages = [many_rows(zone, seed, rows=200) for seed in range(2)]
    assert comparable(fold_vectors(messages)) == comparable(fold_plain(messages))


@given(st.lists(st.sampled_from([10**3, 10**15, 10**18, 2**63 - 1]), min_size=1, max_size=3))
@settings(max_examples=20, deadline=None)
def test_sums_beyond_64_bits_fold_in_columns(most: list[int]) -> None:
    """Large values of one tenant must not slow down messages with rows of all tenants."""
    messages = [many_rows("UTC", seed, rows=24, most=each) for seed, each in enumerate(most)]
    assert comparable(fold_vectors(messages)) == comparable(fold_plain(messages))


def many_rows(zone: str, seed: int, rows: int, most: int = 10**15) -> Message:
    """Values up to `most`, over the days around a clock change."""
    random = np.random.default_rng(seed)
    start = to_us(datetime.fromisoformat("2026-10-30T00:00:00+00:00"))
    known = [Series(tenant, zone, every_kind(group)) for tenant in (1, 2) for group in (7, 9)]
    sizes = [rows // 4, rows - rows // 4]
    return message(
        [uuid.UUID(int=int(random.integers(2**62))) for _ in sizes],
        sizes,
        known,
        random.integers(0, len(known), rows).tolist(),
        random.integers(0, len(SUBJECTS), rows).tolist(),
        (start + random.integers(0, 5 * 86_400_000_000, rows)).tolist(),
        {
            "a": Quantity(9, random.integers(-most, most, rows), random.random(rows) < 0.7),
            "b": Quantity(seed, random.integers(0, 1000, rows), None),
        },
    )


def every_kind(group: int) -> tuple[Target, ...]:
    return tuple(
        Target(meter_id, slot, group_id, measure, member)
        for meter_id, slot, measure, member in (
            (1, EVENTS, EVERY_EVENT, None),
            (2, SUMS, "a", None),
            (3, HIGHEST, "a", None),
            (4, SUMS, "b", None),
            (5, MEMBERS, SUBJECT, None),
            (6, MEMBERS, EVERY_EVENT, digest(str(group))),
        )
        for group_id in (TOTAL, group)
    )
