"""The API of the ledger."""

from __future__ import annotations

from typing import Any, Final

from grpc import aio
from meterline.decimals import to_text
from meterline.rpc import fields, paging
from meterline_protos.publisher.v1 import publications_pb2, publications_pb2_grpc

from meterline_publisher.invoices import messages as invoices_messages
from meterline_publisher.ledger import messages as ledger_messages
from meterline_publisher.publishing.service import Publishing
from meterline_publisher.settling.service import Comparison, Settling

Context = aio.ServicerContext[Any, Any]

_NEWEST: Final = 2**63 - 1


class PublicationsServicer(publications_pb2_grpc.PublicationsServiceServicer):
    """See protos/meterline/publisher/v1/publications.proto."""

    def __init__(self, publishing: Publishing, settling: Settling) -> None:
        self._publishing = publishing
        self._settling = settling

    async def PublishUsage(
        self, request: publications_pb2.PublishUsageRequest, context: Context
    ) -> publications_pb2.PublishUsageResponse:
        found = await self._publishing.publish(
            fields.tenant("tenant_id", request.tenant_id), fields.required_instant(request, "at")
        )
        return publications_pb2.PublishUsageResponse(
            invoice=invoices_messages.invoice(found.tenant.slug, found.invoice, found.lines),
            publications=[ledger_messages.publication(row) for row in found.publications],
        )

    async def ListPublications(
        self, request: publications_pb2.ListPublicationsRequest, context: Context
    ) -> publications_pb2.ListPublicationsResponse:
        limit = paging.size(request.page_size)
        key = paging.key(request.page_token, paging.int8)
        # One more than requested shows whether there is a next page.
        _, found = await self._publishing.page(
            fields.tenant("tenant_id", request.tenant_id), key[0] if key else _NEWEST, limit + 1
        )
        page = found[:limit]
        return publications_pb2.ListPublicationsResponse(
            publications=[ledger_messages.publication(row) for row in page],
            next_page_token=paging.token(page[-1].seq) if len(found) > limit else "",
        )

    async def ReconcilePeriod(
        self, request: publications_pb2.ReconcilePeriodRequest, context: Context
    ) -> publications_pb2.ReconcilePeriodResponse:
        found = await self._settling.reconcile(
            fields.tenant("tenant_id", request.tenant_id), fields.required_instant(request, "at")
        )
        return publications_pb2.ReconcilePeriodResponse(
            meters=[_comparison(comparison) for comparison in found.comparisons],
            invoice=(
                invoices_messages.invoice(found.tenant.slug, found.invoice, found.lines)
                if found.invoice
                else None
            ),
        )


def _comparison(comparison: Comparison) -> publications_pb2.MeterComparison:
    return publications_pb2.MeterComparison(
        meter=comparison.meter,
        usage=to_text(comparison.usage),
        sent=to_text(comparison.sent),
        provider="" if comparison.provider is None else to_text(comparison.provider),
        agrees=comparison.agrees,
    )
