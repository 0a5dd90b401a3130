"""A message of several independent parts is applied without those that cannot be."""

from __future__ import annotations

from meterline.consuming.answers import Answers
from meterline.consuming.breaker import BurialRules
from meterline.consuming.delivery import Delivery, text_of
from meterline.consuming.parts import Sorted, Sorter
from meterline.consuming.verdicts import as_final
from meterline.crashpoints import crash_point
from meterline.telemetry import metrics
from meterline.telemetry.logging import logger
from meterline.transactions import inbox
from meterline.transactions.unit_of_work import UnitOfWork

log = logger()


class Splitting:
    """Buries the bad parts of messages, and applies the others, of one consumer."""

    def __init__(
        self, unit_of_work: UnitOfWork, consumer: str, sorter: Sorter, answers: Answers, rules: BurialRules
    ) -> None:
        self._unit_of_work = unit_of_work
        self._consumer = consumer
        self._sorter = sorter
        self._answers = answers
        self._rules = rules

    def waiting(self, found: Sorted) -> list[Exception]:
        """Why some parts cannot be applied yet."""
        return [error for part, error in found.bad if as_final(part, error, self._rules) is None]

    async def take_apart(self, found: Sorted) -> bool:
        """Applies the good parts and buries the others; whether it was done.

        Parts that have to wait are buried as well, so that they are safe, and the message comes again until
        they are through.
        """
        whole = found.whole
        try:
            async with self._unit_of_work.begin() as transaction:
                if await inbox.register(transaction.connection, self._consumer, [whole.message_id]):
                    reasons = [(part, as_final(part, error, self._rules)) for part, error in found.bad]
                    await self._sorter.apply(
                        transaction, found, {part.message_id: str(why) for part, why in reasons if why}
                    )
                    await transaction.commit()
        except Exception as failure:  # noqa: BLE001 - then the message comes again
            await self._answers.postpone(whole, failure)
            return False
        crash_point("bus.parts.after_commit")
        for part, error in found.bad:
            note_burial(self._consumer, part, error)
        metrics.MESSAGES.labels(self._consumer, "split").inc()
        await self.answer_again(whole, waiting=bool(self.waiting(found)))
        return True

    async def answer_again(self, delivery: Delivery, *, waiting: bool) -> None:
        if waiting:
            await self._answers.give_back(delivery, self._rules.patience_with_parts)
        else:
            await self._answers.acknowledge(delivery)


def note_burial(consumer: str, delivery: Delivery, error: Exception) -> None:
    """Logs and counts a message or part that was buried."""
    log.error(
        "consumer.dead_letter",
        consumer=consumer,
        message_id=str(delivery.message_id),
        error=text_of(error),
    )
    metrics.MESSAGES.labels(consumer, "never").inc()
