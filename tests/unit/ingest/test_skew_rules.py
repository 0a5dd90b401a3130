"""Correction of event times for the clock skew of their source."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from meterline_ingest.capture.call import Origin, Submission
from meterline_ingest.capture.rules.skew import Sending, correct
from meterline_ingest.capture.skew_metric import MAX_SOURCES, Skews
from opentelemetry.trace import INVALID_SPAN_CONTEXT
from prometheus_client import REGISTRY

pytestmark = pytest.mark.req("T1.5")

SECOND = 1_000_000
NOW = 1_795_000_000 * SECOND
TOLERANCE = 5 * SECOND

sendings = st.builds(
    Sending,
    rows=st.integers(0, 4),
    received_at_us=st.integers(NOW, NOW + 100),
    sent_at_us=st.none() | st.integers(NOW - 900 * SECOND, NOW + 900 * SECOND),
)


@given(st.lists(sendings, min_size=1, max_size=5), st.data())
def test_skew_correction_is_reversible(calls: list[Sending], data: st.DataObject) -> None:
    count = sum(call.rows for call in calls)
    ages = data.draw(st.lists(st.integers(-1_000 * SECOND, 10**12), min_size=count, max_size=count))
    times = np.array([NOW - age for age in ages], np.int64)

    corrected = correct(times, calls, TOLERANCE)

    cut = np.zeros(count, np.bool_) if corrected.cut is None else corrected.cut
    start = 0
    for call, skew in zip(calls, corrected.skews_us, strict=True):
        for row in range(start, start + call.rows):
            sent, shown = int(times[row]), int(corrected.times_us[row])
            assert int(corrected.sent_us[row]) == sent
            if not skew:
                assert shown == sent
                continue
            assert call.sent_at_us is not None
            # The specified rule: received - (sent - time), at most received.
            exact = call.received_at_us - (call.sent_at_us - sent)
            assert shown == min(exact, call.received_at_us)
            assert bool(cut[row]) is (exact > call.received_at_us)
            if not cut[row]:
                assert shown - skew == sent
        start += call.rows


@pytest.mark.parametrize("seconds", [-5, 0, 5])
def test_difference_within_the_tolerance_is_no_skew(seconds: int) -> None:
    assert Sending(1, NOW, NOW - seconds * SECOND).skew_us(TOLERANCE) == 0


@pytest.mark.parametrize("minutes", [-10, 10])
def test_skew_of_ten_minutes_is_corrected(minutes: int) -> None:
    sent = NOW + minutes * 60 * SECOND
    corrected = correct(np.array([sent - 60 * SECOND]), [Sending(1, NOW, sent)], TOLERANCE)
    assert corrected.times_us.tolist() == [NOW - 60 * SECOND]


def submission(source: str, skew_us: int) -> Submission:
    return Submission(Origin(source, NOW, NOW - skew_us, INVALID_SPAN_CONTEXT), "acme")


async def test_skew_of_a_source_is_that_of_its_fastest_call() -> None:
    skews = Skews(timedelta(seconds=5))
    skews.observe([submission("till-1", skew) for skew in (7 * SECOND + 900, 7 * SECOND + 5, 9 * SECOND)])
    assert skews.estimate_us("acme", "till-1") == 7 * SECOND + 5
    shown = REGISTRY.get_sample_value("meterline_clock_skew_seconds", {"tenant": "acme", "source": "till-1"})
    assert shown == pytest.approx(7.000005)


async def test_number_of_reported_sources_is_limited() -> None:
    skews = Skews(timedelta(seconds=5))
    skews.observe(submission(f"s{number}", SECOND) for number in range(MAX_SOURCES + 1))
    assert skews.estimate_us("acme", "s0") is None
    assert skews.estimate_us("acme", f"s{MAX_SOURCES}") == SECOND
    labels = {"tenant": "acme", "source": "s0"}
    assert REGISTRY.get_sample_value("meterline_clock_skew_seconds", labels) is None
