"""Delivery settings: how the usage of a meter reaches the billing provider. They are no part of its price."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from meterline_publisher.domain.assessment import Assessment
from meterline_publisher.domain.ledger import PublicationState
from meterline_publisher.domain.records import Invoice, InvoiceState, Line, Publication
from meterline_publisher.domain.rule_sets import Rule, RuleSet


@dataclass(frozen=True, slots=True)
class Delivery:
    """One version of the settings of one meter of a plan.

    `event_name` and `scale` are those of `Rule`. `put_by` names the caller.
    """

    plan: str
    meter: str
    version: int
    event_name: str
    scale: int
    put_by: str
    put_at: datetime

    @property
    def settings(self) -> tuple[str, int]:
        return self.event_name, self.scale


def last_of(deliveries: Iterable[Delivery], meter: str) -> Delivery | None:
    """The settings that hold for a meter, out of all versions of its plan."""
    mine = (known for known in deliveries if known.meter == meter)
    return max(mine, key=lambda known: known.version, default=None)


def taken_by(
    event_name: str, meter: str, deliveries: Iterable[Delivery], priced: Collection[str]
) -> str | None:
    """Which other meter of the plan is sent, or was, under the name: their usage could not be told apart.

    `priced`: the meters that the plan has a price of; others were withdrawn before anything was sent of them.
    """
    if not event_name:
        return None
    owners = {known.meter for known in deliveries if known.event_name == event_name}
    return min((owners - {meter}) & set(priced), default=None)


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
