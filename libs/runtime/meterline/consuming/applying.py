"""A batch becomes one transaction: inbox, effect, commit, ack. Each failure has an outcome of its own."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence

from meterline.bus.subjects import Fact
from meterline.consuming import dead_letters, spans
from meterline.consuming.answers import Answers
from meterline.consuming.breaker import BurialRules
from meterline.consuming.delivery import Delivery, Handler, at_fault, text_of
from meterline.consuming.parts import Sorter
from meterline.consuming.redrive import Redriver
from meterline.consuming.splitting import Splitting
from meterline.consuming.verdicts import Unappliable, Verdicts, as_final
from meterline.crashpoints import crash_point
from meterline.errors import Poison, UnavailableError
from meterline.telemetry import metrics
from meterline.telemetry.logging import logger
from meterline.transactions import inbox
from meterline.transactions.unit_of_work import UnitOfWork

log = logger()


class Applying:
    """Applies the messages of one consumer by its handler."""

    def __init__(
        self,
        unit_of_work: UnitOfWork,
        fact: Fact,
        consumer: str,
        handler: Handler,
        *,
        sorter: Sorter,
        redriver: Redriver,
        splitting: Splitting,
        answers: Answers,
        rules: BurialRules,
    ) -> None:
        self._unit_of_work = unit_of_work
        self._fact = fact
        self._consumer = consumer
        self._handler = handler
        self._sorter = sorter
        self._redriver = redriver
        self._splitting = splitting
        self._answers = answers
        self._rules = rules

    async def handle(self, deliveries: Sequence[Delivery]) -> Verdicts:
        """Applies a batch; what fails gets its own outcome, and the others are applied without it."""
        try:
            return dict.fromkeys(await self._apply(deliveries))
        except Exception as error:  # noqa: BLE001 - every failure has an outcome below, none is dropped
            named = at_fault(deliveries, error)
            verdicts: dict[uuid.UUID, Unappliable | None] = {}
            for delivery in deliveries:
                if delivery.message_id in named:
                    verdicts |= await self._fail(delivery, error)
            rest = [delivery for delivery in deliveries if delivery.message_id not in named]
            if rest and named:
                verdicts |= await self.handle(rest)
            elif rest:
                log.info(
                    "consumer.batch_split", consumer=self._consumer, messages=len(rest), error=str(error)
                )
                for delivery in rest:
                    verdicts |= await self.handle([delivery])
            return verdicts

    async def _fail(self, delivery: Delivery, error: Exception) -> Verdicts:
        """Decides about a message that cannot be applied as a whole: to split, bury or repeat it."""
        poison = as_final(delivery, error, self._rules)
        try:
            # A short wait does not harm the other parts of the message.
            is_clear = poison is not None or delivery.waited >= self._rules.patience_with_parts
            found = await self._sorter.sort(delivery) if is_clear else None
        except UnavailableError as failure:
            await self._answers.postpone(delivery, failure)
            return {}
        waiting = self._splitting.waiting(found) if found else []
        if found is None or not (found.good or waiting):
            # It has no parts, or all of them are as bad as the whole.
            if poison is not None:
                return {delivery.message_id: Unappliable(poison)}
            await self._answers.postpone(delivery, error)
            return {}
        if poison is None and len(waiting) == len(found.bad) and not found.good:
            # All of it waits, as it does itself.
            await self._answers.postpone(delivery, error)
            return {}
        if waiting and delivery.waited < self._rules.patience_with_parts:
            await self._answers.postpone(delivery, waiting[0])
            return {}
        if found.percent_bad > self._rules.percent:
            # The breaker decides: a release that can apply nearly nothing must not bury nearly everything.
            return {delivery.message_id: Unappliable(poison or Poison(text_of(error)), found)}
        return {delivery.message_id: None} if await self._splitting.take_apart(found) else {}

    async def _replay(self, delivery: Delivery, letters: Sequence[uuid.UUID]) -> None:
        """Tries a buried message, or the buried parts of one, once more: it has arrived again, by redelivery
        or because it was sent again."""
        try:
            failures = await self._redriver.replay(delivery, letters)
        except UnavailableError as error:
            await self._answers.postpone(delivery, error)
            return
        metrics.MESSAGES.labels(self._consumer, "duplicate").inc()
        waiting = any(as_final(delivery, error, self._rules) is None for error in failures)
        await self._splitting.answer_again(delivery, waiting=waiting)

    async def _apply(self, deliveries: Sequence[Delivery]) -> set[uuid.UUID]:
        """Applies a batch as a whole and acknowledges it; answers the ids of those that were new."""
        crash_point("bus.consumer.before_handle")
        applied: set[uuid.UUID] = set()
        letters: Mapping[uuid.UUID, Sequence[uuid.UUID]] = {}
        with spans.processing(self._fact.stream, self._consumer, deliveries):
            async with self._unit_of_work.begin() as transaction:
                given = {d.message_id for d in deliveries}
                new = await inbox.register(transaction.connection, self._consumer, given)
                if known_before := given - new:
                    letters = await dead_letters.open_of(transaction.connection, self._consumer, known_before)
                fresh = {d.message_id: d for d in deliveries if d.message_id in new}
                if fresh:
                    known = await self._handler(transaction, list(fresh.values()))
                    await transaction.commit()
                    applied = fresh.keys() - set(known or ())
        crash_point("bus.consumer.before_ack")
        through = [delivery for delivery in deliveries if delivery.message_id not in letters]
        for delivery in through:
            await self._answers.acknowledge(delivery)
        crash_point("bus.consumer.after_ack")
        metrics.MESSAGES.labels(self._consumer, "handled").inc(len(applied))
        metrics.MESSAGES.labels(self._consumer, "duplicate").inc(len(through) - len(applied))
        for delivery in deliveries:
            if delivery.message_id in letters:
                await self._replay(delivery, letters[delivery.message_id])
        return applied
