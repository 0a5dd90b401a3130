"""Delivery settings of a period that was rated before: meters with sent usage keep theirs."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

from meterline_publisher.invoices.rules import Invoice, InvoiceState, Line
from meterline_publisher.ledger.rules.publications import Publication, PublicationState
from meterline_publisher.prices.rules.rule_sets import Rule, RuleSet
from meterline_publisher.rating.rules.assessment import Assessment


def bound(
    invoice: Invoice | None, plan: str, lines: Collection[str], publications: Iterable[Publication]
) -> Collection[str]:
    """The meters of a period that keep the settings of their lines: those of which the provider has, or may
    have, something, and all meters of a final invoice. Rejected rows are not at the provider. If another plan
    than before rates the period, its settings apply, and what was sent with the old ones is reversed.

    lines: the meters of the invoice's lines; publications: the period's
    """
    if invoice is None or invoice.plan != plan:
        return ()
    if InvoiceState(invoice.state).final:
        return lines
    return {row.meter for row in publications if row.state != PublicationState.REJECTED}


def as_sent(rule_set: RuleSet, lines: Mapping[str, Line], meters: Collection[str]) -> RuleSet:
    """The rules with the delivery settings of the lines of these meters."""
    return RuleSet(tuple(_as_line(rule, lines, meters) for rule in rule_set.rules))


def _as_line(rule: Rule, lines: Mapping[str, Line], meters: Collection[str]) -> Rule:
    line = lines.get(rule.meter)
    if line is None or rule.meter not in meters:
        return rule
    return rule.sent_as(line.billing_event_name, line.billing_scale)


def redirected(line: Line, assessment: Assessment) -> Line:
    """A stored line with an unchanged amount, with the current delivery settings and the target for them."""
    rule = assessment.rule
    return replace(
        line,
        billing_event_name=rule.event_name,
        billing_scale=rule.scale,
        billing_target=assessment.target,
    )
