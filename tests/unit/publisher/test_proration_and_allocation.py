"""Proration of amounts over parts of a period, and allocation of amounts to the minor unit."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from meterline.calendar import Period
from meterline_publisher.billing.allocation import allocate
from meterline_publisher.billing.money import Money, currency
from meterline_publisher.billing.proration import change, prorate

USD, KWD = currency("USD"), currency("KWD")
NEW_YORK = ZoneInfo("America/New_York")
START = datetime(2026, 4, 1, tzinfo=UTC)
APRIL = Period(START, datetime(2026, 5, 1, tzinfo=UTC))

amounts = st.builds(lambda n: Decimal(f"{n}E-6"), st.integers(-(10**18), 10**18))
instants = st.integers(0, 30 * 86_400_000_000).map(lambda offset: START + timedelta(microseconds=offset))
totals = st.integers(-(10**12), 10**12).map(lambda minor: Money(USD, minor))
weights = st.lists(
    st.builds(lambda n, places: Decimal(f"{n}E-{places}"), st.integers(0, 10**12), st.integers(0, 6)),
    min_size=1,
).filter(any)


@pytest.mark.req("C5")
def test_proration_uses_the_real_length_of_a_month() -> None:
    march = Period(datetime(2026, 3, 1, tzinfo=NEW_YORK), datetime(2026, 4, 1, tzinfo=NEW_YORK))
    november = Period(datetime(2026, 11, 1, tzinfo=NEW_YORK), datetime(2026, 12, 1, tzinfo=NEW_YORK))

    assert march.end - march.start == timedelta(days=31, hours=-1)
    assert november.end - november.start == timedelta(days=30, hours=1)
    assert march.share(
        datetime(2026, 3, 8, tzinfo=NEW_YORK), datetime(2026, 3, 9, tzinfo=NEW_YORK)
    ) == Fraction(23, 743)
    # 74.30 for 743 hours: the short day costs 2.30
    day = prorate(
        march,
        datetime(2026, 3, 8, tzinfo=NEW_YORK),
        datetime(2026, 3, 9, tzinfo=NEW_YORK),
        Decimal("74.3"),
        USD,
    )
    assert str(day.money.amount) == "2.30"


@pytest.mark.req("C5")
def test_period_includes_its_start_and_excludes_its_end() -> None:
    assert APRIL.start in APRIL
    assert APRIL.end not in APRIL
    assert APRIL.end - timedelta(microseconds=1) in APRIL


@pytest.mark.req("C5")
def test_invalid_periods_are_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        Period(START, START)
    with pytest.raises(ValueError, match="no time zone"):
        Period(START.replace(tzinfo=None), START)
    for since, until in [(START, APRIL.end + timedelta(seconds=1)), (START - timedelta(seconds=1), START)]:
        with pytest.raises(ValueError, match="lie in"):
            APRIL.share(since, until)
    with pytest.raises(ValueError, match="lie in"):
        APRIL.share(APRIL.end, START)


@pytest.mark.req("C5")
def test_float_amount_is_refused() -> None:
    with pytest.raises(TypeError):
        change(APRIL, START, 1.0, Decimal(2), USD)  # type: ignore[arg-type]


@pytest.mark.req("C5")
@given(instants, amounts, amounts)
def test_a_change_credits_and_charges_the_rest_of_the_period(
    at: datetime, old: Decimal, new: Decimal
) -> None:
    outcome = change(APRIL, at, old, new, USD)
    rest = Fraction((APRIL.end - at) // timedelta(microseconds=1), 30 * 86_400_000_000)

    assert outcome.credit.exact == -Fraction(old) * rest
    assert outcome.charge.exact == Fraction(new) * rest
    assert outcome.net.minor == outcome.credit.money.minor + outcome.charge.money.minor


@pytest.mark.req("C5")
@given(instants, amounts)
def test_changing_to_the_same_amount_costs_nothing(at: datetime, amount: Decimal) -> None:
    assert change(APRIL, at, amount, amount, KWD).net.minor == 0


@pytest.mark.req("C5")
@given(st.lists(instants, max_size=6), amounts)
def test_parts_of_a_period_add_up_to_the_whole(cuts: list[datetime], amount: Decimal) -> None:
    edges = [APRIL.start, *sorted(cuts), APRIL.end]
    lines = [prorate(APRIL, since, until, amount, USD) for since, until in pairwise(edges)]

    assert sum(line.share for line in lines) == 1
    assert sum(line.exact for line in lines) == Fraction(amount)


@pytest.mark.req("C5")
@given(totals, weights)
def test_parts_add_up_and_lie_within_one_unit_of_their_share(total: Money, parts_of: list[Decimal]) -> None:
    parts = allocate(total, parts_of)
    whole = sum(map(Fraction, parts_of))

    assert sum(part.minor for part in parts) == total.minor
    for part, weight in zip(parts, parts_of, strict=True):
        assert abs(part.minor - total.minor * Fraction(weight) / whole) < 1


@pytest.mark.req("C5")
@given(totals, weights)
def test_the_largest_remainders_gain_and_credits_mirror_charges(
    total: Money, parts_of: list[Decimal]
) -> None:
    parts = allocate(total, parts_of)
    whole = sum(map(Fraction, parts_of))
    shares = [abs(total.minor) * Fraction(weight) / whole for weight in parts_of]
    gained = [abs(part.minor) - share // 1 for part, share in zip(parts, shares, strict=True)]
    ranked = sorted(range(len(shares)), key=lambda index: (-(shares[index] % 1), index))

    assert [gained[index] for index in ranked] == sorted(gained, reverse=True)
    assert allocate(-total, parts_of) == [-part for part in parts]


@pytest.mark.req("C5")
@pytest.mark.parametrize("weights", [[], [0, 0], [1, -1], [2, -1]])
def test_invalid_weights_are_refused(weights: list[int]) -> None:
    with pytest.raises(ValueError, match="weights"):
        allocate(Money(USD, 100), weights)


@pytest.mark.req("C5")
def test_part_with_zero_weight_gets_nothing() -> None:
    assert [part.minor for part in allocate(Money(USD, 2), [0, 1, 0, 1, 1])] == [0, 1, 0, 1, 0]
