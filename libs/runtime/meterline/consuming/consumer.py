"""A durable pull consumer whose every batch is one transaction: inbox, effect, commit, ack.

A batch goes through `pull`, `applying` (one transaction), `splitting` (bad parts of a message), `burial`
(dead letters and the breaker) and `answers` (acknowledgements).
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Final

from nats.aio.msg import Msg

from meterline import tasks
from meterline.bus.connection import Bus
from meterline.bus.subjects import Fact
from meterline.consuming.answers import Answers
from meterline.consuming.applying import Applying
from meterline.consuming.breaker import BurialRules
from meterline.consuming.burial import Burial
from meterline.consuming.delivery import Handler, to_delivery
from meterline.consuming.parts import Sorter, Split
from meterline.consuming.pull import Pull
from meterline.consuming.redrive import Redriven, Redriver
from meterline.consuming.splitting import Splitting
from meterline.telemetry import metrics
from meterline.telemetry.logging import logger
from meterline.transactions.unit_of_work import UnitOfWork

log = logger()


class Consumer:
    """Feeds `handler` with batches. `start` and `stop` may be called twice.

    `handler` gets only messages that were not handled before and must not commit. It raises RetryLater or
    Poison; in a batch these hit only the messages they belong to: the batch is then repeated without those
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
        split: returns the parts of a message that carries several independent things
        max_messages, max_bytes: bounds of a batch, and of what waits in memory (twice as much)
        linger: seconds between batches, so that more messages share a transaction
        ack_wait: seconds until the broker gives a message to another replica
        rules: when messages are buried
        """
        self.name = fact.consumer_name(service)
        rules = rules or BurialRules()
        self._linger = linger
        self._pull = Pull(
            bus, fact, self.name, max_messages=max_messages, max_bytes=max_bytes, ack_wait=ack_wait
        )
        self._answers = Answers(self._pull, self.name)
        sorter = Sorter(unit_of_work, fact.stream, self.name, handler, split)
        splitting = Splitting(unit_of_work, self.name, sorter, self._answers, rules)
        self._redriver = Redriver(unit_of_work, fact.stream, self.name, handler, sorter)
        self._applying = Applying(
            unit_of_work,
            fact,
            self.name,
            handler,
            sorter=sorter,
            redriver=self._redriver,
            splitting=splitting,
            answers=self._answers,
            rules=rules,
        )
        self._burial = Burial(
            unit_of_work, self.name, pull=self._pull, splitting=splitting, answers=self._answers, rules=rules
        )
        # A batch in hand is finished, however long it takes.
        self._loop = tasks.Loop(self.name, self._step, grace=None)

    async def start(self) -> None:
        if not self._loop.running:
            self._burial.reset()
            await self._pull.start()
            await self._loop.start()

    async def stop(self) -> None:
        """Finishes the batch in hand; what is queued goes back to the broker."""
        await self._loop.stop()
        await self._pull.stop()

    async def _step(self) -> float:
        """One batch; answers the seconds until the next."""
        await self._burial.wait()
        batch = await self._pull.take()
        # A batch in hand is finished even when the service is being stopped.
        await tasks.finish(self._process(batch))
        return self._linger

    async def _process(self, messages: Sequence[Msg]) -> None:
        # The broker sends with each message how many are pending behind it.
        metrics.CONSUMER_LAG.labels(self.name).set(messages[-1].metadata.num_pending)
        deliveries = []
        for message in messages:
            delivery = to_delivery(message)
            if delivery is None:
                log.error("consumer.not_from_a_service", consumer=self.name, subject=message.subject)
                metrics.MESSAGES.labels(self.name, "never").inc()
                await self._answers.terminate(message.reply)
            else:
                deliveries.append(delivery)
        if deliveries:
            await self._burial.settle(deliveries, await self._applying.handle(deliveries))

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
