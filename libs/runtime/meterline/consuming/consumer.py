"""A durable pull consumer whose every batch is one transaction: inbox, effect, commit, ack."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from nats.aio.msg import Msg

from meterline import backoff, tasks
from meterline.bus.connection import Bus
from meterline.bus.subjects import Fact
from meterline.consuming import dead_letters, spans
from meterline.consuming.breaker import Breaker, BreakerState, BurialRules
from meterline.consuming.delivery import Delivery as Delivery
from meterline.consuming.delivery import Handler as Handler
from meterline.consuming.delivery import at_fault, text_of, to_delivery
from meterline.consuming.parts import Sorted, Sorter, Split
from meterline.consuming.pull import Pull
from meterline.consuming.redrive import Redriven as Redriven
from meterline.consuming.redrive import Redriver
from meterline.crashpoints import crash_point
from meterline.errors import Later, Never, UnavailableError
from meterline.telemetry import metrics
from meterline.telemetry.logging import logger
from meterline.transactions import inbox
from meterline.transactions.unit_of_work import UnitOfWork

log = logger()

# While the breaker is open messages come again at least so often, so that a replica that can handle them
# has them soon.
_LONGEST_HOLD_SECONDS: Final = 60.0
_pause: Final = backoff.doubling(first=1.0, longest=60.0)


@dataclass(frozen=True, slots=True)
class _Poison:
    """A message that can never be applied; `found` when some of its parts can."""

    error: Never
    found: Sorted | None = None


# What is clear of messages: None for those that were applied, and why others are poison.
_Verdicts = Mapping[uuid.UUID, _Poison | None]


class Consumer:
    """Feeds `handler` with batches. `start` and `stop` may be called twice.

    `handler` gets only messages that were not handled before and must not commit. It raises Later or
    Never; in a batch these hit only the messages they belong to: the batch is then repeated without those
    that the failure names or, if it names none, one message at a time. Any other failure is a fault of ours
    or of a server: the messages come again, until `rules.patience` is at its end.

    What is poison is buried, unless nearly everything is: then the breaker opens, all messages go back to
    the broker and stay there until one that is tried goes through.
    """

    MAX_MESSAGES: Final = 64

    def __init__(
        self,
        bus: Bus,
        unit_of_work: UnitOfWork,
        fact: Fact,
        service: str,
        handler: Handler,
        *,
        split: Split | None = None,
        max_messages: int = MAX_MESSAGES,
        max_bytes: int = 16 << 20,
        linger: float = 0.0,
        ack_wait: float = 30.0,
        rules: BurialRules | None = None,
    ) -> None:
        """
        split: tells the parts of messages that carry several independent things
        max_messages, max_bytes: bounds of a batch, and of what waits in memory (twice as much)
        linger: seconds between batches, so that more messages share a transaction
        ack_wait: seconds until the broker gives a message to another replica
        rules: when messages are buried
        """
        self._unit_of_work = unit_of_work
        self._fact = fact
        self.name = fact.consumer_name(service)
        self._handler = handler
        self._sorter = Sorter(unit_of_work, fact.stream, self.name, handler, split)
        self._redriver = Redriver(unit_of_work, fact.stream, self.name, handler, self._sorter)
        self._linger = linger
        self._pull = Pull(
            bus, fact, self.name, max_messages=max_messages, max_bytes=max_bytes, ack_wait=ack_wait
        )
        self._rules = rules or BurialRules()
        self._breaker = Breaker(self._rules)
        # A batch in hand is finished, however long it takes.
        self._loop = tasks.Loop(self.name, self._step, grace=None)

    async def start(self) -> None:
        if not self._loop.running:
            self._breaker = Breaker(self._rules)
            metrics.CONSUMER_BREAKER_OPEN.labels(self.name).set(0)
            await self._pull.start()
            await self._loop.start()

    async def stop(self) -> None:
        """Finishes the batch in hand; what is queued goes back to the broker."""
        await self._loop.stop()
        await self._pull.stop()

    async def _step(self) -> float:
        """One batch; answers the seconds until the next."""
        if self._breaker.state is BreakerState.OPEN:
            await asyncio.sleep(self._breaker.cooldown_left(asyncio.get_running_loop().time()))
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
        return self._linger

    async def _process(self, messages: Sequence[Msg]) -> None:
        # The broker tells with each message how many are behind it.
        metrics.CONSUMER_LAG.labels(self.name).set(messages[-1].metadata.num_pending)
        deliveries = []
        for message in messages:
            delivery = to_delivery(message)
            if delivery is None:
                log.error("consumer.not_from_a_service", consumer=self.name, subject=message.subject)
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
            named = at_fault(deliveries, error)
            verdicts: dict[uuid.UUID, _Poison | None] = {}
            for delivery in deliveries:
                if delivery.message_id in named:
                    verdicts |= await self._fail(delivery, error)
            rest = [delivery for delivery in deliveries if delivery.message_id not in named]
            if rest and named:
                verdicts |= await self._handle(rest)
            elif rest:
                log.info("consumer.batch_split", consumer=self.name, messages=len(rest), error=str(error))
                for delivery in rest:
                    verdicts |= await self._handle([delivery])
            return verdicts

    async def _fail(self, delivery: Delivery, error: Exception) -> _Verdicts:
        """What is to become of a message that cannot be applied as a whole."""
        poison = self._as_poison(delivery, error)
        try:
            # A short wait is no harm to the neighbours of what has to be waited for.
            is_clear = poison is not None or delivery.waited >= self._rules.patience_with_parts
            found = await self._sorter.sort(delivery) if is_clear else None
        except UnavailableError as failure:
            await self._postpone(delivery, failure)
            return {}
        waiting = self._waiting(found) if found else []
        if found is None or not (found.good or waiting):
            # It has no parts, or all of them are as bad as the whole.
            if poison is not None:
                return {delivery.message_id: _Poison(poison)}
            await self._postpone(delivery, error)
            return {}
        if poison is None and len(waiting) == len(found.bad) and not found.good:
            # All of it waits, as it does itself.
            await self._postpone(delivery, error)
            return {}
        if waiting and delivery.waited < self._rules.patience_with_parts:
            await self._postpone(delivery, waiting[0])
            return {}
        if found.percent_bad > self._rules.percent:
            # The breaker decides: a release that can apply nearly nothing must not bury nearly everything.
            return {delivery.message_id: _Poison(poison or Never(text_of(error)), found)}
        return {delivery.message_id: None} if await self._take_apart(found) else {}

    def _waiting(self, found: Sorted) -> list[Exception]:
        """Why some parts cannot be applied yet."""
        return [error for part, error in found.bad if self._as_poison(part, error) is None]

    async def _take_apart(self, found: Sorted) -> bool:
        """Applies the good parts and buries the others; whether it was done.

        Parts that have to wait are buried as well, so that they are safe, and the message comes again until
        they are through.
        """
        whole = found.whole
        try:
            async with self._unit_of_work.begin() as transaction:
                if await inbox.register(transaction.connection, self.name, [whole.message_id]):
                    reasons = [(part, self._as_poison(part, error)) for part, error in found.bad]
                    await self._sorter.apply(
                        transaction, found, {part.message_id: str(why) for part, why in reasons if why}
                    )
                    await transaction.commit()
        except Exception as failure:  # noqa: BLE001 - then the message comes again
            await self._postpone(whole, failure)
            return False
        crash_point("bus.parts.after_commit")
        for part, error in found.bad:
            self._note_burial(part, error)
        metrics.MESSAGES.labels(self.name, "split").inc()
        await self._answer_again(whole, waiting=bool(self._waiting(found)))
        return True

    async def _answer_again(self, delivery: Delivery, *, waiting: bool) -> None:
        if waiting:
            await self._pull.give_back(delivery.reply, self._rules.patience_with_parts)
        else:
            await self._pull.answer(delivery.reply, b"+ACK")

    async def _replay(self, delivery: Delivery, letters: Sequence[uuid.UUID]) -> None:
        """A message has come again, by redelivery or because somebody sent it again, that is buried or has
        parts that are: these are tried once more."""
        try:
            failures = await self._redriver.replay(delivery, letters)
        except UnavailableError as error:
            await self._postpone(delivery, error)
            return
        metrics.MESSAGES.labels(self.name, "duplicate").inc()
        waiting = any(self._as_poison(delivery, error) is None for error in failures)
        await self._answer_again(delivery, waiting=waiting)

    async def _apply(self, deliveries: Sequence[Delivery]) -> set[uuid.UUID]:
        """Applies a batch as a whole and acknowledges it; answers the ids of those that were new."""
        crash_point("bus.consumer.before_handle")
        applied: set[uuid.UUID] = set()
        letters: Mapping[uuid.UUID, Sequence[uuid.UUID]] = {}
        with spans.processing(self._fact.stream, self.name, deliveries):
            async with self._unit_of_work.begin() as transaction:
                given = {d.message_id for d in deliveries}
                new = await inbox.register(transaction.connection, self.name, given)
                if known_before := given - new:
                    letters = await dead_letters.open_of(transaction.connection, self.name, known_before)
                fresh = {d.message_id: d for d in deliveries if d.message_id in new}
                if fresh:
                    known = await self._handler(transaction, list(fresh.values()))
                    await transaction.commit()
                    applied = fresh.keys() - set(known or ())
        crash_point("bus.consumer.before_ack")
        through = [delivery for delivery in deliveries if delivery.message_id not in letters]
        for delivery in through:
            await self._pull.answer(delivery.reply, b"+ACK")
        crash_point("bus.consumer.after_ack")
        metrics.MESSAGES.labels(self.name, "handled").inc(len(applied))
        metrics.MESSAGES.labels(self.name, "duplicate").inc(len(through) - len(applied))
        for delivery in deliveries:
            if delivery.message_id in letters:
                await self._replay(delivery, letters[delivery.message_id])
        return applied

    def _as_poison(self, delivery: Delivery, error: Exception) -> Never | None:
        """Why the message can never be applied; None when it may be yet."""
        if isinstance(error, Never):
            return error
        if isinstance(error, UnavailableError) or delivery.waited < self._rules.patience:
            return None
        return Never(f"{text_of(error)}; given up after {self._rules.patience:.0f} s")

    async def _postpone(self, delivery: Delivery, error: Exception) -> None:
        if isinstance(error, Later):
            delay, outcome = error.delay, "later"
        else:
            delay, outcome = _pause(delivery.attempt), "failed"
            level = log.warning if isinstance(error, UnavailableError) else log.exception
            level(
                "consumer.failed",
                consumer=self.name,
                message_id=str(delivery.message_id),
                error=text_of(error),
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
                    error=str(poison.error),
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

    async def _bury(self, delivery: Delivery, poison: _Poison) -> None:
        if poison.found is not None:
            await self._take_apart(poison.found)
            return
        try:
            async with self._unit_of_work.begin() as transaction:
                await inbox.register(transaction.connection, self.name, [delivery.message_id])
                await dead_letters.bury(
                    transaction.connection,
                    self.name,
                    delivery.message_id,
                    subject=delivery.subject,
                    headers=delivery.headers,
                    payload=delivery.data,
                    error=str(poison.error),
                )
                await transaction.commit()
        except Exception as failure:  # noqa: BLE001 - then the message comes again
            await self._postpone(delivery, failure)
            return
        self._note_burial(delivery, poison.error)
        await self._pull.answer(delivery.reply, b"+ACK")

    def _note_burial(self, delivery: Delivery, error: Exception) -> None:
        log.error(
            "consumer.dead_letter",
            consumer=self.name,
            message_id=str(delivery.message_id),
            error=text_of(error),
        )
        metrics.MESSAGES.labels(self.name, "never").inc()

    async def redrive(
        self, message_id: uuid.UUID, *, requested_by: str, reason: str, dry_run: bool = False
    ) -> tuple[Redriven, str]:
        """Hands a dead letter to the handler once more; answers what came of it, and the error if any.

        Of a message that still fails as a whole the good parts are applied. dry_run: nothing is kept of all
        this, and a message that fails as a whole is said to fail. Raises UnavailableError.
        """
        return await self._redriver.redrive(
            message_id, requested_by=requested_by, reason=reason, dry_run=dry_run
        )
