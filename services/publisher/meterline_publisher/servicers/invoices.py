"""InvoicesService: previews, invoices, explanations."""

from __future__ import annotations

from typing import Any, Final

from grpc import aio
from meterline.rpc import fields, paging
from meterline.telemetry.tracing import trace_url
from meterline_protos.publisher.v1 import invoices_pb2, invoices_pb2_grpc

from meterline_publisher.handlers.explaining import Cursor, EventUse, ExplainedBatch, Explaining
from meterline_publisher.handlers.gaps import Gaps
from meterline_publisher.handlers.invoices import Invoices
from meterline_publisher.servicers import decoding, encoding

INVOICES_SERVICE = invoices_pb2.DESCRIPTOR.services_by_name["InvoicesService"].full_name

Context = aio.ServicerContext[Any, Any]

_NO_REASON: Final = invoices_pb2.BILLING_GAP_REASON_UNSPECIFIED
_FIRST_GAP: Final = (0, fields.EARLIEST, "")

# Longer than any id that capture accepts.
_MAX_EVENT_ID: Final = 1_000


class InvoicesServicer(invoices_pb2_grpc.InvoicesServiceServicer):
    """See protos/meterline/publisher/v1/invoices.proto. `trace_ui` is the template of trace addresses."""

    def __init__(self, invoices: Invoices, explaining: Explaining, gaps: Gaps, trace_ui: str) -> None:
        self._invoices = invoices
        self._explaining = explaining
        self._gaps = gaps
        self._trace_ui = trace_ui

    async def PreviewInvoice(
        self, request: invoices_pb2.PreviewInvoiceRequest, context: Context
    ) -> invoices_pb2.PreviewInvoiceResponse:
        found = await self._invoices.preview(
            fields.name("tenant_id", request.tenant_id),
            fields.required_instant(request, "at"),
            decoding.deltas("changes", request.changes),
        )
        return invoices_pb2.PreviewInvoiceResponse(
            invoice=encoding.invoice(found.tenant.slug, found.invoice, found.lines),
            final_invoice_id=str(found.final.invoice_id) if found.final else "",
            left_out=map(encoding.left_out, found.left_out),
        )

    async def GetInvoice(
        self, request: invoices_pb2.GetInvoiceRequest, context: Context
    ) -> invoices_pb2.GetInvoiceResponse:
        tenant, invoice, lines = await self._invoices.get(
            fields.name("tenant_id", request.tenant_id),
            fields.identifier("invoice_id", request.invoice_id),
        )
        return invoices_pb2.GetInvoiceResponse(invoice=encoding.invoice(tenant.slug, invoice, lines))

    async def ListInvoices(
        self, request: invoices_pb2.ListInvoicesRequest, context: Context
    ) -> invoices_pb2.ListInvoicesResponse:
        limit = paging.size(request.page_size)
        key = paging.key(request.page_token, paging.instant)
        before = key[0] if key else fields.LATEST
        # One more than asked for tells whether there is a next page.
        tenant, found = await self._invoices.page(
            fields.name("tenant_id", request.tenant_id), before, limit + 1
        )
        page = found[:limit]
        return invoices_pb2.ListInvoicesResponse(
            invoices=[encoding.invoice(tenant.slug, invoice, lines) for invoice, lines in page],
            next_page_token=paging.token(page[-1][0].period_start) if len(found) > limit else "",
        )

    async def ExplainInvoiceLine(
        self, request: invoices_pb2.ExplainInvoiceLineRequest, context: Context
    ) -> invoices_pb2.ExplainInvoiceLineResponse:
        key = paging.key(request.page_token, paging.text, paging.text)
        cursor = Cursor(*key) if key else Cursor()
        found = await self._explaining.line(
            fields.name("tenant_id", request.tenant_id),
            fields.identifier("line_id", request.line_id),
            paging.size(request.page_size),
            cursor,
        )
        following = found.next
        return invoices_pb2.ExplainInvoiceLineResponse(
            invoice=encoding.invoice(found.tenant.slug, found.invoice, [found.line]),
            line=encoding.line(found.line),
            windows=[
                invoices_pb2.ExplainedWindow(
                    window_id=window.window_id,
                    start_time=window.start_time,
                    end_time=window.end_time,
                    value=window.value,
                    event_count=window.event_count,
                )
                for window in found.windows
            ],
            batches=[self._batch(batch) for batch in found.batches],
            publications=[encoding.publication(row) for row in found.publications],
            next_page_token=paging.token(following.contributions, following.events) if following else "",
        )

    async def ExplainEvent(
        self, request: invoices_pb2.ExplainEventRequest, context: Context
    ) -> invoices_pb2.ExplainEventResponse:
        found = await self._explaining.event(
            fields.name("tenant_id", request.tenant_id),
            decoding.text("event_id", request.event_id, _MAX_EVENT_ID),
            decoding.text("source", request.source, _MAX_EVENT_ID),
        )
        return invoices_pb2.ExplainEventResponse(
            event=found.event,
            batch=found.batch,
            uses=[_use(use) for use in found.uses],
            trace_url=trace_url(self._trace_ui, found.batch.trace.trace_id),
        )

    async def ListBillingGaps(
        self, request: invoices_pb2.ListBillingGapsRequest, context: Context
    ) -> invoices_pb2.ListBillingGapsResponse:
        limit = paging.size(request.page_size)
        after = paging.key(request.page_token, paging.int4, paging.instant, paging.text)
        slug = fields.name("tenant_id", request.tenant_id) if request.tenant_id else ""
        # One more than asked for tells whether there is a next page.
        found = await self._gaps.page(slug, after or _FIRST_GAP, limit + 1)
        page = found[:limit]
        return invoices_pb2.ListBillingGapsResponse(
            gaps=[encoding.gap(one) for one in page],
            next_page_token=paging.token(*page[-1].place) if len(found) > limit else "",
        )

    def _batch(self, explained: ExplainedBatch) -> invoices_pb2.ExplainedBatch:
        return invoices_pb2.ExplainedBatch(
            batch=explained.batch,
            events=explained.events,
            trace_url=trace_url(self._trace_ui, explained.batch.trace.trace_id),
        )


def _use(use: EventUse) -> invoices_pb2.EventUse:
    return invoices_pb2.EventUse(
        meter=use.meter,
        window_id=use.window_id,
        invoice_id=str(use.invoice.invoice_id) if use.invoice else "",
        line=encoding.line(use.line) if use.line else None,
        publications=[encoding.publication(row) for row in use.publications],
        gap_reason=encoding.reason(use.gap_reason) if use.gap_reason else _NO_REASON,
    )
