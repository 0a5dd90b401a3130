"""The answer to the broker for each message: ack (applied), term (never again), or nak (again later)."""

from __future__ import annotations

from typing import Final

from meterline import backoff
from meterline.consuming.delivery import Delivery, text_of
from meterline.consuming.pull import Pull
from meterline.errors import RetryLater, UnavailableError
from meterline.telemetry import metrics
from meterline.telemetry.logging import logger

log = logger()

_pause: Final = backoff.doubling(first=1.0, longest=60.0)


class Answers:
    """Those of one consumer. A lost answer is no harm: the message comes again, and the inbox knows it."""

    def __init__(self, pull: Pull, consumer: str) -> None:
        self._pull = pull
        self._consumer = consumer

    async def acknowledge(self, delivery: Delivery) -> None:
        """It was applied or buried."""
        await self._pull.answer(delivery.reply, b"+ACK")

    async def terminate(self, reply: str) -> None:
        """It must not come again, though nothing was done with it."""
        await self._pull.answer(reply, b"+TERM")

    async def give_back(self, delivery: Delivery, seconds: float) -> None:
        """It comes again after so long, to whichever replica asks then."""
        await self._pull.give_back(delivery.reply, seconds)

    async def postpone(self, delivery: Delivery, error: Exception) -> None:
        """It failed and comes again: when the failure says, else after a pause that grows with attempts."""
        if isinstance(error, RetryLater):
            delay, outcome = error.delay, "later"
        else:
            delay, outcome = _pause(delivery.attempt), "failed"
            level = log.warning if isinstance(error, UnavailableError) else log.exception
            level(
                "consumer.failed",
                consumer=self._consumer,
                message_id=str(delivery.message_id),
                error=text_of(error),
                retry_in=delay,
            )
        metrics.MESSAGES.labels(self._consumer, outcome).inc()
        await self.give_back(delivery, delay)
