"""Stores calculations: the inputs and results of amounts, permanently."""

from __future__ import annotations

from datetime import datetime

from meterline.db.pool import Connection
from meterline.db.queries import Queries
from psycopg.types.json import Jsonb

from meterline_publisher import __version__
from meterline_publisher.billing.canonical import canonical_json
from meterline_publisher.invoices.rules import Invoice, Line
from meterline_publisher.prices.rules.rule_sets import RuleSet
from meterline_publisher.rating.rules.assessment import Assessment

queries = Queries("meterline_publisher.rating", "store.sql")


async def insert_calculation(
    connection: Connection,
    line: Line,
    invoice: Invoice,
    rule_set: RuleSet,
    assessment: Assessment,
    at: datetime,
) -> None:
    """Stores the inputs and the result of the amount of `line`, permanently."""
    await connection.execute(
        queries.insert_calculation,
        (
            line.tenant_id,
            line.calculation_id,
            line.invoice_id,
            line.meter,
            invoice.period_start,
            invoice.period_end,
            at,
            rule_set.rule_set_id,
            rule_set.digest,
            Jsonb(rule_set.versions()),
            canonical_json(dict(assessment.inputs)),
            assessment.inputs_digest,
            canonical_json(assessment.output()),
            __version__,
            invoice.trace,
        ),
    )
