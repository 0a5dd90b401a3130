"""Messages that carry several independent things: each thing is a part, and fails alone.

A message that cannot be applied as a whole is taken apart. Its good parts are applied, each bad one becomes
a dead letter of its own, and the message counts as handled: all of this in one transaction, so that after a
crash anywhere nothing of it has happened or everything has. Which parts are good is found out before, in
transactions that are rolled back.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from meterline.consuming import dead_letters, spans
from meterline.consuming.delivery import Delivery, Handler, at_fault, text_of
from meterline.crashpoints import crash_point
from meterline.errors import UnavailableError
from meterline.transactions.unit_of_work import Transaction, UnitOfWork

Split = Callable[[Delivery], Collection[Delivery]]
"""The parts of a message, made by `part_of`; fewer than two when it has none or cannot be split."""

PART_OF: Final = dead_letters.PART_OF
"""The header that holds the id of the message that a part belongs to."""


def part_of(whole: Delivery, key: bytes, data: bytes, headers: Mapping[str, str] | None = None) -> Delivery:
    """A part, whose content is `data`, as a message of its own.

    key: distinguishes it from the message's other parts; the same whenever the message is taken apart
    headers: what it carries besides the headers of the whole
    """
    return replace(
        whole,
        message_id=_part_id(whole.message_id, key),
        data=data,
        headers={**whole.headers, **(headers or {}), PART_OF: str(whole.message_id)},
        reply="",
    )


def _part_id(whole: uuid.UUID, key: bytes) -> uuid.UUID:
    """A UUIDv7 with the time of the whole, so that both are kept and dropped together."""
    rest = hashlib.blake2b(whole.bytes + key, digest_size=10).digest()
    number = int.from_bytes(whole.bytes[:6] + rest, "big")
    number = number & ~(0xF << 76) | 0x7 << 76  # version
    return uuid.UUID(int=number & ~(0x3 << 62) | 0x2 << 62)  # variant


@dataclass(frozen=True, slots=True)
class Sorted:
    """The parts of a message: those that can be applied together, and why each of the others cannot."""

    whole: Delivery
    good: Sequence[Delivery]
    bad: Sequence[tuple[Delivery, Exception]]

    @property
    def percent_bad(self) -> float:
        return 100 * len(self.bad) / (len(self.good) + len(self.bad))


class Sorter:
    """Takes messages of one consumer apart. Without `split` no message has parts."""

    def __init__(
        self, unit_of_work: UnitOfWork, stream: str, consumer: str, handler: Handler, split: Split | None
    ) -> None:
        self._unit_of_work = unit_of_work
        self._stream = stream
        self._consumer = consumer
        self._handler = handler
        self._split = split

    def parts(self, whole: Delivery) -> Sequence[Delivery]:
        """Two or more parts, or none."""
        # A part has no parts.
        if self._split is None or PART_OF in whole.headers:
            return ()
        parts = list(self._split(whole))
        return parts if len(parts) > 1 else ()

    async def sort(self, whole: Delivery) -> Sorted | None:
        """Tries the parts and keeps nothing of it; None when there are none. Raises UnavailableError."""
        parts = self.parts(whole)
        if not parts:
            return None
        failures: dict[uuid.UUID, Exception] = {}
        untried = [parts]
        while untried:
            some = untried.pop()
            error = await self._failure(some)
            if error is None:
                continue
            named = at_fault(some, error)
            failures |= dict.fromkeys(named, error)
            rest = [part for part in some if part.message_id not in named]
            # When it is not known which of them it was, it is in one of the halves.
            cut = 0 if named else len(rest) // 2
            untried += [half for half in (rest[:cut], rest[cut:]) if half]
        return Sorted(
            whole,
            [part for part in parts if part.message_id not in failures],
            [(part, failures[part.message_id]) for part in parts if part.message_id in failures],
        )

    async def _failure(self, parts: Sequence[Delivery]) -> Exception | None:
        try:
            async with self._unit_of_work.begin() as transaction:
                await self._handler(transaction, parts)
        except UnavailableError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, it is kept as the reason of some parts
            return error
        return None

    async def apply(self, transaction: Transaction, found: Sorted, reasons: Mapping[uuid.UUID, str]) -> None:
        """Applies the good parts and buries the others; the caller marks the whole, and commits.

        reasons: by the ids of bad parts, where they differ from the failures
        """
        crash_point("bus.parts.before_apply")
        if found.good:
            with spans.processing(self._stream, self._consumer, found.good):
                await self._handler(transaction, found.good)
        for part, error in found.bad:
            await dead_letters.bury(
                transaction.connection,
                self._consumer,
                part.message_id,
                subject=part.subject,
                headers=part.headers,
                payload=part.data,
                error=reasons.get(part.message_id, text_of(error)),
            )
        crash_point("bus.parts.before_commit")
