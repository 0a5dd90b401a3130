"""Which version of a price applies, and usage split among versions."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from meterline_publisher.domain.periods import Period
from meterline_publisher.domain.price_parsing import parse_price
from meterline_publisher.domain.prices import Price
from meterline_publisher.domain.rating import rate
from meterline_publisher.domain.versions import PriceVersion, VersionError, pinned, split

START = datetime(2026, 9, 1, tzinfo=UTC)
SEPTEMBER = Period(START, datetime(2026, 10, 1, tzinfo=UTC))
TIERS = [{"up_to": "10", "unit": "1", "flat": "2"}, {"up_to": None, "unit": "0.5", "flat": "0"}]
GRADUATED = parse_price({"model": "graduated", "currency": "USD", "tiers": TIERS})

microseconds = st.integers(0, (SEPTEMBER.end - SEPTEMBER.start) // timedelta(microseconds=1) - 1)
instants = microseconds.map(lambda offset: START + timedelta(microseconds=offset))
amounts = st.builds(lambda n: Decimal(f"{n}E-12"), st.integers(0, 10**36))
usages = st.lists(st.tuples(instants, amounts), max_size=30)


def unit_price(unit: int) -> Price:
    return parse_price({"model": "per_unit", "currency": "USD", "unit": unit})


def versions_at(*starts: datetime) -> list[PriceVersion]:
    return [PriceVersion(number, start, unit_price(number)) for number, start in enumerate(starts, 1)]


@pytest.mark.req("C2")
def test_a_version_holds_from_its_start_until_the_next() -> None:
    change = datetime(2026, 9, 12, tzinfo=UTC)
    versions = versions_at(START - timedelta(days=200), change, change + timedelta(days=1))

    assert pinned(versions, change - timedelta(microseconds=1)).version == 1
    assert pinned(versions, change).version == 2
    assert pinned(versions, change + timedelta(days=300)).version == 3


@pytest.mark.req("C2")
def test_instants_are_compared_whatever_their_zone() -> None:
    change = datetime.fromisoformat("2026-09-12T02:00:00+02:00")
    versions = versions_at(START, change)

    assert pinned(versions, datetime(2026, 9, 12, tzinfo=UTC)).version == 2
    assert versions[1] == PriceVersion(2, change.astimezone(UTC), unit_price(2))


@pytest.mark.req("C2")
def test_nothing_is_priced_before_the_first_version() -> None:
    versions = versions_at(START + timedelta(days=3))

    with pytest.raises(VersionError, match="in force"):
        pinned(versions, START)
    with pytest.raises(VersionError, match="in force"):
        split(versions, SEPTEMBER, [(START, Decimal(1))])
    with pytest.raises(VersionError, match="in force"):
        pinned([], START)


@pytest.mark.req("C2")
@pytest.mark.parametrize(
    ("numbers", "days"), [((1, 1), (0, 5)), ((1, 2), (5, 5)), ((1, 2), (5, 0)), ((2, 1), (0, 5))]
)
def test_contradicting_versions_price_nothing(numbers: tuple[int, int], days: tuple[int, int]) -> None:
    versions = [
        PriceVersion(number, START + timedelta(days=day), unit_price(1))
        for number, day in zip(numbers, days, strict=True)
    ]

    with pytest.raises(VersionError, match="version"):
        pinned(versions, START + timedelta(days=9))


@pytest.mark.req("C2")
def test_times_without_a_zone_are_refused() -> None:
    with pytest.raises(ValueError, match="no time zone"):
        PriceVersion(1, START.replace(tzinfo=None), unit_price(1))
    with pytest.raises(ValueError, match="no time zone"):
        pinned(versions_at(START), START.replace(tzinfo=None))


@pytest.mark.req("C2")
@pytest.mark.parametrize("at", [SEPTEMBER.end, START - timedelta(microseconds=1)])
def test_usage_outside_the_period_is_refused(at: datetime) -> None:
    with pytest.raises(ValueError, match="outside"):
        split(versions_at(START - timedelta(days=9)), SEPTEMBER, [(at, Decimal(1))])


@pytest.mark.req("C2")
def test_tiers_count_for_each_version_from_zero() -> None:
    change = START + timedelta(days=10)
    versions = [PriceVersion(1, START, GRADUATED), PriceVersion(2, change, GRADUATED)]
    parts = split(versions, SEPTEMBER, [(START, Decimal(10)), (change, Decimal(10))])

    assert [str(rate(part.version.price, part.quantity).amount) for part in parts] == ["12.00", "12.00"]
    assert str(rate(GRADUATED, 20).amount) == "17.00"


@pytest.mark.req("C2")
@pytest.mark.parametrize("usage", [[], [(START + timedelta(days=20), Decimal("0.0"))]])
def test_what_is_due_at_zero_is_due_once(usage: list[tuple[datetime, Decimal]]) -> None:
    versions = [PriceVersion(1, START, GRADUATED), PriceVersion(2, START + timedelta(days=10), GRADUATED)]
    parts = split(versions, SEPTEMBER, usage)

    assert [(part.version.version, rate(part.version.price, part.quantity).minor) for part in parts] == [
        (1, 200)
    ]


@pytest.mark.req("C2")
@given(usages)
def test_one_version_rates_split_usage_as_the_whole(usage: list[tuple[datetime, Decimal]]) -> None:
    versions = [PriceVersion(1, START, GRADUATED), PriceVersion(2, SEPTEMBER.end, unit_price(9))]
    (part,) = split(versions, SEPTEMBER, usage)

    assert part.version == pinned(versions, START)
    assert Fraction(part.quantity) == sum(Fraction(quantity) for _, quantity in usage)


@pytest.mark.req("C2", "T1.6")
@given(usages, st.lists(instants, unique=True, max_size=5), st.randoms(use_true_random=False))
def test_splitting_loses_nothing_and_does_not_depend_on_order(
    usage: list[tuple[datetime, Decimal]], changes: list[datetime], random: object
) -> None:
    versions = versions_at(START - timedelta(days=1), *sorted(changes))
    parts = split(versions, SEPTEMBER, usage)
    random.shuffle(usage)  # type: ignore[attr-defined]
    random.shuffle(versions)  # type: ignore[attr-defined]

    assert split(versions, SEPTEMBER, usage) == parts
    assert sum(Fraction(part.quantity) for part in parts) == sum(Fraction(quantity) for _, quantity in usage)
    numbers = [part.version.version for part in parts]
    assert numbers == sorted(set(numbers))
    for part in parts:
        used = [quantity for at, quantity in usage if pinned(versions, at) == part.version]
        assert Fraction(part.quantity) == sum(map(Fraction, used))
