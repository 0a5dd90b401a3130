"""Converts an assessment to a line of an invoice."""

import uuid

from meterline_publisher.billing.money import Money, exact_text
from meterline_publisher.invoices.rules import NO_ID, Invoice, Line
from meterline_publisher.rating.rules.assessment import Assessment, steps_of


def to_line(
    assessment: Assessment,
    invoice: Invoice,
    *,
    line_id: uuid.UUID = NO_ID,
    calculation_id: uuid.UUID = NO_ID,
    provider_decimals: int,
) -> Line:
    """`provider_decimals`: the number of decimals to which the provider bills in the price's currency."""
    rule, rated = assessment.rule, assessment.line
    price = rule.version.price
    exponent = min(provider_decimals, price.currency.exponent)
    return Line(
        tenant_id=invoice.tenant_id,
        invoice_id=invoice.invoice_id,
        line_id=line_id,
        meter=rule.meter,
        description=rule.description,
        quantity=rated.quantity,
        amount=rated.amount,
        exact_amount=exact_text(rated.exact),
        provider_amount=Money.rounded(rated.exact, price.currency, price.rounding, exponent).amount,
        price_version=rule.version.version,
        price_digest=rule.digest,
        steps=steps_of(rated),
        calculation_id=calculation_id,
        inputs_digest=assessment.inputs_digest,
        usage_value=assessment.usage.value,
        usage_revision=assessment.usage.revision,
        event_count=assessment.usage.event_count,
        billing_event_name=rule.event_name,
        billing_scale=rule.scale,
        billing_target=assessment.target,
        trace=assessment.usage.trace,
    )
