"""Price bodies: validation and canonical form."""

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from meterline_publisher.billing.canonical import canonical_json, digest
from meterline_publisher.billing.money import Rounding
from meterline_publisher.prices.rules.fields import PriceError, Rule
from meterline_publisher.prices.rules.parsing import parse_price
from meterline_publisher.prices.rules.prices import Package, PackageRounding, Volume

FLAT = {"model": "flat", "currency": "USD", "amount": "1"}
PER_UNIT = {"model": "per_unit", "currency": "USD", "unit": "1"}
PACKAGE = {"model": "package", "currency": "USD", "size": "60", "amount": "10"}


def tiered(*tiers: object, **more: object) -> dict[str, object]:
    return {"model": "graduated", "currency": "USD", "tiers": list(tiers), **more}


REFUSED: list[tuple[object, str, Rule]] = [
    ([], "", Rule.OBJECT),
    (None, "", Rule.OBJECT),
    ({}, "model", Rule.REQUIRED),
    ({"model": "fixed"}, "model", Rule.CHOICE),
    ({"model": 7}, "model", Rule.CHOICE),
    ({"model": "flat", "amount": "1"}, "currency", Rule.REQUIRED),
    (FLAT | {"currency": "usd"}, "currency", Rule.CURRENCY),
    (FLAT | {"currency": "XAU"}, "currency", Rule.CURRENCY),
    (FLAT | {"currency": "ZZZ"}, "currency", Rule.CURRENCY),
    (FLAT | {"currency": ["USD"]}, "currency", Rule.CURRENCY),
    ({"model": "flat", "currency": "USD"}, "amount", Rule.REQUIRED),
    (FLAT | {"amount": 1.5}, "amount", Rule.DECIMAL),
    (FLAT | {"amount": True}, "amount", Rule.DECIMAL),
    (FLAT | {"amount": "NaN"}, "amount", Rule.DECIMAL),
    (FLAT | {"amount": "1e3"}, "amount", Rule.DECIMAL),
    (FLAT | {"amount": "1_000"}, "amount", Rule.DECIMAL),
    (FLAT | {"amount": " 1"}, "amount", Rule.DECIMAL),
    (FLAT | {"amount": "1\n"}, "amount", Rule.DECIMAL),
    (FLAT | {"amount": "٣"}, "amount", Rule.DECIMAL),
    (FLAT | {"amount": ""}, "amount", Rule.DECIMAL),
    (FLAT | {"amount": "9" * 41}, "amount", Rule.SIZE),
    (FLAT | {"amount": "0." + "0" * 40 + "1"}, "amount", Rule.SIZE),
    (FLAT | {"amonut": "1"}, "amonut", Rule.UNKNOWN_FIELD),
    (FLAT | {"fixed": "1"}, "fixed", Rule.UNKNOWN_FIELD),
    (FLAT | {"rounding": "down"}, "rounding", Rule.CHOICE),
    (FLAT | {"rounding": 1}, "rounding", Rule.CHOICE),
    (PER_UNIT | {"size": "1"}, "size", Rule.UNKNOWN_FIELD),
    (PER_UNIT | {"free": "-1"}, "free", Rule.NOT_NEGATIVE),
    (PER_UNIT | {"maximum": "x"}, "maximum", Rule.DECIMAL),
    (PACKAGE | {"size": "0"}, "size", Rule.POSITIVE),
    (PACKAGE | {"size": "-1"}, "size", Rule.POSITIVE),
    (PACKAGE | {"round": "half_up"}, "round", Rule.CHOICE),
    ({"model": "graduated", "currency": "USD"}, "tiers", Rule.REQUIRED),
    (tiered(), "tiers", Rule.TIER_LIST),
    (tiered() | {"tiers": "5"}, "tiers", Rule.TIER_LIST),
    (tiered("5"), "tiers.0", Rule.OBJECT),
    (tiered({"up_to": None}), "tiers.0.unit", Rule.REQUIRED),
    (tiered({"up_to": "5", "unit": "1"}), "tiers.0.up_to", Rule.LAST_TIER_OPEN),
    (tiered({"unit": "1"}, {"unit": "1"}), "tiers.0.up_to", Rule.LAST_TIER_OPEN),
    (tiered({"up_to": "0", "unit": "1"}, {"unit": "1"}), "tiers.0.up_to", Rule.POSITIVE),
    (
        tiered({"up_to": "5", "unit": "1"}, {"up_to": "5.0", "unit": "1"}, {"unit": "1"}),
        "tiers.1.up_to",
        Rule.TIER_ORDER,
    ),
    (tiered({"unit": "1", "price": "1"}), "tiers.0.price", Rule.UNKNOWN_FIELD),
    (tiered({"unit": "1"}, flat_at_zero="no"), "flat_at_zero", Rule.BOOLEAN),
]


@pytest.mark.req("C2")
@pytest.mark.parametrize(("body", "field", "rule"), REFUSED)
def test_invalid_body_is_refused_with_field_and_rule(body: object, field: str, rule: Rule) -> None:
    with pytest.raises(PriceError) as refused:
        parse_price(body)

    assert (refused.value.field, refused.value.rule) == (field, rule)
    assert str(refused.value).startswith(field or "price")


@pytest.mark.req("C2")
def test_every_rule_has_a_case() -> None:
    assert {rule for _, _, rule in REFUSED} == set(Rule)


@pytest.mark.req("C2")
def test_all_fields_of_a_body_are_read() -> None:
    price = parse_price(
        PACKAGE
        | {"free": "5", "round": "down", "fixed": "2", "minimum": "3", "maximum": 4, "rounding": "half_even"}
    )

    assert price.model == Package(Decimal(60), Decimal(10), Decimal(5), PackageRounding.DOWN)
    assert (price.fixed, price.minimum, price.maximum) == (Decimal(2), Decimal(3), Decimal(4))
    assert price.rounding is Rounding.HALF_EVEN
    assert isinstance(parse_price(tiered({"unit": "1"}) | {"model": "volume"}).model, Volume)


EQUAL = [
    (
        PER_UNIT,
        PER_UNIT | {"unit": "1.00", "free": "0", "fixed": "-0.0", "rounding": "half_up", "minimum": None},
    ),
    (PACKAGE, PACKAGE | {"size": 60, "amount": "010", "round": "up"}),
    (
        tiered({"up_to": "5", "unit": "7", "flat": "0"}, {"up_to": None, "unit": "0", "flat": "1"}),
        tiered({"unit": "7", "up_to": "5.0"}, {"flat": "1.0"}, flat_at_zero=True),
    ),
]


@pytest.mark.req("C1", "C2")
@pytest.mark.parametrize(("one", "other"), EQUAL)
def test_equivalent_bodies_have_equal_digests(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert parse_price(one) == parse_price(other)
    assert repr(parse_price(one)) == repr(parse_price(other))
    assert parse_price(one).digest() == parse_price(other).digest()
    assert canonical_json(parse_price(other).body()) == canonical_json(one)


@pytest.mark.req("C1", "C2")
@pytest.mark.parametrize(
    "change",
    [
        {"unit": "1.0000001"},
        {"currency": "EUR"},
        {"free": "1"},
        {"fixed": "1"},
        {"minimum": "0"},
        {"maximum": "0"},
        {"rounding": "half_even"},
    ],
)
def test_different_prices_have_different_digests(change: dict[str, str]) -> None:
    assert parse_price(PER_UNIT | change).digest() != parse_price(PER_UNIT).digest()


@pytest.mark.req("C1")
def test_canonical_json_is_sorted_compact_and_ascii() -> None:
    assert canonical_json({"b": [1, None, True], "a": "é"}) == '{"a":"\\u00e9","b":[1,null,true]}'
    assert digest({}) == "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"


@pytest.mark.req("C1")
@pytest.mark.parametrize("value", [1.0, {"a": {"b": 0.5}}, ["1", [2.5]]])
def test_float_is_refused_in_canonical_json(value: Any) -> None:
    with pytest.raises(TypeError, match="float"):
        canonical_json(value)


numbers = st.builds(
    lambda n, places: format(Decimal(f"{n}E-{places}"), "f"), st.integers(), st.integers(0, 12)
).filter(lambda text: len(text) < 40)
common = st.fixed_dictionaries(
    {"currency": st.sampled_from(["USD", "JPY", "KWD"])},
    optional={"minimum": numbers, "maximum": numbers, "rounding": st.sampled_from(["half_up", "half_even"])},
)
usage_models = st.one_of(
    st.fixed_dictionaries({"model": st.just("per_unit"), "unit": numbers}, optional={"fixed": numbers}),
    st.fixed_dictionaries({"model": st.just("percentage"), "percent": numbers}, optional={"fixed": numbers}),
    st.fixed_dictionaries(
        {"model": st.just("package"), "size": st.just("0.3"), "amount": numbers},
        optional={"free": st.sampled_from(["0", "7.50"]), "round": st.sampled_from(["up", "down"])},
    ),
    st.fixed_dictionaries(
        {
            "model": st.sampled_from(["graduated", "volume"]),
            "tiers": st.tuples(
                st.fixed_dictionaries({"up_to": st.just("2.50"), "unit": numbers, "flat": numbers}),
                st.fixed_dictionaries({"unit": numbers}, optional={"flat": numbers, "up_to": st.none()}),
            ),
        },
        optional={"flat_at_zero": st.booleans()},
    ),
)


@pytest.mark.req("C1")
@given(common, usage_models)
def test_canonical_body_parses_to_the_same_price(shared: dict[str, Any], model: dict[str, Any]) -> None:
    price = parse_price(shared | model)

    again = parse_price(price.body())
    assert again == price
    assert again.body() == price.body()
