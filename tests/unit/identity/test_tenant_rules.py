"""Validation of each field of a tenant; a refusal names the field and the rule."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import given
from hypothesis import strategies as st
from meterline.errors import InvalidArgumentError
from meterline_identity.tenants.rules import fields
from meterline_identity.tenants.rules.tenants import Onboarding, first_of_month

pytestmark = pytest.mark.req("S1")

GOOD: dict[str, Any] = {
    "slug": "acme-1",
    "display_name": "Acme, Inc.",
    "time_zone": "America/New_York",
    "currency": "USD",
    "plan": "gold",
    "external_customer_id": "cus_1",
    "external_subscription_id": "sub_1",
    "close_lead_seconds": 600,
}

SLUGS = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", fullmatch=True)
LETTERS = st.characters(exclude_categories=["Cc", "Cs"])


def refused(**changes: Any) -> InvalidArgumentError:
    with pytest.raises(InvalidArgumentError) as caught:
        Onboarding(**{**GOOD, **changes})
    return caught.value


@given(SLUGS)
def test_slugs_are_accepted(slug: str) -> None:
    assert Onboarding(**{**GOOD, "slug": slug}).slug == slug


@pytest.mark.parametrize(
    "slug",
    ["", "-a", "a-", "-", "A", "a_b", "a.b", "a b", " a", "a\n", "é", "٣", "a" * 64, "a\0", "tenant/../x"],
)
def test_invalid_slugs_are_refused(slug: str) -> None:
    error = refused(slug=slug)
    assert error.field == "tenant_id"
    assert "lower-case letters, digits and dashes" in error.rule


@given(st.text())
def test_slug_is_accepted_exactly_when_it_matches_the_pattern(text: str) -> None:
    fits = (
        1 <= len(text) <= 63
        and set(text) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
        and not text.startswith("-")
        and not text.endswith("-")
    )
    try:
        fields.slug("tenant_id", text)
    except InvalidArgumentError:
        assert not fits
    else:
        assert fits


@given(st.sampled_from(sorted(available_timezones() - {"localtime", "Factory", "posixrules"})))
def test_existing_time_zones_are_accepted(name: str) -> None:
    assert ZoneInfo(fields.time_zone("time_zone", name)).key == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "Mars/Olympus",
        "america/new_york",
        "EST5",
        "+02:00",
        "../../etc/passwd",
        "/etc/localtime",
        "localtime",
        "UTC\0",
        "tzdata.zi",
        "Europe",
    ],
)
def test_unknown_time_zones_are_refused(name: str) -> None:
    assert refused(time_zone=name).field == "time_zone"


@pytest.mark.parametrize("code", ["USD", "EUR", "JPY", "KWD", "CLF"])
def test_currencies_are_accepted(code: str) -> None:
    assert Onboarding(**{**GOOD, "currency": code}).currency == code


@pytest.mark.parametrize("code", ["", "usd", "US", "USDT", "ABC", "XXX", "XTS", "XAU", "US$", "U5D", "\0"])
def test_unbillable_currencies_are_refused(code: str) -> None:
    assert refused(currency=code).field == "currency"


@pytest.mark.parametrize("seconds", [0, 1, 72 * 3600])
def test_lead_within_three_days_is_accepted(seconds: int) -> None:
    assert Onboarding(**{**GOOD, "close_lead_seconds": seconds}).close_lead_seconds == seconds


@pytest.mark.parametrize("seconds", [-1, 72 * 3600 + 1, 2**63 - 1, -(2**63)])
def test_lead_out_of_range_is_refused(seconds: int) -> None:
    assert refused(close_lead_seconds=seconds).field == "close_lead_seconds"


@pytest.mark.parametrize("field", ["external_customer_id", "external_subscription_id"])
@pytest.mark.parametrize("value", [" ", "a ", " a", "\u3000", "x" * 256, "a\0b", "a\nb", "\x7f", "\x85"])
def test_blank_long_or_unprintable_external_names_are_refused(field: str, value: str) -> None:
    assert refused(**{field: value}).field == field


@given(st.text(LETTERS, max_size=255).map(str.strip))
def test_valid_external_names_are_kept_unchanged(value: str) -> None:
    onboarding = Onboarding(**{**GOOD, "external_customer_id": value, "display_name": value})
    assert (onboarding.external_customer_id, onboarding.display_name) == (value,) * 2


@pytest.mark.parametrize("plan", ["", "gold", "2026-basic", "A", "a.b_c-d", "x" * 64])
def test_plans_are_accepted(plan: str) -> None:
    assert Onboarding(**{**GOOD, "plan": plan}).plan == plan


@pytest.mark.parametrize("plan", [" ", "gold ", " gold", "go ld", "-gold", "gold\n", "g\0", "x" * 65])
def test_invalid_plans_are_refused(plan: str) -> None:
    assert refused(plan=plan).field == "plan"


def test_display_name_may_be_empty_but_not_too_long() -> None:
    assert Onboarding(**{**GOOD, "display_name": ""}).display_name == ""
    assert refused(display_name="x" * 256).field == "display_name"


def test_broken_rule_states_the_requirement() -> None:
    for field, value in [("slug", ""), ("plan", " "), ("time_zone", ""), ("currency", "")]:
        assert re.match("must ", refused(**{field: value}).rule)


def test_repeated_last_hour_of_a_month_belongs_to_the_next_month() -> None:
    """In St. John's clocks went from 00:01 on November 1, 2009 back to October 31."""
    again = datetime(2009, 11, 1, 2, 45, tzinfo=UTC)
    assert first_of_month(again, "America/St_Johns") == date(2009, 11, 1)
