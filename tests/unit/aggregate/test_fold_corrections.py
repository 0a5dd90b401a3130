"""Folding events and corrections, in any order, gives the same usage as folding the corrected events only."""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from meterline.clock import to_us
from meterline_aggregate.folding.rules.dispatch import fold
from meterline_aggregate.folding.rules.origins import Counted, Origin, limit_to_counted, with_targets
from meterline_aggregate.folding.rules.retractions import Retractions
from meterline_aggregate.folding.rules.rows import EVERY_EVENT, TOTAL, Message, Series, Target
from meterline_aggregate.kinds.slots.events import EVENTS

from tests.support.corrections import History, correction, histories
from tests.support.folding import comparable, message
from tests.support.folding_tables import Key, Stored, stored

pytestmark = pytest.mark.req("T3.4", "T1.6", "T3.2")

# The meters of `tests.support.folding.series`.
ADDS_UP, REBUILT = (1, 2, 6), (3, 4, 5)


def in_parts(messages: Sequence[Message], order: random.Random) -> list[list[Message]]:
    """The messages in random order, divided into transactions of random sizes."""
    shuffled = order.sample(messages, len(messages))
    parts: list[list[Message]] = []
    for one in shuffled:
        if parts and order.random() < 0.5:
            parts[-1].append(one)
        else:
            parts.append([one])
    return parts


def left(found: Stored, meters: Sequence[int]) -> dict[Key, tuple[int, Fraction | None]]:
    """Windows that count events. A window without events may be stored or missing: both mean the same."""
    return {
        key: (count, value)
        for key, (count, value) in found.windows.items()
        if key[2] in meters and (count or value)
    }


@given(histories(), st.randoms(use_true_random=False))
@settings(max_examples=150, deadline=None)
def test_counts_and_sums_cover_the_remaining_events(history: History, order: random.Random) -> None:
    found, expected = stored(in_parts(history.messages, order)), stored([history.survivors])
    assert left(found, ADDS_UP) == left(expected, ADDS_UP)
    assert {tenant: count for tenant, count in found.totals.items() if count} == expected.totals


@given(histories(), st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_every_window_counts_its_remaining_events(history: History, order: random.Random) -> None:
    found, expected = stored(in_parts(history.messages, order)), stored([history.survivors])
    assert {key: count for key, (count, _) in found.windows.items() if count} == {
        key: count for key, (count, _) in expected.windows.items()
    }


@given(histories(), st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_contributions_add_up_to_the_remaining_events(history: History, order: random.Random) -> None:
    """The correcting batch has its own contributions, which may be negative."""

    def by_slice(found: Stored) -> dict[Key, tuple[int, Fraction]]:
        sums: dict[Key, tuple[int, Fraction]] = {}
        for (key, _), (count, value) in found.contributions.items():
            events, units = sums.get(key, (0, Fraction(0)))
            own = (value or Fraction(0)) if key[1] in ADDS_UP else Fraction(0)
            sums[key] = (events + count, units + own)
        return {key: one for key, one in sums.items() if any(one)}

    found = stored(in_parts(history.messages, order))
    assert by_slice(found) == by_slice(stored([history.survivors]))
    batches = {batch.batch_id for one in history.messages for batch in one.batches if batch.rows}
    counted = {batch.batch_id for one in history.messages for batch in one.batches}
    assert {batch_id for _, batch_id in found.contributions} <= batches <= counted


@given(histories(), st.randoms(use_true_random=False))
@settings(max_examples=150, deadline=None)
def test_rebuilt_maxima_and_unique_counts_are_exact(history: History, order: random.Random) -> None:
    """A rebuild streams the events in any order; retractions may come before their events."""
    expected = stored([history.survivors])
    for tenant_id, meter_id in product((1, 2), REBUILT):
        shuffled = order.sample(history.messages, len(history.messages))
        own = [only(tenant_id, meter_id, one) for one in shuffled]
        retractions = Retractions()
        for one in own:
            retractions.note(one)
        found = stored([[retractions.remove(one)] for one in own])
        assert not retractions.rows
        assert left(found, [meter_id]) == {
            key: value for key, value in left(expected, [meter_id]).items() if key[1] == tenant_id
        }
        assert found.members == {
            (key, member) for key, member in expected.members if key[1:3] == (tenant_id, meter_id)
        }


def only(tenant_id: int, meter_id: int, one: Message) -> Message:
    """The message with one meter of one tenant as its only target."""

    def sees(series: Series) -> Callable[[int], bool]:
        return lambda known: (series.tenant_id, known) == (tenant_id, meter_id)

    return replace(one, series=[with_targets(series, sees(series)) for series in one.series])


@given(histories(), st.randoms(use_true_random=False))
@settings(max_examples=80, deadline=None)
def test_retraction_names_the_months_to_rebuild(history: History, order: random.Random) -> None:
    """Every month in which such a meter lost events, and every batch that retracted them."""
    parts = in_parts(history.messages, order)
    named: set[Key] = set()
    for part in parts:
        changes = fold(part)
        named |= set(changes.rebuilds.months)
        given_to = {(row[0], row[1], row[2], row[3]) for row in comparable(changes)["contributions"]}
        ids = [batch.batch_id for batch in changes.batches]
        assert {(*source[:3], ids[source[3]]) for source in changes.rebuilds.sources} <= given_to
    retracted = stored([[one.only(one.retracted_rows) for one in history.messages]])
    months = {key for key in retracted.windows if key[0] == 4 and key[2] in REBUILT and key[4] == TOTAL}
    assert named == {(tenant, meter, start) for _, tenant, meter, start, _ in months}


def test_messages_without_corrections_skip_the_correction_fold(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise AssertionError("these messages retract nothing")

    monkeypatch.setattr("meterline_aggregate.folding.rules.dispatch.fold_corrections", fails)
    assert fold([one_row(1)]).totals == {1: 1}


# --- meters created after an event

NOON_US = to_us(datetime.fromisoformat("2026-11-15T12:00:00+00:00"))
OLD, NEW = 1, 2


def one_row(*meters: int, batch_id: uuid.UUID | None = None) -> Message:
    targets = tuple(Target(meter_id, EVENTS, TOTAL, EVERY_EVENT) for meter_id in meters)
    return message([batch_id or uuid.uuid4()], [1], [Series(1, "UTC", targets)], [0], [1], [NOON_US], {})


def meters_that_lose(counted: Counted, batch_id: bytes) -> set[int]:
    row = one_row(OLD, NEW)
    retraction = correction(row, row.only(np.zeros(1, np.bool_)))
    windows = fold([limit_to_counted(retraction, [batch_id], counted)]).windows
    assert set(windows.event_count.tolist()) <= {-1}
    return set(windows.meter_id.tolist())


def batch_made_at(us: int) -> bytes:
    return (us // 1000).to_bytes(6, "big") + bytes(10)


def test_retraction_affects_only_meters_that_counted_the_event() -> None:
    batch = batch_made_at(NOON_US)
    origin = Origin(1, batch)
    hour = NOON_US - NOON_US % 3_600_000_000
    created = {OLD: NOON_US - 1, NEW: NOON_US + 1}
    assert meters_that_lose(Counted({origin: {(OLD, hour)}}, set(), created), batch) == {OLD}
    # The recorded contributions decide, not the clocks of two machines.
    assert meters_that_lose(Counted({origin: {(OLD, hour), (NEW, hour)}}, set(), created), batch) == {
        OLD,
        NEW,
    }
    assert meters_that_lose(Counted({origin: {(OLD, hour - 1)}}, set(), created), batch) == set()
    # No contribution recorded yet: the meters that existed when the event was captured.
    assert meters_that_lose(Counted({}, set(), created), batch) == {OLD}
    # Counted in this transaction: by all meters.
    assert meters_that_lose(Counted({}, {batch}, created), batch) == {OLD, NEW}
    # The origin is unknown.
    assert meters_that_lose(Counted({}, set(), created), b"") == {OLD, NEW}
