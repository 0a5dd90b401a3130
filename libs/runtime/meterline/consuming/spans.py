"""The spans of a batch of messages that is being handled."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol
from uuid import UUID

from opentelemetry import trace

from meterline.telemetry import propagation
from meterline.telemetry.tracing import tracer


class Traced(Protocol):
    """What a span says of a message."""

    @property
    def message_id(self) -> UUID: ...

    @property
    def headers(self) -> Mapping[str, str]: ...


@contextmanager
def processing(stream: str, consumer: str, messages: Sequence[Traced]) -> Iterator[None]:
    """A span a message, child of the trace that captured it and linked to this receipt.

    What the handler does and emits belongs to the message's trace when there is one message, and to the
    receipt when there are more.
    """
    receipt = tracer().start_span(f"receive {stream}", kind=trace.SpanKind.CONSUMER)
    link = trace.Link(receipt.get_span_context())
    spans = [_start(stream, consumer, message, link) for message in messages]
    current = spans[0] if len(spans) == 1 else receipt
    try:
        with trace.use_span(current, record_exception=False, set_status_on_exception=False):
            yield
    except Exception as error:
        for span in spans:
            span.set_status(trace.Status(trace.StatusCode.ERROR, str(error)))
        raise
    finally:
        for span in (*spans, receipt):
            span.end()


def _start(stream: str, consumer: str, message: Traced, link: trace.Link) -> trace.Span:
    return tracer().start_span(
        f"process {stream}",
        context=propagation.extract(message.headers),
        kind=trace.SpanKind.CONSUMER,
        links=[link],
        attributes={
            "messaging.system": "nats",
            "messaging.operation.name": "process",
            "messaging.destination.name": stream,
            "messaging.message.id": str(message.message_id),
            "messaging.consumer.group.name": consumer,
        },
    )
