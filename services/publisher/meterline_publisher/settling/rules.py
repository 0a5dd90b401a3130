"""Derives the state of our invoice from the provider's invoice."""

from collections.abc import Iterable
from dataclasses import replace
from decimal import Decimal

from meterline.decimals import exact_sum

from meterline_publisher.invoices.rules import Invoice, InvoiceState, Line
from meterline_publisher.providers.port import ExternalInvoice


def settled(invoice: Invoice, lines: Iterable[Line], external: ExternalInvoice) -> Invoice:
    """Our invoice updated from the provider's; unchanged if nothing follows from it.

    From a draft only the id is taken. A final invoice agrees if it bills, in the same currency, the sum of
    our lines as the provider rounds them; a void invoice bills nothing.
    """
    if not external.final:
        return replace(invoice, external_invoice_id=external.invoice_id)
    billed = Decimal(0) if external.void else external.total
    expected = exact_sum(line.provider_amount for line in lines)
    agrees = external.currency == invoice.currency and billed == expected
    return replace(
        invoice,
        external_invoice_id=external.invoice_id,
        external_total=billed,
        state=(InvoiceState.FINALIZED if agrees else InvoiceState.DISPUTED).value,
    )
