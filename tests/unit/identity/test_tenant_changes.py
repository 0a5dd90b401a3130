"""Updates of a tenant: one version for each change, none without a change, and optimistic locking."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from meterline.errors import AbortedError, FailedPreconditionError, InvalidArgumentError
from meterline_identity.tenants.rules.tenants import Changes, Tenant

pytestmark = pytest.mark.req("S1")

TENANT = Tenant(
    tenant_id=7,
    slug="acme",
    display_name="Acme",
    time_zone="UTC",
    currency="USD",
    plan="gold",
    external_customer_id="cus_1",
    external_subscription_id="sub_1",
    close_lead_seconds=600,
    active=True,
    version=3,
    billed_from=date(2026, 3, 1),
    billing_provider="",
    created_at_us=1_772_323_200_000_000,
    updated_at_us=1_772_323_200_000_000,
)

# Created in March 2026.
LATER = TENANT.updated_at_us + 5_000
TEXTS = st.text(st.sampled_from("abc"), min_size=1, max_size=3)
CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "display_name": st.one_of(st.just(""), st.just("Acme"), TEXTS),
        "plan": st.one_of(st.just("gold"), TEXTS),
        "external_customer_id": TEXTS,
        "external_subscription_id": TEXTS,
        "active": st.booleans(),
        "close_lead_seconds": st.integers(0, 72 * 3600),
        "billed_from": st.dates(date(2026, 3, 1), date(2040, 1, 1)),
        "billing_provider": st.one_of(st.just(""), TEXTS),
    },
)


@given(CHANGES)
def test_update_changes_only_the_given_fields(changes: dict[str, Any]) -> None:
    after = Changes(**changes).apply(TENANT, now_us=LATER)
    expected = replace(TENANT, **changes)
    if expected == TENANT:
        assert after is TENANT
    else:
        assert after == replace(expected, version=4, updated_at_us=LATER)


@given(CHANGES)
def test_repeated_update_changes_nothing(changes: dict[str, Any]) -> None:
    once = Changes(**changes).apply(TENANT, now_us=LATER)
    assert Changes(**changes).apply(once, now_us=LATER + 1) is once


def test_update_time_never_decreases() -> None:
    after = Changes(plan="silver").apply(TENANT, now_us=1)
    assert (after.version, after.updated_at_us) == (4, TENANT.updated_at_us)


@pytest.mark.parametrize("expected", [0, 3])
def test_expected_version_may_match_or_be_absent(expected: int) -> None:
    TENANT.require_version(expected)


@pytest.mark.parametrize("expected", [1, 2, 4])
def test_stale_expected_version_aborts(expected: int) -> None:
    with pytest.raises(AbortedError, match=f"at version 3, not {expected}"):
        TENANT.require_version(expected)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("plan", "gold "),
        ("external_customer_id", "cus_1 "),
        ("external_subscription_id", "x" * 256),
        ("display_name", "\0"),
        ("close_lead_seconds", -1),
        ("billing_provider", "Stripe"),
    ],
)
def test_update_is_validated(field: str, value: Any) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        Changes(**{field: value})
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("present", "asked", "allowed"),
    [
        (date(2026, 3, 1), date(2026, 2, 28), False),
        (date(2026, 3, 1), date(2026, 3, 1), True),
        (date(2026, 3, 1), date(2030, 1, 1), True),
        # A start set too far in the future by mistake can be moved back.
        (date(2062, 1, 1), date(2026, 3, 1), True),
        (date(2062, 1, 1), date(2026, 2, 28), False),
        # The start of imported history can move later, but not back.
        (date(2020, 1, 1), date(2020, 2, 1), True),
        (date(2020, 2, 1), date(2020, 1, 1), False),
        (None, date(1990, 1, 1), True),
    ],
)
def test_past_periods_are_opened_only_at_onboarding(present: date | None, asked: date, allowed: bool) -> None:
    tenant = replace(TENANT, billed_from=present)
    change = Changes(billed_from=asked)
    if allowed:
        assert change.apply(tenant, LATER).billed_from == asked
    else:
        with pytest.raises(FailedPreconditionError, match="billed_from"):
            change.apply(tenant, LATER)
