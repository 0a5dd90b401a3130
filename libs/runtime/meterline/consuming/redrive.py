"""Dead letters are handed to their handler again: an operator says so, or their message has come again."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from meterline.consuming import dead_letters, spans
from meterline.consuming.delivery import Delivery, Handler, text_of
from meterline.consuming.parts import Sorter
from meterline.errors import MessageError, UnavailableError
from meterline.telemetry import metrics
from meterline.telemetry.logging import logger
from meterline.transactions.unit_of_work import UnitOfWork

log = logger()

REPLAY: Final = "replay"
"""Who redrives letters whose message came again."""


class Redriven(StrEnum):
    """The outcome of passing a dead letter to its handler once more."""

    APPLIED = "applied"
    FAILED = "failed"
    """It stays a dead letter, or some of its parts do, with the new reason."""
    SKIPPED = "skipped"
    """It is no dead letter any more, or another redrive has it in hand."""


@dataclass(frozen=True, slots=True)
class _Result:
    """`text` is empty unless something failed; `failures` are those of the message, or of its parts."""

    outcome: Redriven
    text: str = ""
    failures: Sequence[Exception] = ()


class Redriver:
    """Of the dead letters of one consumer. Claim, effect and mark are one transaction, so that a message is
    applied once however many do this at a time."""

    def __init__(
        self, unit_of_work: UnitOfWork, stream: str, consumer: str, handler: Handler, sorter: Sorter
    ) -> None:
        self._unit_of_work = unit_of_work
        self._stream = stream
        self._consumer = consumer
        self._handler = handler
        self._sorter = sorter

    async def redrive(
        self, message_id: uuid.UUID, *, requested_by: str, reason: str, dry_run: bool = False
    ) -> tuple[Redriven, str]:
        """As `Consumer.redrive`."""
        result = await self._redrive(message_id, None, requested_by, reason, dry_run=dry_run)
        return result.outcome, result.text

    async def replay(self, delivery: Delivery, letters: Sequence[uuid.UUID]) -> list[Exception]:
        """Redrives the letters of a message, or of parts of it, that has come again; answers why some stay.

        It uses the message that arrived and not the stored one, since its sender may have corrected it.
        Raises UnavailableError.
        """
        contents = {part.message_id: part for part in (delivery, *self._sorter.parts(delivery))}
        failures: list[Exception] = []
        for message_id in letters:
            content = contents.get(message_id)
            failures += (await self._redrive(message_id, content, REPLAY, "the message came again")).failures
        return failures

    async def _redrive(
        self,
        message_id: uuid.UUID,
        content: Delivery | None,
        requested_by: str,
        reason: str,
        *,
        dry_run: bool = False,
    ) -> _Result:
        """content: what is handled in place of the letter's own"""
        delivery = content
        try:
            async with self._unit_of_work.begin() as transaction:
                letter = await dead_letters.claim(transaction.connection, self._consumer, message_id)
                if letter is None:
                    return _Result(Redriven.SKIPPED)
                delivery = content or Delivery(message_id, letter.subject, letter.payload, letter.headers)
                with spans.processing(self._stream, self._consumer, [delivery]):
                    await self._handler(transaction, [delivery])
                await dead_letters.mark_redriven(
                    transaction.connection,
                    self._consumer,
                    message_id,
                    requested_by=requested_by,
                    reason=reason,
                )
                if not dry_run:
                    await transaction.commit()
        except UnavailableError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, it is kept as the letter's new reason
            if dry_run:
                return _Result(Redriven.FAILED, text_of(error), [error])
            if delivery is None:
                await self._note_failure(message_id, error)
                return _Result(Redriven.FAILED, text_of(error), [error])
            return await self._redrive_parts(delivery, error, requested_by, reason)
        if not dry_run:
            self._note_success(message_id, requested_by)
        return _Result(Redriven.APPLIED)

    async def _redrive_parts(
        self, whole: Delivery, error: Exception, requested_by: str, reason: str
    ) -> _Result:
        """The letter failed as a whole, with `error`: the parts that do not fail are applied."""
        found = await self._sorter.sort(whole)
        if found is None or not found.good:
            await self._note_failure(whole.message_id, error)
            return _Result(Redriven.FAILED, text_of(error), [error])
        try:
            async with self._unit_of_work.begin() as transaction:
                connection = transaction.connection
                if await dead_letters.claim(connection, self._consumer, whole.message_id) is None:
                    return _Result(Redriven.SKIPPED)
                await self._sorter.apply(transaction, found, {})
                await dead_letters.mark_redriven(
                    connection,
                    self._consumer,
                    whole.message_id,
                    requested_by=requested_by,
                    reason=reason,
                )
                await transaction.commit()
        except UnavailableError:
            raise
        except Exception as failure:  # noqa: BLE001 - as above
            await self._note_failure(whole.message_id, failure)
            return _Result(Redriven.FAILED, text_of(failure), [failure])
        self._note_success(whole.message_id, requested_by)
        if not found.bad:
            return _Result(Redriven.APPLIED)
        failures = [failure for _, failure in found.bad]
        left = f"{len(failures)} of {len(failures) + len(found.good)} parts stay, as letters of their own"
        return _Result(Redriven.FAILED, f"{left}: {text_of(failures[0])}", failures)

    def _note_success(self, message_id: uuid.UUID, requested_by: str) -> None:
        metrics.MESSAGES.labels(self._consumer, "redriven").inc()
        log.info("consumer.redriven", consumer=self._consumer, message_id=str(message_id), by=requested_by)

    async def _note_failure(self, message_id: uuid.UUID, error: Exception) -> None:
        level = log.warning if isinstance(error, MessageError) else log.exception
        level(
            "consumer.redrive_failed",
            consumer=self._consumer,
            message_id=str(message_id),
            error=text_of(error),
        )
        async with self._unit_of_work.begin() as transaction:
            connection = transaction.connection
            await dead_letters.note_failure(connection, self._consumer, message_id, text_of(error))
            await transaction.commit()
