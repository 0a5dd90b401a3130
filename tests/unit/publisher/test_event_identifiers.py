"""Identifiers of meter events: stable, short, and different for different usage."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from meterline.calendar import Period
from meterline_publisher.ledger.rules.identifiers import event_identifier

START = datetime(2026, 1, 1, tzinfo=UTC)
LONGEST = 100
JANUARY = Period(START, datetime(2026, 2, 1, tzinfo=UTC))

names = st.text(min_size=1, max_size=200)
periods = st.builds(
    lambda start, length: Period(
        START + timedelta(microseconds=start), START + timedelta(microseconds=start + length)
    ),
    st.integers(0, 10**15),
    st.integers(1, 10**13),
)
inputs = st.tuples(names, names, periods, st.integers(0, 2**63 - 1))


@pytest.mark.req("S6")
def test_format_is_pinned() -> None:
    # A new format would send all open usage again: the provider knows sent usage by these identifiers.
    assert event_identifier("01890a5d-ac96-774b", "air_minutes", JANUARY, 2, LONGEST) == (
        "01890a5d-ac96-774b_air-minutes_20260101T0000_r2_39d933d1c3873e118efa91b5d0412822"
    )


@pytest.mark.req("S6")
@given(inputs)
def test_identifier_is_valid_for_the_provider_and_deterministic(
    given_inputs: tuple[str, str, Period, int],
) -> None:
    identifier = event_identifier(*given_inputs, LONGEST)

    assert len(identifier) <= LONGEST
    assert identifier.isascii()
    assert identifier.replace("_", "").replace("-", "").isalnum()
    assert identifier == event_identifier(*given_inputs, LONGEST)


@pytest.mark.req("S6")
@given(inputs, inputs)
def test_different_usage_has_different_identifiers(
    one: tuple[str, str, Period, int], other: tuple[str, str, Period, int]
) -> None:
    assert (event_identifier(*one, LONGEST) == event_identifier(*other, LONGEST)) == (one == other)


@pytest.mark.req("S6")
@given(st.text(alphabet='ab-_|,"\\ ', min_size=2, max_size=60), st.data())
def test_adjacent_names_are_separated(text: str, data: st.DataObject) -> None:
    cuts = range(1, len(text))
    identifiers = {event_identifier(text[:cut], text[cut:], JANUARY, 0, LONGEST) for cut in cuts}

    assert len(identifiers) == len(cuts)


@pytest.mark.req("S6")
@given(st.text(min_size=30, max_size=60), st.text(min_size=1, max_size=5), st.text(min_size=1, max_size=5))
def test_long_names_with_different_ends_differ(stem: str, one: str, other: str) -> None:
    by_tenant = {event_identifier(stem + end, "meter", JANUARY, 0, LONGEST) for end in (one, other)}
    by_meter = {event_identifier("tenant", stem + end, JANUARY, 0, LONGEST) for end in (one, other)}

    assert len(by_tenant) == len(by_meter) == len({one, other})


@pytest.mark.req("S6")
def test_the_longest_inputs_still_fit_and_differ() -> None:
    identifiers = {event_identifier("t" * 99, "m" * 99, JANUARY, 2**63 - last, LONGEST) for last in (1, 2)}

    assert {len(identifier) for identifier in identifiers} == {LONGEST}
    assert len(identifiers) == 2


@pytest.mark.req("S6")
def test_the_same_instants_in_another_zone_are_the_same_period() -> None:
    zone = ZoneInfo("Asia/Tokyo")
    local = Period(JANUARY.start.astimezone(zone), JANUARY.end.astimezone(zone))

    assert event_identifier("t", "m", local, 1, LONGEST) == event_identifier("t", "m", JANUARY, 1, LONGEST)


@pytest.mark.req("S6")
@pytest.mark.parametrize(("tenant", "meter", "revision"), [("", "m", 0), ("t", "", 0), ("t", "m", -1)])
def test_incomplete_inputs_are_refused(tenant: str, meter: str, revision: int) -> None:
    with pytest.raises(ValueError, match=r"needs|negative"):
        event_identifier(tenant, meter, JANUARY, revision, LONGEST)
