"""Event summaries against our own sums."""

from collections.abc import Callable
from typing import Any

import pytest
import stripe
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.contract.stripe_double.lab import DAY, Lab, instant

START = instant("2026-02-01T00:00:00")
HOUR = 3_600
FAST = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

Sent = list[tuple[int, int]]
FORMULAS: dict[str, Callable[[Sent], int]] = {
    "sum": lambda sent: sum(value for _, value in sent),
    "count": len,
    # A stable sort by time: of two events at one instant, the later sent one is last.
    "last": lambda sent: sorted(sent, key=lambda event: event[0])[-1][1],
}
# Few instants, so that some coincide: the order of arrival decides between events of one second.
OFFSETS = st.one_of(st.integers(0, 2 * DAY - 1), st.sampled_from([0, HOUR - 1, HOUR, DAY]))
EVENTS = st.lists(st.tuples(OFFSETS, st.integers(-(10**6), 10**6)), max_size=12)


def _summaries(lab: Lab, meter: str, customer: str, **more: Any) -> list[stripe.billing.MeterEventSummary]:
    params: Any = {"customer": customer, "start_time": START, "end_time": START + 2 * DAY, **more}
    found = lab.api.v1.billing.meters.event_summaries.list(meter, params)
    return list(found.auto_paging_iter())


@FAST
@given(sent=EVENTS, formula=st.sampled_from(sorted(FORMULAS)), width=st.sampled_from([HOUR, DAY, 2 * DAY]))
@pytest.mark.req("T3.5", "X3")
def test_summaries_equal_the_sent_usage(lab: Lab, sent: Sent, formula: str, width: int) -> None:
    """In total or by window, over more than one page, independent of the order of arrival."""
    meter, customer = lab.meter(formula), lab.customer(lab.clock(START + 2 * DAY))
    for offset, value in sent:
        lab.send(meter, customer, value, at=START + offset)
    # Events just outside the range: the start is inclusive, the end exclusive.
    lab.send(meter, customer, 5, at=START - 1)
    lab.send(meter, customer, 5, at=START + 2 * DAY)
    grouping: Any = {HOUR: {"value_grouping_window": "hour"}, DAY: {"value_grouping_window": "day"}}
    found = _summaries(lab, meter.id, customer, limit=3, **grouping.get(width, {}))
    windows: dict[int, Sent] = {}
    for offset, value in sent:
        windows.setdefault(START + offset // width * width, []).append((offset, value))
    expected = [(at, FORMULAS[formula](windows[at])) for at in sorted(windows, reverse=True)]
    assert [(summary.start_time, summary.aggregated_value) for summary in found] == expected
    assert all(summary.end_time - summary.start_time == width for summary in found)


@pytest.mark.req("T3.5", "T1.6")
def test_last_value_is_the_latest_by_event_time_then_by_receipt(lab: Lab) -> None:
    meter, customer = lab.meter("last"), lab.customer(lab.clock(START + DAY))
    for value, at in ((1, START + 60), (2, START + 60), (3, START)):
        lab.send(meter, customer, value, at=at)
    (summary,) = _summaries(lab, meter.id, customer)
    assert summary.aggregated_value == 2


@pytest.mark.req("T3.5")
def test_value_is_a_float_like_stripes(lab: Lab) -> None:
    meter, customer = lab.meter(), lab.customer(lab.clock(START + DAY))
    for value in (10**15 - 1, 1 - 10**15, 1):
        lab.send(meter, customer, value, at=START)
    (summary,) = _summaries(lab, meter.id, customer)
    assert summary.aggregated_value == 1.0
    assert isinstance(summary.aggregated_value, float)


@pytest.mark.req("T3.5")
def test_summary_excludes_other_customers_and_meters(lab: Lab) -> None:
    clock = lab.clock(START + DAY)
    meter, other_meter = lab.meter(), lab.meter()
    customer, other_customer = lab.customer(clock), lab.customer(clock)
    lab.send(meter, customer, 1, at=START)
    lab.send(meter, other_customer, 10, at=START)
    lab.send(other_meter, customer, 100, at=START)
    assert [summary.aggregated_value for summary in _summaries(lab, meter.id, customer)] == [1.0]


@pytest.mark.req("T3.5")
@pytest.mark.parametrize(
    ("params", "param"),
    [
        ({"start_time": START + 1}, "start_time"),
        ({"end_time": START + 59}, "end_time"),
        ({"start_time": START + 60, "value_grouping_window": "hour"}, "start_time"),
        ({"end_time": START + HOUR, "value_grouping_window": "day"}, "end_time"),
        ({"end_time": START}, "end_time"),
        ({"value_grouping_window": "minute"}, "value_grouping_window"),
        ({"customer": "cus_nobody"}, "customer"),
        ({"limit": 101}, "limit"),
    ],
)
def test_invalid_ranges_are_refused(lab: Lab, params: dict[str, Any], param: str) -> None:
    meter, customer = lab.meter(), lab.customer()
    with pytest.raises(stripe.InvalidRequestError) as error:
        _summaries(lab, meter.id, **{"customer": customer, **params})
    assert (error.value.http_status, error.value.param) == (400, param)
