"""Delivery settings of a period that was rated before: what was sent keeps those that it was sent by."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

from meterline_publisher.invoices.rules import Invoice, InvoiceState, Line
from meterline_publisher.ledger.rules.publications import Publication, PublicationState
from meterline_publisher.prices.rules.rule_sets import Rule, RuleSet
from meterline_publisher.rating.rules.assessment import Assessment


def bound(
    invoice: Invoice | None, plan: str, lines: Collection[str], publications: Iterable[Publication]
) -> Collection[str]:
    """The meters of a period that keep the settings of their lines: those of which something is at the
    provider or may be, and all of a final invoice. What was rejected is not there. Where another `plan` rates
    the period than before, its settings hold, and what was sent by the old ones is taken back.

    lines: the meters of the invoice's lines; publications: the period's
    """
    if invoice is None or invoice.plan != plan:
        return ()
    if InvoiceState(invoice.state).final:
        return lines
    return {row.meter for row in publications if row.state != PublicationState.REJECTED}


def as_sent(rule_set: RuleSet, lines: Mapping[str, Line], meters: Collection[str]) -> RuleSet:
    """The rules with the settings that the lines of these meters went with."""
    return RuleSet(tuple(_as_line(rule, lines, meters) for rule in rule_set.rules))


def _as_line(rule: Rule, lines: Mapping[str, Line], meters: Collection[str]) -> Rule:
    line = lines.get(rule.meter)
    if line is None or rule.meter not in meters:
        return rule
    return rule.sent_as(line.billing_event_name, line.billing_scale)


def redirected(line: Line, assessment: Assessment) -> Line:
    """A stored line whose amount stands, with the settings that hold now and what is to be sent by them."""
    rule = assessment.rule
    return replace(
        line,
        billing_event_name=rule.event_name,
        billing_scale=rule.scale,
        billing_target=assessment.target,
    )
