"""A durable pull consumer whose every batch is one transaction: inbox, effect, commit, ack."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final

from nats.aio.msg import Msg

from meterline import inbox
from meterline.bus import spans
from meterline.bus.breaker import Breaker, BreakerState, BurialRules
from meterline.bus.connection import Bus
from meterline.bus.pull import Pull
from meterline.bus.subjects import Fact
from meterline.crashpoints import crash_point
from meterline.db.unit_of_work import Transaction, UnitOfWork
from meterline.dead_letters import store
from meterline.errors import Later, MessageError, Never, UnavailableError
from meterline.telemetry import metrics
from meterline.telemetry.logging import logger

log = logger()

# While the breaker is open messages come again at least so often, so that a replica that can handle them
# has them soon.
_LONGEST_HOLD_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message as it was delivered. `waited` is how many seconds the broker has had it."""

    message_id: uuid.UUID
    subject: str
    data: bytes
    headers: dict[str, str] = field(default_factory=dict)
    reply: str = ""
    attempt: int = 1
    waited: float = 0.0


Handler = Callable[[Transaction, Sequence[Delivery]], Awaitable[Collection[uuid.UUID] | None]]
"""Applies messages. Answers the ids of those that it knew already by means of its own, if any."""

# What is clear of messages: None for those that were applied, the reason for those that are poison.
_Verdicts = Mapping[uuid.UUID, Never | None]


class Redriven(StrEnum):
    """What came of handing a dead letter to its handler once more."""

    APPLIED = "applied"
    FAILED = "failed"
    """It stays a dead letter, with the new reason."""
    SKIPPED = "skipped"
    """It is no dead letter any more, or another redrive has it in hand."""


class Consumer:
    """Feeds `handler` with batches. `start` and `stop` may be called twice.

    `handler` gets only messages that were not handled before and must not commit. It raises Later or
    Never; in a batch these hit only the messages they belong to: the batch is then repeated without those
    that the failure names or, if it names none, one message at a time. Any other failure is a fault of ours
    or of a server: the messages come again, until `rules.patience` is at its end.

    What is poison is buried, unless nearly everything is: then the breaker opens, all messages go back to
    the broker and stay there until one that is tried goes through.
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
        rules: BurialRules | None = None,
    ) -> None:
        """
        max_messages, max_bytes: bounds of a batch, and of what waits in memory (twice as much)
        linger: seconds between batches, so that more messages share a transaction
        ack_wait: seconds until the broker gives a message to another replica
        rules: when messages are buried
        """
        self._unit_of_work = unit_of_work
        self._fact = fact
        self.name = fact.consumer_name(service)
        self._handler = handler
        self._linger = linger
        self._pull = Pull(
            bus, fact, self.name, max_messages=max_messages, max_bytes=max_bytes, ack_wait=ack_wait
        )
        self._rules = rules or BurialRules()
        self._breaker = Breaker(self._rules)
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        if self._task is None:
            self._breaker = Breaker(self._rules)
            metrics.CONSUMER_BREAKER_OPEN.labels(self.name).set(0)
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
        loop = asyncio.get_running_loop()
        while True:
            if self._breaker.state is BreakerState.OPEN:
                await asyncio.sleep(self._breaker.cooldown_left(loop.time()))
                self._breaker.try_one()
                await self._pull.resume(one_by_one=True)
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
            before = self._breaker.state
            await self._judge(deliveries, await self._handle(deliveries))
            await self._follow_breaker(before)

    async def _handle(self, deliveries: Sequence[Delivery]) -> _Verdicts:
        """Applies a batch; what fails gets its own outcome, and the others are applied without it."""
        try:
            return dict.fromkeys(await self._apply(deliveries))
        except Exception as error:  # noqa: BLE001 - every failure has an outcome below, none is dropped
            named = _at_fault(deliveries, error)
            verdicts: dict[uuid.UUID, Never | None] = {}
            for delivery in deliveries:
                if delivery.message_id in named:
                    if poison := self._as_poison(delivery, error):
                        verdicts[delivery.message_id] = poison
                    else:
                        await self._postpone(delivery, error)
            rest = [delivery for delivery in deliveries if delivery.message_id not in named]
            if rest and named:
                verdicts |= await self._handle(rest)
            elif rest:
                log.info("consumer.batch_split", consumer=self.name, messages=len(rest), error=str(error))
                for delivery in rest:
                    verdicts |= await self._handle([delivery])
            return verdicts

    async def _apply(self, deliveries: Sequence[Delivery]) -> set[uuid.UUID]:
        """Applies a batch as a whole and acknowledges it; answers the ids of those that were new."""
        crash_point("bus.consumer.before_handle")
        applied: set[uuid.UUID] = set()
        with spans.processing(self._fact.stream, self.name, deliveries):
            async with self._unit_of_work.begin() as transaction:
                new = await inbox.register(
                    transaction.connection, self.name, {d.message_id for d in deliveries}
                )
                fresh = {d.message_id: d for d in deliveries if d.message_id in new}
                if fresh:
                    known = await self._handler(transaction, list(fresh.values()))
                    await transaction.commit()
                    applied = fresh.keys() - set(known or ())
        crash_point("bus.consumer.before_ack")
        for delivery in deliveries:
            await self._pull.answer(delivery.reply, b"+ACK")
        crash_point("bus.consumer.after_ack")
        metrics.MESSAGES.labels(self.name, "handled").inc(len(applied))
        metrics.MESSAGES.labels(self.name, "duplicate").inc(len(deliveries) - len(applied))
        return applied

    def _as_poison(self, delivery: Delivery, error: Exception) -> Never | None:
        """Why the message can never be applied; None when it may be yet."""
        if isinstance(error, Never):
            return error
        if isinstance(error, UnavailableError) or delivery.waited < self._rules.patience:
            return None
        return Never(f"{_text(error)}; given up after {self._rules.patience:.0f} s")

    async def _postpone(self, delivery: Delivery, error: Exception) -> None:
        if isinstance(error, Later):
            delay, outcome = error.delay, "later"
        else:
            delay, outcome = min(60.0, 0.5 * 2 ** min(delivery.attempt, 7)), "failed"
            level = log.warning if isinstance(error, UnavailableError) else log.exception
            level(
                "consumer.failed",
                consumer=self.name,
                message_id=str(delivery.message_id),
                error=_text(error),
                retry_in=delay,
            )
        metrics.MESSAGES.labels(self.name, outcome).inc()
        await self._pull.give_back(delivery.reply, delay)

    async def _judge(self, deliveries: Sequence[Delivery], verdicts: _Verdicts) -> None:
        """Tells the breaker what came of each message, in their order; buries what it lets be buried.

        Only now, when the good ones are through: among them a few that are poison look like the few.
        """
        loop = asyncio.get_running_loop()
        for delivery in deliveries:
            if delivery.message_id not in verdicts:
                continue
            poison = verdicts[delivery.message_id]
            if poison is None:
                self._breaker.handled(delivery.message_id)
            elif self._breaker.may_bury(delivery.message_id, loop.time()):
                await self._bury(delivery, poison)
            else:
                metrics.MESSAGES.labels(self.name, "held").inc()
                log.warning(
                    "consumer.held",
                    consumer=self.name,
                    message_id=str(delivery.message_id),
                    error=str(poison),
                )
                # Those that were not tried yet come first.
                await self._pull.give_back(delivery.reply, self._hold_seconds(2))

    def _hold_seconds(self, cooldowns: int) -> float:
        return min(_LONGEST_HOLD_SECONDS, self._breaker.cooldown * cooldowns)

    async def _follow_breaker(self, before: BreakerState) -> None:
        """Stops asking for messages, or asks for all of them again, when the breaker has just changed."""
        state = self._breaker.state
        if state is before:
            return
        metrics.CONSUMER_BREAKER_OPEN.labels(self.name).set(state is not BreakerState.CLOSED)
        if state is BreakerState.OPEN:
            log.error("consumer.breaker_open", consumer=self.name, try_in=self._breaker.cooldown)
            await self._pull.pause(self._hold_seconds(1))
        else:
            log.info("consumer.breaker_closed", consumer=self.name)
            await self._pull.resume()

    async def _bury(self, delivery: Delivery, error: Never) -> None:
        try:
            async with self._unit_of_work.begin() as transaction:
                await inbox.register(transaction.connection, self.name, [delivery.message_id])
                await store.bury(
                    transaction.connection,
                    self.name,
                    delivery.message_id,
                    subject=delivery.subject,
                    headers=delivery.headers,
                    payload=delivery.data,
                    error=str(error),
                )
                await transaction.commit()
        except Exception as failure:  # noqa: BLE001 - then the message comes again
            await self._postpone(delivery, failure)
            return
        log.error(
            "consumer.dead_letter", consumer=self.name, message_id=str(delivery.message_id), error=str(error)
        )
        metrics.MESSAGES.labels(self.name, "never").inc()
        await self._pull.answer(delivery.reply, b"+ACK")

    async def redrive(
        self, message_id: uuid.UUID, *, requested_by: str, reason: str, dry_run: bool = False
    ) -> tuple[Redriven, str]:
        """Hands a dead letter to the handler once more; answers what came of it, and the error if any.

        Claim, effect and mark are one transaction, so the message is applied once however many do this at a
        time. dry_run: nothing is kept of all this. Raises UnavailableError.
        """
        try:
            async with self._unit_of_work.begin() as transaction:
                letter = await store.claim(transaction.connection, self.name, message_id)
                if letter is None:
                    return Redriven.SKIPPED, ""
                delivery = Delivery(message_id, letter.subject, letter.payload, letter.headers)
                with spans.processing(self._fact.stream, self.name, [delivery]):
                    await self._handler(transaction, [delivery])
                await store.mark_redriven(
                    transaction.connection, self.name, message_id, requested_by=requested_by, reason=reason
                )
                if not dry_run:
                    await transaction.commit()
        except UnavailableError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, it is kept as the letter's new reason
            if not dry_run:
                await self._note_failure(message_id, error)
            return Redriven.FAILED, _text(error)
        if not dry_run:
            metrics.MESSAGES.labels(self.name, "redriven").inc()
            log.info("consumer.redriven", consumer=self.name, message_id=str(message_id), by=requested_by)
        return Redriven.APPLIED, ""

    async def _note_failure(self, message_id: uuid.UUID, error: Exception) -> None:
        level = log.warning if isinstance(error, MessageError) else log.exception
        level("consumer.redrive_failed", consumer=self.name, message_id=str(message_id), error=_text(error))
        async with self._unit_of_work.begin() as transaction:
            await store.note_failure(transaction.connection, self.name, message_id, _text(error))
            await transaction.commit()


def _text(error: Exception) -> str:
    return str(error) or type(error).__name__


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
    about = message.metadata
    return Delivery(
        message_id,
        message.subject,
        message.data,
        headers,
        message.reply,
        about.num_delivered,
        (datetime.now(UTC) - about.timestamp).total_seconds(),
    )
