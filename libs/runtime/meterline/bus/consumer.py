"""A durable pull consumer whose every batch is one transaction: inbox, effect, commit, ack."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from nats.aio.msg import Msg
from opentelemetry import trace

from meterline import inbox
from meterline.bus.connection import Bus
from meterline.bus.pull import Pull
from meterline.bus.subjects import Fact
from meterline.crashpoints import crash_point
from meterline.db.unit_of_work import Transaction, UnitOfWork
from meterline.errors import Later, MessageError, Never, UnavailableError
from meterline.telemetry import metrics, propagation
from meterline.telemetry.logging import logger
from meterline.telemetry.tracing import tracer

log = logger()


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message as it was delivered."""

    message_id: uuid.UUID
    subject: str
    data: bytes
    headers: dict[str, str] = field(default_factory=dict)
    reply: str = ""
    attempt: int = 1


Handler = Callable[[Transaction, Sequence[Delivery]], Awaitable[None]]


class Consumer:
    """Feeds `handler` with batches. `start` and `stop` may be called twice.

    `handler` gets only messages that were not handled before and must not commit. It raises Later or
    Never; in a batch these hit only the messages they belong to: the batch is then repeated without those
    that the failure names or, if it names none, one message at a time. Any other failure is a fault of ours
    or of a server: the messages come again.
    """

    def __init__(
        self,
        bus: Bus,
        unit_of_work: UnitOfWork,
        fact: Fact,
        service: str,
        handler: Handler,
        *,
        max_messages: int = 64,
        max_bytes: int = 16 << 20,
        linger: float = 0.0,
        ack_wait: float = 30.0,
    ) -> None:
        """
        max_messages, max_bytes: bounds of a batch, and of what waits in memory (twice as much)
        linger: seconds between batches, so that more messages share a transaction
        ack_wait: seconds until the broker gives a message to another replica
        """
        self._unit_of_work = unit_of_work
        self._fact = fact
        self.name = fact.consumer_name(service)
        self._handler = handler
        self._linger = linger
        self._pull = Pull(
            bus, fact, self.name, max_messages=max_messages, max_bytes=max_bytes, ack_wait=ack_wait
        )
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        if self._task is None:
            await self._pull.start()
            self._task = asyncio.create_task(self._run(), name=self.name)

    async def stop(self) -> None:
        """Finishes the batch in hand; what is queued goes back to the broker."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await self._pull.stop()

    async def _run(self) -> None:
        while True:
            batch = await self._pull.take()
            # A batch in hand is finished even when the service is being stopped.
            work = asyncio.ensure_future(self._process(batch))
            try:
                await asyncio.shield(work)
            except asyncio.CancelledError:
                await work
                raise
            if self._linger:
                await asyncio.sleep(self._linger)

    async def _process(self, messages: Sequence[Msg]) -> None:
        # The broker tells with each message how many are behind it.
        metrics.CONSUMER_LAG.labels(self.name).set(messages[-1].metadata.num_pending)
        deliveries = []
        for message in messages:
            delivery = _to_delivery(message)
            if delivery is None:
                log.error("consumer.no_message_id", consumer=self.name, subject=message.subject)
                metrics.MESSAGES.labels(self.name, "never").inc()
                await self._pull.answer(message.reply, b"+TERM")
            else:
                deliveries.append(delivery)
        if deliveries:
            await self._handle(deliveries)

    async def _handle(self, deliveries: Sequence[Delivery]) -> None:
        """Applies a batch; what fails gets its own outcome, and the others are applied without it."""
        try:
            await self._apply(deliveries)
        except Exception as error:  # noqa: BLE001 - every failure has an outcome below, none is dropped
            named = _at_fault(deliveries, error)
            rest = [delivery for delivery in deliveries if delivery.message_id not in named]
            for delivery in deliveries:
                if delivery.message_id in named:
                    await self._settle_failure(delivery, error)
            if rest and named:
                await self._handle(rest)
            elif rest:
                log.info("consumer.batch_split", consumer=self.name, messages=len(rest), error=str(error))
                for delivery in rest:
                    await self._handle([delivery])

    async def _apply(self, deliveries: Sequence[Delivery]) -> None:
        crash_point("bus.consumer.before_handle")
        with self._spans(deliveries):
            async with self._unit_of_work.begin() as transaction:
                new = await inbox.register(
                    transaction.connection, self.name, {d.message_id for d in deliveries}
                )
                fresh = list({d.message_id: d for d in deliveries if d.message_id in new}.values())
                if fresh:
                    await self._handler(transaction, fresh)
                    await transaction.commit()
        crash_point("bus.consumer.before_ack")
        for delivery in deliveries:
            await self._pull.answer(delivery.reply, b"+ACK")
        crash_point("bus.consumer.after_ack")
        metrics.MESSAGES.labels(self.name, "handled").inc(len(fresh))
        metrics.MESSAGES.labels(self.name, "duplicate").inc(len(deliveries) - len(fresh))

    @contextmanager
    def _spans(self, deliveries: Sequence[Delivery]) -> Iterator[None]:
        """A span a message, child of the trace that captured it and linked to this receipt.

        What the handler does and emits belongs to the message's trace when there is one message, and to
        the receipt when there are more.
        """
        receipt = tracer().start_span(f"receive {self._fact.stream}", kind=trace.SpanKind.CONSUMER)
        spans = self._start_spans(deliveries, trace.Link(receipt.get_span_context()))
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

    def _start_spans(self, deliveries: Sequence[Delivery], link: trace.Link) -> list[trace.Span]:
        return [
            tracer().start_span(
                f"process {self._fact.stream}",
                context=propagation.extract(delivery.headers),
                kind=trace.SpanKind.CONSUMER,
                links=[link],
                attributes={
                    "messaging.system": "nats",
                    "messaging.operation.name": "process",
                    "messaging.destination.name": self._fact.stream,
                    "messaging.message.id": str(delivery.message_id),
                    "messaging.consumer.group.name": self.name,
                },
            )
            for delivery in deliveries
        ]

    async def _settle_failure(self, delivery: Delivery, error: Exception) -> None:
        if isinstance(error, Never):
            try:
                await self._bury(delivery, error)
                return
            except Exception as failure:  # noqa: BLE001 - then the message comes again
                error = failure
        if isinstance(error, Later):
            delay, outcome = error.delay, "later"
        else:
            delay, outcome = min(60.0, 0.5 * 2 ** min(delivery.attempt, 7)), "failed"
            level = log.warning if isinstance(error, UnavailableError) else log.exception
            level(
                "consumer.failed",
                consumer=self.name,
                message_id=str(delivery.message_id),
                error=str(error) or type(error).__name__,
                retry_in=delay,
            )
        metrics.MESSAGES.labels(self.name, outcome).inc()
        await self._pull.answer(delivery.reply, b"-NAK " + json.dumps({"delay": int(delay * 1e9)}).encode())

    async def _bury(self, delivery: Delivery, error: Never) -> None:
        async with self._unit_of_work.begin() as transaction:
            await inbox.register(transaction.connection, self.name, [delivery.message_id])
            await inbox.bury(
                transaction.connection,
                self.name,
                delivery.message_id,
                subject=delivery.subject,
                headers=json.dumps(delivery.headers),
                payload=delivery.data,
                error=str(error),
            )
            await transaction.commit()
        log.error(
            "consumer.dead_letter", consumer=self.name, message_id=str(delivery.message_id), error=str(error)
        )
        metrics.MESSAGES.labels(self.name, "never").inc()
        await self._pull.answer(delivery.reply, b"+ACK")


def _at_fault(deliveries: Sequence[Delivery], error: Exception) -> frozenset[uuid.UUID]:
    """The messages that the failure of a batch belongs to, as far as that is known."""
    everything = frozenset(delivery.message_id for delivery in deliveries)
    # A server that is away is away for each of them.
    if len(deliveries) == 1 or isinstance(error, UnavailableError):
        return everything
    return everything & error.messages if isinstance(error, MessageError) else frozenset()


def _to_delivery(message: Msg) -> Delivery | None:
    headers: dict[str, Any] = dict(message.headers or {})
    try:
        message_id = uuid.UUID(headers.pop("Nats-Msg-Id", ""))
    except ValueError:
        return None
    return Delivery(
        message_id, message.subject, message.data, headers, message.reply, message.metadata.num_delivered
    )
