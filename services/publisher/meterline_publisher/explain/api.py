"""The RPCs of InvoicesService that explain lines and events."""

from __future__ import annotations

from typing import Any, Final

from grpc import aio
from meterline.rpc import fields, paging
from meterline.telemetry.tracing import trace_url
from meterline_protos.publisher.v1 import invoices_pb2, invoices_pb2_grpc

from meterline_publisher.explain.service import Cursor, EventUse, ExplainedBatch, Explaining
from meterline_publisher.gaps import messages as gaps_messages
from meterline_publisher.invoices import messages as invoices_messages
from meterline_publisher.ledger import messages as ledger_messages

Context = aio.ServicerContext[Any, Any]

_NO_REASON: Final = invoices_pb2.BILLING_GAP_REASON_UNSPECIFIED

# Longer than any id that capture accepts.
_MAX_EVENT_ID: Final = 1_000


class ExplanationsServicer(invoices_pb2_grpc.InvoicesServiceServicer):
    """See protos/meterline/publisher/v1/invoices.proto. `trace_ui` is the template for links to traces."""

    def __init__(self, explaining: Explaining, trace_ui: str) -> None:
        self._explaining = explaining
        self._trace_ui = trace_ui

    async def ExplainInvoiceLine(
        self, request: invoices_pb2.ExplainInvoiceLineRequest, context: Context
    ) -> invoices_pb2.ExplainInvoiceLineResponse:
        key = paging.key(request.page_token, paging.text, paging.text)
        cursor = Cursor(*key) if key else Cursor()
        found = await self._explaining.line(
            fields.tenant("tenant_id", request.tenant_id),
            fields.identifier("line_id", request.line_id),
            paging.size(request.page_size),
            cursor,
        )
        following = found.next
        return invoices_pb2.ExplainInvoiceLineResponse(
            invoice=invoices_messages.invoice(found.tenant.slug, found.invoice, [found.line]),
            line=invoices_messages.line(found.line),
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
            publications=[ledger_messages.publication(row) for row in found.publications],
            next_page_token=paging.token(following.contributions, following.events) if following else "",
        )

    async def ExplainEvent(
        self, request: invoices_pb2.ExplainEventRequest, context: Context
    ) -> invoices_pb2.ExplainEventResponse:
        found = await self._explaining.event(
            fields.tenant("tenant_id", request.tenant_id),
            fields.text("event_id", request.event_id, _MAX_EVENT_ID),
            fields.text("source", request.source, _MAX_EVENT_ID),
        )
        return invoices_pb2.ExplainEventResponse(
            event=found.event,
            batch=found.batch,
            uses=[_use(use) for use in found.uses],
            trace_url=trace_url(self._trace_ui, found.batch.trace.trace_id),
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
        line=invoices_messages.line(use.line) if use.line else None,
        publications=[ledger_messages.publication(row) for row in use.publications],
        gap_reason=gaps_messages.reason(use.gap_reason) if use.gap_reason else _NO_REASON,
    )
