"""Where the usage of a period goes: to one customer at one provider, from the first difference on."""

from collections.abc import Iterable
from dataclasses import dataclass

from meterline_publisher.ledger.rules.publications import Publication, PublicationState


@dataclass(frozen=True, slots=True)
class Account:
    """A customer at a provider.

    provider: its name, as rows of the ledger have it
    customer: empty where the tenant has none
    subscription: empty where the customer alone identifies the invoices
    """

    provider: str
    customer: str
    subscription: str


def elsewhere(own: Account, rows: Iterable[Publication]) -> Publication | None:
    """A row that went, or may have gone, to another customer or provider than the tenant's own; None when all
    went there. What was rejected went nowhere."""
    for row in rows:
        if row.state != PublicationState.REJECTED and (row.provider, row.customer_id) != (
            own.provider,
            own.customer,
        ):
            return row
    return None


def account_of(own: Account, rows: Iterable[Publication]) -> Account:
    """Where a period with these rows is billed: where they went, else at the tenant's own account."""
    row = elsewhere(own, rows)
    # The tenant's subscription is one of its own customer.
    return own if row is None else Account(row.provider, row.customer_id, "")
