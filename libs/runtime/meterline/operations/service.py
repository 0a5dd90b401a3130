"""Dead letters are listed and redriven."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from meterline.consuming import dead_letters
from meterline.consuming.consumer import Consumer
from meterline.consuming.dead_letters import DeadLetter, Filter, Place, State
from meterline.consuming.redrive import Redriven
from meterline.db.pool import Database
from meterline.deadline import time_left
from meterline.errors import InvalidArgumentError, NotFoundError

MAX_REQUESTED_BY: Final = 128
MAX_REASON: Final = 1_024

# What is left of a call's time when no further message is tried: one takes milliseconds, seldom a second.
_LAST_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class Order:
    """Who wants a redrive, and why. Raises InvalidArgumentError."""

    requested_by: str
    reason: str
    dry_run: bool = False

    def __post_init__(self) -> None:
        for field, most in (("requested_by", MAX_REQUESTED_BY), ("reason", MAX_REASON)):
            text = getattr(self, field)
            if not 0 < len(text) <= most:
                raise InvalidArgumentError(field, f"1 to {most} characters")


@dataclass(frozen=True, slots=True)
class Result:
    """What came of one message. `consumer` is empty when it is no open letter here."""

    message_id: uuid.UUID
    consumer: str
    outcome: Redriven
    error: str = ""


class DeadLetters:
    """Of one service: `consumers` are all that it has."""

    def __init__(self, database: Database, consumers: Sequence[Consumer]) -> None:
        self._database = database
        self._consumers = {consumer.name: consumer for consumer in consumers}

    async def page(
        self,
        chosen: Filter,
        *,
        states: Sequence[State] = (State.OPEN,),
        after: Place | None = None,
        limit: int,
        with_payload: bool = False,
    ) -> list[DeadLetter]:
        """At most `limit` letters beyond `after`, by time of burial. Raises NotFoundError."""
        return await dead_letters.page(
            self._database,
            self._names(chosen),
            chosen,
            states=states,
            after=after,
            limit=limit,
            with_payload=with_payload,
        )

    async def redrive(self, chosen: Filter, order: Order, *, limit: int) -> tuple[list[Result], int]:
        """Tries at most `limit` letters, those first that were tried longest ago; answers what came of each,
        and how many more there are. Raises NotFoundError, and UnavailableError: what was applied until then
        stays applied."""
        letters, total = await dead_letters.choose(self._database, self._names(chosen), chosen, limit=limit)
        results = await self._redrive(letters, order)
        return results, total - len(results)

    async def redrive_ids(self, ids: Sequence[uuid.UUID], order: Order) -> tuple[list[Result], int]:
        """As `redrive`, for these messages and no others."""
        letters = await dead_letters.choose_by_id(self._database, ids, list(self._consumers))
        open_ids = {message_id for message_id, _ in letters}
        unknown = [message_id for message_id in dict.fromkeys(ids) if message_id not in open_ids]
        results = await self._redrive(letters, order)
        skipped = [Result(message_id, "", Redriven.SKIPPED) for message_id in unknown]
        return results + skipped, len(letters) - len(results)

    async def _redrive(self, letters: Sequence[tuple[uuid.UUID, str]], order: Order) -> list[Result]:
        results: list[Result] = []
        for message_id, consumer in letters:
            if _is_late():
                break
            outcome, error = await self._consumers[consumer].redrive(
                message_id, requested_by=order.requested_by, reason=order.reason, dry_run=order.dry_run
            )
            results.append(Result(message_id, consumer, outcome, error))
        return results

    def _names(self, chosen: Filter) -> list[str]:
        if chosen.consumer and chosen.consumer not in self._consumers:
            raise NotFoundError("consumer", chosen.consumer)
        return list(self._consumers)


def _is_late() -> bool:
    left = time_left.get()
    seconds = left() if left else None
    return seconds is not None and seconds < _LAST_SECONDS
