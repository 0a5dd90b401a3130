"""Laws of the fold: it depends neither on order nor on batching, and counts each event exactly once."""

from __future__ import annotations

import random
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from meterline_aggregate.folding.rules.dispatch import fold
from meterline_aggregate.folding.rules.rows import EVERY_EVENT, TOTAL, Message
from meterline_aggregate.kinds.slots.highest import HIGHEST
from meterline_aggregate.kinds.slots.sums import SUMS

from tests.support.folding import comparable, several_messages, values_of
from tests.support.folding_tables import stored

pytestmark = pytest.mark.req("T1.6", "T2.2")


@given(several_messages(), st.randoms(use_true_random=False))
@settings(max_examples=80, deadline=None)
def test_fold_is_independent_of_message_order_and_batching(
    messages: list[Message], order: random.Random
) -> None:
    shuffled = order.sample(messages, len(messages))
    cut = order.randint(0, len(shuffled))
    together = stored([messages])
    assert stored([shuffled]) == together
    assert stored([[one] for one in shuffled]) == together
    assert stored([part for part in (shuffled[:cut], shuffled[cut:]) if part]) == together


@given(several_messages(), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_fold_is_independent_of_row_order(messages: list[Message], order: random.Random) -> None:
    """Rows are shuffled within their batch."""
    shuffled = []
    for message in messages:
        rows: list[int] = []
        for batch in message.batches:
            own = list(range(len(rows), len(rows) + batch.rows))
            order.shuffle(own)
            rows += own
        index = np.array(rows, np.int64)
        shuffled.append(
            replace(
                message,
                series_index=message.series_index[index],
                subject_index=message.subject_index[index],
                times_us=message.times_us[index],
                quantities={
                    name: replace(
                        quantity,
                        units=quantity.units[index],
                        present=None if quantity.present is None else quantity.present[index],
                    )
                    for name, quantity in message.quantities.items()
                },
            )
        )
    assert comparable(fold(shuffled)) == comparable(fold(messages))


@pytest.mark.req("X2")
@given(several_messages())
@settings(max_examples=80, deadline=None)
def test_fold_counts_every_event_exactly_once(messages: list[Message]) -> None:
    """Once in the total of its tenant, and once in each grain of each meter that counts it."""
    changes = fold(messages)
    events: dict[int, int] = {}
    counted: dict[tuple[int, int], int] = {}
    for message in messages:
        for position in message.series_index.tolist():
            series = message.series[position]
            events[series.tenant_id] = events.get(series.tenant_id, 0) + 1
            for target in series.targets:
                if target.group_id == TOTAL and target.measure == EVERY_EVENT:
                    key = (series.tenant_id, target.meter_id)
                    counted[key] = counted.get(key, 0) + 1
    assert changes.totals == events
    windows = changes.windows
    for (tenant_id, meter_id), number in counted.items():
        for grain in (1, 2, 3, 4):
            here = (windows.tenant_id == tenant_id) & (windows.meter_id == meter_id)
            here &= (windows.grain == grain) & (windows.group_id == TOTAL)
            assert windows.event_count[here].sum() == number
        given_here = changes.contributions.tenant_id == tenant_id
        given_here &= changes.contributions.meter_id == meter_id
        assert changes.contributions.event_count[given_here].sum() == number


@given(several_messages())
@settings(max_examples=60, deadline=None)
def test_changes_are_sorted_by_key(messages: list[Message]) -> None:
    """Replicas that lock rows in different orders could deadlock."""
    said = comparable(fold(messages))
    for rows, width in (("windows", 5), ("members", 6), ("contributions", 4)):
        keys = [row[:width] for row in said[rows]]
        assert keys == sorted(set(keys))


@given(several_messages())
@settings(max_examples=60, deadline=None)
def test_contributions_add_up_to_month_windows(messages: list[Message]) -> None:
    """Also in zones whose days begin within an hour: no contribution spans two months."""
    changes = fold(messages)
    windows, given_ = changes.windows, changes.contributions
    values, own = values_of(windows.numbers), values_of(given_.numbers)
    for row in np.flatnonzero((windows.grain == 4) & (windows.group_id == TOTAL)).tolist():
        same = (given_.tenant_id == windows.tenant_id[row]) & (given_.meter_id == windows.meter_id[row])
        months = sorted(
            windows.start_us[
                (windows.grain == 4)
                & (windows.tenant_id == windows.tenant_id[row])
                & (windows.meter_id == windows.meter_id[row])
                & (windows.group_id == TOTAL)
            ].tolist()
        )
        after = [start for start in months if start > windows.start_us[row]]
        inside = same & (given_.start_us >= windows.start_us[row])
        if after:
            inside &= given_.start_us < after[0]
        assert given_.event_count[inside].sum() == windows.event_count[row]
        slot = windows.numbers.slot[row]
        parts = [own[place] or Fraction(0) for place in np.flatnonzero(inside).tolist()]
        if slot == SUMS.code:
            assert sum(parts) == values[row]
        if slot == HIGHEST.code:
            assert max(parts) == values[row]
