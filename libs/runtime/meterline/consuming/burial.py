"""Messages that can never be applied become dead letters; when nearly all are such, the breaker opens."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from meterline.consuming import dead_letters
from meterline.consuming.answers import Answers
from meterline.consuming.breaker import Breaker, BreakerState, BurialRules
from meterline.consuming.delivery import Delivery
from meterline.consuming.pull import Pull
from meterline.consuming.splitting import Splitting, note_burial
from meterline.consuming.verdicts import Unappliable, Verdicts
from meterline.telemetry import metrics
from meterline.telemetry.logging import logger
from meterline.transactions import inbox
from meterline.transactions.unit_of_work import UnitOfWork

log = logger()

# While the breaker is open messages come again at least so often, so that a replica that can handle them
# has them soon.
_LONGEST_HOLD_SECONDS: Final = 60.0


class Burial:
    """The breaker of one consumer, and the burial of messages that it permits."""

    def __init__(
        self,
        unit_of_work: UnitOfWork,
        consumer: str,
        *,
        pull: Pull,
        splitting: Splitting,
        answers: Answers,
        rules: BurialRules,
    ) -> None:
        self._unit_of_work = unit_of_work
        self._consumer = consumer
        self._pull = pull
        self._splitting = splitting
        self._answers = answers
        self._rules = rules
        self._breaker = Breaker(rules)

    def reset(self) -> None:
        """Forgets what came before, and closes the breaker."""
        self._breaker = Breaker(self._rules)
        metrics.CONSUMER_BREAKER_OPEN.labels(self._consumer).set(0)

    async def wait(self) -> None:
        """While the breaker is open: until one message may be tried, which is asked for then."""
        if self._breaker.state is BreakerState.OPEN:
            await asyncio.sleep(self._breaker.cooldown_left(asyncio.get_running_loop().time()))
            self._breaker.try_one()
            await self._pull.resume(one_by_one=True)

    async def settle(self, deliveries: Sequence[Delivery], verdicts: Verdicts) -> None:
        """Buries poison messages, and stops or resumes asking for messages as the breaker decides."""
        before = self._breaker.state
        await self._judge(deliveries, verdicts)
        await self._follow_breaker(before)

    async def _judge(self, deliveries: Sequence[Delivery], verdicts: Verdicts) -> None:
        """Reports each message's outcome to the breaker, in their order; buries those that it permits.

        Called after the good messages were applied, so that the breaker counts them with the poison.
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
                metrics.MESSAGES.labels(self._consumer, "held").inc()
                log.warning(
                    "consumer.held",
                    consumer=self._consumer,
                    message_id=str(delivery.message_id),
                    error=str(poison.error),
                )
                # Those that were not tried yet come first.
                await self._answers.give_back(delivery, self._hold_seconds(2))

    def _hold_seconds(self, cooldowns: int) -> float:
        return min(_LONGEST_HOLD_SECONDS, self._breaker.cooldown * cooldowns)

    async def _follow_breaker(self, before: BreakerState) -> None:
        """Stops asking for messages, or asks for all of them again, when the breaker has just changed."""
        state = self._breaker.state
        if state is before:
            return
        metrics.CONSUMER_BREAKER_OPEN.labels(self._consumer).set(state is not BreakerState.CLOSED)
        if state is BreakerState.OPEN:
            log.error("consumer.breaker_open", consumer=self._consumer, try_in=self._breaker.cooldown)
            await self._pull.pause(self._hold_seconds(1))
        else:
            log.info("consumer.breaker_closed", consumer=self._consumer)
            await self._pull.resume()

    async def _bury(self, delivery: Delivery, poison: Unappliable) -> None:
        if poison.found is not None:
            await self._splitting.take_apart(poison.found)
            return
        try:
            async with self._unit_of_work.begin() as transaction:
                await inbox.register(transaction.connection, self._consumer, [delivery.message_id])
                await dead_letters.bury(
                    transaction.connection,
                    self._consumer,
                    delivery.message_id,
                    subject=delivery.subject,
                    headers=delivery.headers,
                    payload=delivery.data,
                    error=str(poison.error),
                )
                await transaction.commit()
        except Exception as failure:  # noqa: BLE001 - then the message comes again
            await self._answers.postpone(delivery, failure)
            return
        note_burial(self._consumer, delivery, poison.error)
        await self._answers.acknowledge(delivery)
