"""Validation of property values and of property definitions."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from meterline.errors import InvalidArgumentError
from meterline_ingest.event_types.rules.properties import Kind, Property, first_problem

pytestmark = pytest.mark.req("O1", "O2")


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (Kind.TEXT, ["", "any text"], ["\0", "x" * 1_025]),
        (Kind.INTEGER, ["0", "-5", "007", "9" * 18], ["", "1.0", "1e3", "NaN", "9" * 19, "+1", "\u0661"]),
        (Kind.DECIMAL, ["0", "-12.50", "1e3", "0.000000001", "9" * 18], ["", "NaN", "x", "9" * 19]),
        (Kind.BOOLEAN, ["true", "false"], ["", "True", "1", "yes"]),
        (
            Kind.TIMESTAMP,
            ["2026-11-25T12:00:00Z", "2026-11-25t12:00:00.123456789+07:00", "2024-02-29T00:00:00-05:00"],
            ["", "2026-11-25", "2026-11-25T12:00:00", "2026-02-29T00:00:00Z", "2026-11-25T25:00:00Z"],
        ),
    ],
)
def test_values_are_validated_by_kind(kind: Kind, good: list[str], bad: list[str]) -> None:
    definition = Property("p", kind)
    assert [text for text in good if definition.problem(text)] == []
    assert [text for text in bad if not definition.problem(text)] == []


@given(
    st.decimals(-1_000, 1_000, places=2),
    st.decimals(-1_000, 1_000, places=2),
    st.decimals(-2_000, 2_000, places=2),
)
def test_bounds_are_inclusive(one: Decimal, other: Decimal, value: Decimal) -> None:
    least, most = sorted((one, other))
    definition = Property("p", Kind.DECIMAL, minimum=str(least), maximum=str(most))
    definition.check()
    assert (definition.problem(str(value)) is None) is (least <= value <= most)


def test_broken_rule_does_not_contain_the_value() -> None:
    definition = Property("ssn", Kind.INTEGER, values=("1",), maximum="5", sensitive=True)
    for secret in ("123456789", "no number", "2"):
        found = definition.problem(secret)
        assert found is not None
        assert secret not in " ".join(found)


@pytest.mark.parametrize(
    "definition",
    [
        Property("-st", Kind.TEXT),
        Property("p", Kind.TEXT, minimum="1"),
        Property("p", Kind.INTEGER, minimum="x"),
        Property("p", Kind.INTEGER, minimum="2", maximum="1"),
        Property("p", Kind.INTEGER, values=("x",)),
        Property("p", Kind.TEXT, values=("a", "a")),
        Property("p", Kind.TEXT, max_length=0),
        Property("p", Kind.TEXT, max_length=4_097),
        Property("p", Kind.TEXT, values=("abc",), max_length=2),
    ],
)
def test_invalid_definitions_are_refused(definition: Property) -> None:
    with pytest.raises(InvalidArgumentError, match=r"event_type\.properties"):
        definition.check()


def test_the_first_problem_names_field_and_rule() -> None:
    declared = {"age": Property("age", Kind.INTEGER, required=True)}
    assert first_problem({"age": "1"}, declared, "t") is None
    assert first_problem({"age": "x"}, declared, "t") == (
        "PROPERTY_WRONG_KIND",
        "properties.age",
        "a whole number of at most 18 digits",
    )
    rule = "required by t, and not empty"
    assert first_problem({}, declared, "t") == ("PROPERTY_REQUIRED", "properties.age", rule)
    assert first_problem({"other": "1"}, declared, "t") == (
        "PROPERTY_UNKNOWN",
        "properties.other",
        "a property of t",
    )


def test_required_property_must_not_be_empty() -> None:
    declared = {"name": Property("name", Kind.TEXT, required=True), "note": Property("note", Kind.TEXT)}
    assert first_problem({"name": "ann", "note": ""}, declared, "t") is None
    problem = first_problem({"name": "", "note": "x"}, declared, "t")
    assert problem is not None
    assert problem[:2] == ("PROPERTY_REQUIRED", "properties.name")


@pytest.mark.parametrize(
    ("values", "ending"),
    [
        (("red", "green"), "one of 'red', 'green'"),
        (tuple(f"{number:03}" for number in range(1_000)), "'020', '021' and 978 more"),
        (("x" * 500,), "one of the 1 allowed values"),
    ],
)
def test_refusal_of_a_value_lists_the_allowed_ones(values: tuple[str, ...], ending: str) -> None:
    problem = Property("colour", Kind.TEXT, values=values).problem("blue")
    assert problem is not None
    assert problem[0] == "PROPERTY_NOT_ALLOWED"
    assert problem[1].endswith(ending)
    assert len(problem[1]) < 200
