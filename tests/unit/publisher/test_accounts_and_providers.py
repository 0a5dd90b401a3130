"""Which provider a name means, and where a period goes."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from uuid import UUID

import pytest
from meterline_publisher.gaps.rules import GapReason, NotBillableError
from meterline_publisher.ledger.rules.accounts import Account, account_of, elsewhere
from meterline_publisher.ledger.rules.publications import Publication, PublicationState
from meterline_publisher.providers.registry import Providers

from tests.support.fake_billing import FakeBilling

pytestmark = pytest.mark.req("S6", "S8")

START, END = datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 4, 1, tzinfo=UTC)
OWN = Account("stripe", "cus_1", "sub_1")
ROW = Publication(
    tenant_id=1,
    identifier="a",
    seq=1,
    invoice_id=UUID(int=1),
    calculation_id=UUID(int=2),
    meter="calls",
    period_start=START,
    period_end=END,
    revision=1,
    value=Decimal(1),
    event_name="calls",
    customer_id="cus_1",
    event_at=START,
    key_generation=0,
    state=PublicationState.SENT.value,
    attempts=0,
    first_attempt_at=None,
    next_attempt_at=START,
    sent_at=None,
    error_code="",
    trace="",
    provider="stripe",
)


FIRST, OTHER = FakeBilling(lambda: START), FakeBilling(lambda: START, name="other")


@pytest.mark.parametrize("chosen", ["", "stripe"])
def test_the_default_is_of_those_that_chose_none(chosen: str) -> None:
    providers = Providers([OTHER, FIRST], default="stripe")
    assert providers.of(chosen) is FIRST
    assert providers.name(chosen) == "stripe"
    assert providers.of("other") is OTHER
    assert list(providers) == [OTHER, FIRST]
    assert providers.billed == {"", "stripe", "other"}


@pytest.mark.parametrize("configured", [[], [OTHER]])
def test_what_is_not_configured_is_no_other(configured: list[FakeBilling]) -> None:
    providers = Providers(configured, default="stripe")
    assert providers.billed == {one.capabilities.name for one in configured}
    assert providers.bills == bool(configured)
    for chosen, says in (("", "METERLINE_STRIPE_API_KEY"), ("nobody", "billing provider nobody")):
        found = providers.of(chosen)
        assert not found.capabilities.bills
        with pytest.raises(NotBillableError, match=says) as refused:
            found.require()
        assert refused.value.gaps[0].reason is GapReason.NO_BILLING_PROVIDER


REJECTED = replace(ROW, state=PublicationState.REJECTED.value, provider="other", customer_id="cus_2")


@pytest.mark.parametrize(
    ("rows", "account"),
    [
        ([], OWN),
        ([ROW], OWN),
        ([REJECTED], OWN),
        ([REJECTED, ROW], OWN),
        ([replace(ROW, customer_id="cus_2")], Account("stripe", "cus_2", "")),
        ([replace(ROW, provider="other")], Account("other", "cus_1", "")),
        ([replace(ROW, provider="other", state="pending")], Account("other", "cus_1", "")),
        ([replace(ROW, provider="other", state="ambiguous")], Account("other", "cus_1", "")),
    ],
)
def test_a_period_is_billed_where_its_rows_went(rows: list[Publication], account: Account) -> None:
    assert account_of(OWN, rows) == account
    assert (elsewhere(OWN, rows) is None) == (account == OWN)
