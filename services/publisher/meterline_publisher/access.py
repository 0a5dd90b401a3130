"""What each call demands of its caller."""

from __future__ import annotations

from typing import Final

from meterline.auth.principals import Permission
from meterline.auth.rules import Reach, Rule, Rules

_PRICES: Final = "meterline.publisher.v1.PricesService"
_INVOICES: Final = "meterline.publisher.v1.InvoicesService"
_PUBLICATIONS: Final = "meterline.publisher.v1.PublicationsService"

RULES: Final[Rules] = {
    f"{_PRICES}/PutPrice": Rule(Permission.CONFIGURE),
    f"{_PRICES}/WithdrawPrice": Rule(Permission.CONFIGURE),
    f"{_PRICES}/ArchivePlan": Rule(Permission.CONFIGURE),
    f"{_PRICES}/RestorePlan": Rule(Permission.CONFIGURE),
    f"{_PRICES}/ListPrices": Rule(Permission.READ),
    f"{_PRICES}/PutDelivery": Rule(Permission.CONFIGURE),
    f"{_PRICES}/ListDeliveries": Rule(Permission.READ),
    f"{_INVOICES}/PreviewInvoice": Rule(Permission.READ),
    f"{_INVOICES}/GetInvoice": Rule(Permission.READ),
    f"{_INVOICES}/ListInvoices": Rule(Permission.READ),
    f"{_INVOICES}/ExplainInvoiceLine": Rule(Permission.READ),
    f"{_INVOICES}/ExplainEvent": Rule(Permission.READ),
    f"{_INVOICES}/ListBillingGaps": Rule(Permission.READ),
    # When usage goes out is not for those who pay for it.
    f"{_PUBLICATIONS}/PublishUsage": Rule(Permission.OPERATE, Reach.EVERYBODY),
    f"{_PUBLICATIONS}/ReconcilePeriod": Rule(Permission.OPERATE, Reach.EVERYBODY),
    f"{_PUBLICATIONS}/ListPublications": Rule(Permission.READ),
}
