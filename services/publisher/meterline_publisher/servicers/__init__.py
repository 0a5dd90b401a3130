"""The API of the publisher: protobuf in, domain, protobuf out."""

from meterline_publisher.servicers.invoices import INVOICES_SERVICE, InvoicesServicer
from meterline_publisher.servicers.prices import PRICES_SERVICE, PricesServicer
from meterline_publisher.servicers.publications import PUBLICATIONS_SERVICE, PublicationsServicer

__all__ = [
    "INVOICES_SERVICE",
    "PRICES_SERVICE",
    "PUBLICATIONS_SERVICE",
    "InvoicesServicer",
    "PricesServicer",
    "PublicationsServicer",
]
