"""Which version of a price applies, and usage that is split among versions."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import given
from hypothesis import strategies as st
from meterline.calendar import Period, month_of
from meterline_publisher.prices.rules.parsing import parse_price
from meterline_publisher.prices.rules.prices import Price
from meterline_publisher.prices.rules.versions import PriceVersion, VersionError, pinned, split, timeline
from meterline_publisher.rating.rules.rating import rate

START = datetime(2026, 9, 1, tzinfo=UTC)
ZONE = ZoneInfo("UTC")
SEPTEMBER = Period(START, datetime(2026, 10, 1, tzinfo=UTC))
TIERS = [{"up_to": "10", "unit": "1", "flat": "2"}, {"up_to": None, "unit": "0.5", "flat": "0"}]
GRADUATED = parse_price({"model": "graduated", "currency": "USD", "tiers": TIERS})

microseconds = st.integers(0, (SEPTEMBER.end - SEPTEMBER.start) // timedelta(microseconds=1) - 1)
instants = microseconds.map(lambda offset: START + timedelta(microseconds=offset))
amounts = st.builds(lambda n: Decimal(f"{n}E-12"), st.integers(0, 10**36))
usages = st.lists(st.tuples(instants, amounts), max_size=30)


def unit_price(unit: int) -> Price:
    return parse_price({"model": "per_unit", "currency": "USD", "unit": unit})


zones = st.sampled_from(sorted(available_timezones() - {"Factory", "localtime"})).map(ZoneInfo)
days = st.dates(date(1970, 1, 1), date(2100, 12, 31))
seconds = st.integers(0, 4_000_000_000)
starts = st.one_of(days, seconds.map(lambda at: datetime.fromtimestamp(at, UTC)))


def versions_at(*starts: datetime | date) -> list[PriceVersion]:
    return [PriceVersion(number, start, unit_price(number)) for number, start in enumerate(starts, 1)]


@pytest.mark.req("C2")
def test_version_applies_from_its_start_until_the_next() -> None:
    change = datetime(2026, 9, 12, tzinfo=UTC)
    versions = versions_at(START - timedelta(days=200), change, change + timedelta(days=1))

    assert pinned(versions, change - timedelta(microseconds=1), ZONE).version == 1
    assert pinned(versions, change, ZONE).version == 2
    assert pinned(versions, change + timedelta(days=300), ZONE).version == 3


@pytest.mark.req("C2")
def test_instants_of_different_zones_are_compared() -> None:
    change = datetime.fromisoformat("2026-09-12T02:00:00+02:00")
    versions = versions_at(START, change)

    assert pinned(versions, datetime(2026, 9, 12, tzinfo=UTC), ZONE).version == 2
    assert versions[1] == PriceVersion(2, change.astimezone(UTC), unit_price(2))


@pytest.mark.req("C2")
def test_nothing_is_priced_before_the_first_version() -> None:
    versions = versions_at(START + timedelta(days=3))

    with pytest.raises(VersionError, match="in force"):
        pinned(versions, START, ZONE)
    with pytest.raises(VersionError, match="in force"):
        split(versions, SEPTEMBER, [(START, Decimal(1))], ZONE)
    with pytest.raises(VersionError, match="in force"):
        pinned([], START, ZONE)


@pytest.mark.req("C2")
@pytest.mark.parametrize(
    ("numbers", "days"), [((1, 1), (0, 5)), ((1, 2), (5, 5)), ((1, 2), (5, 0)), ((2, 1), (0, 5))]
)
def test_contradicting_versions_are_refused(numbers: tuple[int, int], days: tuple[int, int]) -> None:
    versions = [
        PriceVersion(number, START + timedelta(days=day), unit_price(1))
        for number, day in zip(numbers, days, strict=True)
    ]

    with pytest.raises(VersionError, match="version"):
        pinned(versions, START + timedelta(days=9), ZONE)


@pytest.mark.req("C2")
def test_times_without_a_zone_are_refused() -> None:
    with pytest.raises(ValueError, match="no time zone"):
        PriceVersion(1, START.replace(tzinfo=None), unit_price(1))
    with pytest.raises(ValueError, match="no time zone"):
        pinned(versions_at(START), START.replace(tzinfo=None), ZONE)


@pytest.mark.req("C2")
@pytest.mark.parametrize("at", [SEPTEMBER.end, START - timedelta(microseconds=1)])
def test_usage_outside_the_period_is_refused(at: datetime) -> None:
    with pytest.raises(ValueError, match="outside"):
        split(versions_at(START - timedelta(days=9)), SEPTEMBER, [(at, Decimal(1))], ZONE)


@pytest.mark.req("C2")
def test_tiers_start_from_zero_for_each_version() -> None:
    change = START + timedelta(days=10)
    versions = [PriceVersion(1, START, GRADUATED), PriceVersion(2, change, GRADUATED)]
    parts = split(versions, SEPTEMBER, [(START, Decimal(10)), (change, Decimal(10))], ZONE)

    assert [str(rate(part.version.price, part.quantity).amount) for part in parts] == ["12.00", "12.00"]
    assert str(rate(GRADUATED, 20).amount) == "17.00"


@pytest.mark.req("C2")
@pytest.mark.parametrize("usage", [[], [(START + timedelta(days=20), Decimal("0.0"))]])
def test_flat_fee_at_zero_usage_is_charged_once(usage: list[tuple[datetime, Decimal]]) -> None:
    versions = [PriceVersion(1, START, GRADUATED), PriceVersion(2, START + timedelta(days=10), GRADUATED)]
    parts = split(versions, SEPTEMBER, usage, ZONE)

    assert [(part.version.version, rate(part.version.price, part.quantity).minor) for part in parts] == [
        (1, 200)
    ]


@pytest.mark.req("C2")
@given(usages)
def test_split_usage_of_one_version_is_rated_as_the_whole(usage: list[tuple[datetime, Decimal]]) -> None:
    versions = [PriceVersion(1, START, GRADUATED), PriceVersion(2, SEPTEMBER.end, unit_price(9))]
    (part,) = split(versions, SEPTEMBER, usage, ZONE)

    assert part.version == pinned(versions, START, ZONE)
    assert Fraction(part.quantity) == sum(Fraction(quantity) for _, quantity in usage)


@pytest.mark.req("C2", "T1.6")
@given(usages, st.lists(instants, unique=True, max_size=5), st.randoms(use_true_random=False))
def test_splitting_is_exact_and_independent_of_order(
    usage: list[tuple[datetime, Decimal]], changes: list[datetime], random: object
) -> None:
    versions = versions_at(START - timedelta(days=1), *sorted(changes))
    parts = split(versions, SEPTEMBER, usage, ZONE)
    random.shuffle(usage)  # type: ignore[attr-defined]
    random.shuffle(versions)  # type: ignore[attr-defined]

    assert split(versions, SEPTEMBER, usage, ZONE) == parts
    assert sum(Fraction(part.quantity) for part in parts) == sum(Fraction(quantity) for _, quantity in usage)
    numbers = [part.version.version for part in parts]
    assert numbers == sorted(set(numbers))
    for part in parts:
        used = [quantity for at, quantity in usage if pinned(versions, at, ZONE) == part.version]
        assert Fraction(part.quantity) == sum(map(Fraction, used))


@pytest.mark.req("C2", "S2")
@given(zones, days)
def test_version_of_the_first_day_prices_the_whole_month_in_every_zone(zone: ZoneInfo, day: date) -> None:
    first = day.replace(day=1)
    versions = versions_at(date(1970, 1, 1), first) if first > date(1970, 1, 1) else versions_at(first)
    month = month_of(datetime(first.year, first.month, 15, tzinfo=zone), zone)

    assert pinned(versions, month.start, zone) == versions[-1]
    if len(versions) > 1:
        before = month_of(month.start - timedelta(microseconds=1), zone)
        assert pinned(versions, before.start, zone) == versions[0]


@pytest.mark.req("C2", "S2")
@given(zones, starts, starts, st.integers(-30 * 3600, 30 * 3600))
def test_order_of_versions_is_the_same_in_every_zone(
    zone: ZoneInfo, one: datetime | date, other: datetime | date, apart: int
) -> None:
    """`apart`: seconds between a day and an instant, which also reaches instants around its midnight."""
    near = other
    if isinstance(other, datetime) and not isinstance(one, datetime):
        near = datetime(one.year, one.month, one.day, tzinfo=UTC) + timedelta(seconds=apart)
    versions = versions_at(one, near)
    if versions[1].follows(versions[0]):
        # In a zone that skipped a whole day, that day and the next begin at the same instant.
        first, second = (version.start_in(zone) for version in timeline(versions))
        assert first <= second
        assert first < second or not isinstance(one, datetime)
        assert pinned(versions, second, zone).version == 2
    else:
        with pytest.raises(VersionError, match="takes effect"):
            timeline(versions)


@pytest.mark.req("C2", "S2")
def test_distance_of_day_and_instant_is_bounded_by_zone_offsets() -> None:
    day, midnight = date(2026, 12, 1), datetime(2026, 12, 1, tzinfo=UTC)
    tick = timedelta(microseconds=1)
    for instant, earlier, later in [
        (midnight + timedelta(hours=12), False, False),
        (midnight + timedelta(hours=12) + tick, False, True),
        (midnight - timedelta(hours=14), False, False),
        (midnight - timedelta(hours=14) - tick, True, False),
    ]:
        of_day, of_instant = versions_at(day, instant)
        assert (of_day.follows(of_instant), of_instant.follows(of_day)) == (earlier, later)
    ordered = [day - timedelta(days=1), day, day + timedelta(days=1)]
    assert all(later.follows(earlier) for earlier, later in pairwise(versions_at(*ordered)))
    assert not versions_at(day)[0].follows(versions_at(day)[0])
