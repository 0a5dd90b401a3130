"""One invoice line explained down to its events, and one of these events traced back to the line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from meterline_protos.ingest.v1 import events_pb2
from meterline_protos.publisher.v1 import invoices_pb2

from meterline_dev.demo.calls import Services, ask
from meterline_dev.demo.closing import Invoices

# A line that a person could check by hand has about so many events.
_READABLE_EVENTS = 60


@dataclass(slots=True)
class Explained:
    """A line with everything that it consists of.

    events: each with its batch; batches: by id
    back: what ExplainEvent says about the first of the events
    """

    invoice: invoices_pb2.Invoice
    line: invoices_pb2.InvoiceLine
    windows: Sequence[invoices_pb2.ExplainedWindow] = ()
    publications: Sequence[invoices_pb2.Publication] = ()
    batches: dict[str, invoices_pb2.ExplainedBatch] = field(default_factory=dict)
    events: list[events_pb2.StoredEvent] = field(default_factory=list)
    back: invoices_pb2.ExplainEventResponse | None = None

    def trace_of(self, event: events_pb2.StoredEvent) -> str:
        """The trace of the call that brought an event."""
        return self.batches[event.batch_id].batch.trace.trace_id

    @property
    def trace_ids(self) -> list[str]:
        """Traces of all calls that brought events of the line, in the order of the events."""
        return list(dict.fromkeys(self.trace_of(event) for event in self.events))

    def faults(self) -> list[str]:
        """Errors: events or windows that do not add up, a step without a trace, an event without the line."""
        found = []
        ids = {event.event_id for event in self.events}
        if len(self.events) != self.line.event_count or len(ids) != len(self.events):
            found.append(f"{len(ids)} events explained, {self.line.event_count} on the line")
        if sum(window.event_count for window in self.windows) != self.line.event_count:
            found.append("the day windows do not add up to the line")
        if not all(self.trace_ids) or not self.line.trace.trace_id:
            found.append("a step has no trace")
        sent = sum((Decimal(one.value) for one in self.publications), Decimal(0))
        if sent != Decimal(self.line.quantity):
            found.append(f"{sent} sent, {self.line.quantity} on the line")
        uses = self.back.uses if self.back else ()
        if self.line.line_id not in {use.line.line_id for use in uses}:
            found.append("the event does not lead back to the line")
        return found


def choose(invoices: Invoices) -> tuple[str, str] | None:
    """Tenant and id of the line that is best to look at: priced in several steps, with events that can still
    be counted by hand, on a final invoice if there is one. None when no line has events."""
    lines = [(invoice, line) for invoice in invoices.values() for line in invoice.lines if line.event_count]
    lines.sort(
        key=lambda item: (
            item[0].state != invoices_pb2.INVOICE_STATE_FINALIZED,
            -min(len(item[1].steps), 3),
            abs(item[1].event_count - _READABLE_EVENTS),
            item[1].line_id,
        )
    )
    return (lines[0][0].tenant_id, lines[0][1].line_id) if lines else None


async def explain(services: Services, tenant: str, line_id: str) -> Explained:
    """Asks for all pages of a line's explanation, and for that of its first event."""
    request = invoices_pb2.ExplainInvoiceLineRequest(tenant_id=tenant, line_id=line_id, page_size=1_000)
    answer = await ask(services.invoices.ExplainInvoiceLine, request)
    found = Explained(answer.invoice, answer.line, answer.windows, answer.publications)
    while True:
        for batch in answer.batches:
            found.batches[batch.batch.batch_id] = batch
            found.events.extend(batch.events)
        if not answer.next_page_token:
            break
        request.page_token = answer.next_page_token
        answer = await ask(services.invoices.ExplainInvoiceLine, request)
    found.events.sort(key=lambda event: (event.time.ToNanoseconds(), event.event_id))
    if found.events:
        event = invoices_pb2.ExplainEventRequest(tenant_id=tenant, event_id=found.events[0].event_id)
        found.back = await ask(services.invoices.ExplainEvent, event)
    return found
