"""Comparison of our invoice with the provider's, and parsing of Stripe's amounts."""

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from uuid import UUID

import pytest
from meterline.calendar import Period
from meterline_publisher.invoices.rules import Invoice, InvoiceState, Line
from meterline_publisher.prices.rules.parsing import parse_price
from meterline_publisher.prices.rules.rule_sets import Rule, RuleSet
from meterline_publisher.prices.rules.versions import PriceVersion
from meterline_publisher.providers.port import ExternalInvoice
from meterline_publisher.providers.stripe import amounts
from meterline_publisher.rating.rules.assessment import assess
from meterline_publisher.rating.rules.lines import to_line
from meterline_publisher.settling.rules import settled
from meterline_publisher.usage.rules import MeterUsage

pytestmark = pytest.mark.req("T3.5", "S9")

MARCH = Period(datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 4, 1, tzinfo=UTC))
INVOICE = Invoice(
    tenant_id=1,
    invoice_id=UUID(int=1),
    plan="basic",
    currency="USD",
    period_start=MARCH.start,
    period_end=MARCH.end,
    state="published",
    total=Decimal("12.34"),
    version=2,
    rule_set_id=UUID(int=2),
    external_invoice_id="",
    external_total=None,
    trace="",
)


def line(unit: str, quantity: str, currency: str = "USD") -> Line:
    price = parse_price({"model": "per_unit", "currency": currency, "unit": unit})
    rule = Rule("basic", "calls", PriceVersion(1, MARCH.start, price), "Calls", "calls", 0)
    usage = {"calls": MeterUsage("calls", Decimal(quantity), 1, 1, "sum")}
    (assessment,) = assess(RuleSet((rule,)), "acme", MARCH, usage)
    return to_line(assessment, INVOICE, provider_decimals=amounts.decimals(currency))


LINES = [line("12.34", "1")]
FINAL = ExternalInvoice("in_1", True, False, "USD", Decimal("12.34"))


def test_draft_invoice_provides_only_its_id() -> None:
    after = settled(INVOICE, LINES, replace(FINAL, final=False, total=Decimal(0)))
    assert after == replace(INVOICE, external_invoice_id="in_1")


@pytest.mark.parametrize(
    ("external", "state", "total"),
    [
        (FINAL, InvoiceState.FINALIZED, "12.34"),
        (replace(FINAL, total=Decimal("12.35")), InvoiceState.DISPUTED, "12.35"),
        (replace(FINAL, currency="EUR"), InvoiceState.DISPUTED, "12.34"),
        (replace(FINAL, void=True), InvoiceState.DISPUTED, "0"),
    ],
)
def test_final_invoice_agrees_or_is_disputed(
    external: ExternalInvoice, state: InvoiceState, total: str
) -> None:
    after = settled(INVOICE, LINES, external)
    assert (after.state, after.external_total) == (state, Decimal(total))
    assert settled(after, LINES, external) == after


def test_void_invoice_of_zero_agrees() -> None:
    nothing = [line("12.34", "0")]
    assert settled(INVOICE, nothing, replace(FINAL, void=True)).state == InvoiceState.FINALIZED


def test_expected_total_uses_the_providers_rounding() -> None:
    """Three-decimal currencies are billed with two decimals; each line is rounded separately, once."""
    fils = [line("0.0024", "1000", "KWD"), line("1.235", "1", "KWD")]
    assert [one.amount for one in fils] == [Decimal("2.400"), Decimal("1.235")]
    assert [one.provider_amount for one in fils] == [Decimal("2.400"), Decimal("1.240")]
    invoice = replace(INVOICE, currency="KWD", total=Decimal("3.635"))
    billed = ExternalInvoice("in_1", True, False, "KWD", amounts.major(3640, "kwd"))
    assert settled(invoice, fils, billed).state == InvoiceState.FINALIZED


@pytest.mark.parametrize(
    ("amount", "currency", "expected", "decimals"),
    [
        (1099, "usd", "10.99", 2),
        (1000, "jpy", "1000", 0),
        (1500, "MGA", "1500", 0),
        (1240, "kwd", "1.240", 2),
        (20000, "isk", "200.00", 0),
        (50000, "ugx", "500.00", 0),
        (-5, "usd", "-0.05", 2),
    ],
)
def test_amounts_are_parsed_in_the_currencys_minor_unit(
    amount: int, currency: str, expected: str, decimals: int
) -> None:
    assert str(amounts.major(amount, currency)) == expected
    assert amounts.decimals(currency) == decimals
