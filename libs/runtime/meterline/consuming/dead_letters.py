"""The table of dead letters. A row stays after its message was applied, as the history of it."""

from __future__ import annotations

import json
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final

from meterline.db.pool import Connection, Database
from meterline.db.queries import Queries

queries = Queries("meterline.consuming", "dead_letters.sql")

# A reason may quote the message, which may be anything.
MAX_ERROR: Final = 2_000

# The header of a part's letter that holds the whole message's id; dead_letters.sql and an index name it too.
PART_OF: Final = "Meterline-Part-Of"

# A letter's place in the order of lists.
Place = tuple[datetime, uuid.UUID, str]

_EARLIEST: Final = datetime.min.replace(tzinfo=UTC)
_LATEST: Final = datetime.max.replace(tzinfo=UTC)
_FIRST: Final[Place] = (_EARLIEST, uuid.UUID(int=0), "")


class State(StrEnum):
    OPEN = "open"
    REDRIVEN = "redriven"


@dataclass(frozen=True, slots=True)
class Letter:
    """What a handler needs of a dead letter."""

    subject: str
    headers: dict[str, str]
    payload: bytes


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """All that is known of one. `payload` is None unless it was asked for."""

    message_id: uuid.UUID
    consumer: str
    subject: str
    headers: dict[str, str]
    error: str
    state: State
    attempts: int
    received_at: datetime
    failed_at: datetime
    redriven_at: datetime | None
    redriven_by: str
    reason: str
    size: int
    payload: bytes | None

    @property
    def place(self) -> Place:
        return self.received_at, self.message_id, self.consumer


@dataclass(frozen=True, slots=True)
class Filter:
    """Letters of `consumer` (empty: of any) whose reason begins so, and that came in [since, until)."""

    consumer: str = ""
    error_prefix: str = ""
    since: datetime = _EARLIEST
    until: datetime = _LATEST

    def parameters(self, consumers: Sequence[str]) -> dict[str, Any]:
        """Of a query for letters of some of `consumers`."""
        return {
            "consumers": [name for name in consumers if self.consumer in ("", name)],
            "error_prefix": self.error_prefix,
            "since": self.since,
            "until": self.until,
        }


async def bury(
    connection: Connection,
    consumer: str,
    message_id: uuid.UUID,
    *,
    subject: str,
    headers: Mapping[str, str],
    payload: bytes,
    error: str,
) -> None:
    """Keeps a message that can never be applied, with the reason."""
    kept = {name: _storable(value) for name, value in headers.items()}
    parameters = (message_id, consumer, subject, json.dumps(kept), payload, _reason(error))
    await connection.execute(queries.bury, parameters, binary=True)


async def open_of(
    connection: Connection, consumer: str, ids: Collection[uuid.UUID]
) -> dict[uuid.UUID, list[uuid.UUID]]:
    """The open letters of these messages, and of parts of them, by message; nothing for those without any."""
    names = [str(message_id) for message_id in ids]
    cursor = await connection.execute(queries.open_of, (consumer, list(ids), names), binary=True)
    found: dict[uuid.UUID, list[uuid.UUID]] = {}
    for message_id, whole in await cursor.fetchall():
        owner = message_id if message_id in ids else uuid.UUID(whole)
        found.setdefault(owner, []).append(message_id)
    return found


async def claim(connection: Connection, consumer: str, message_id: uuid.UUID) -> Letter | None:
    """Holds an open letter until the transaction ends; None when it is not open, or held by another."""
    cursor = await connection.execute(queries.claim, (message_id, consumer), binary=True)
    row = await cursor.fetchone()
    return Letter(*row) if row else None


async def mark_redriven(
    connection: Connection, consumer: str, message_id: uuid.UUID, *, requested_by: str, reason: str
) -> None:
    await connection.execute(queries.mark_redriven, (requested_by, reason, message_id, consumer))


async def note_failure(connection: Connection, consumer: str, message_id: uuid.UUID, error: str) -> None:
    """Keeps the newest reason, unless somebody else has applied the message meanwhile."""
    await connection.execute(queries.note_failure, (_reason(error), message_id, consumer))


async def page(
    database: Database,
    consumers: Sequence[str],
    chosen: Filter,
    *,
    states: Sequence[State],
    after: Place | None,
    limit: int,
    with_payload: bool,
) -> list[DeadLetter]:
    """At most `limit` letters beyond `after`, by time of burial."""
    after_time, after_id, after_consumer = after or _FIRST
    parameters = {
        **chosen.parameters(consumers),
        "states": list(states),
        "after_time": after_time,
        "after_id": after_id,
        "after_consumer": after_consumer,
        "limit": limit,
        "with_payload": with_payload,
    }
    return [_letter(row) for row in await database.fetch(queries.page, parameters)]


def _letter(row: Sequence[Any]) -> DeadLetter:
    message_id, consumer, subject, headers, error, state, *rest = row
    return DeadLetter(message_id, consumer, subject, headers, error, State(state), *rest)


async def choose(
    database: Database, consumers: Sequence[str], chosen: Filter, *, limit: int
) -> tuple[list[tuple[uuid.UUID, str]], int]:
    """At most `limit` open letters (message, consumer), and how many there are altogether."""
    rows = await database.fetch(queries.choose, {**chosen.parameters(consumers), "limit": limit})
    return [(message_id, consumer) for message_id, consumer, _ in rows], rows[0][2] if rows else 0


async def choose_by_id(
    database: Database, ids: Sequence[uuid.UUID], consumers: Sequence[str]
) -> list[tuple[uuid.UUID, str]]:
    """Those of `ids` that are open letters of `consumers`, with the consumer of each."""
    rows = await database.fetch(queries.choose_by_id, (list(ids), list(consumers)))
    return [(message_id, consumer) for message_id, consumer in rows]


async def count_open(database: Database) -> dict[str, int]:
    """Open letters by consumer, of those consumers that have any."""
    return dict(await database.fetch(queries.count_open))


def _reason(error: str) -> str:
    return _storable(error)[:MAX_ERROR]


def _storable(text: str) -> str:
    """Neither text nor json can hold NUL in Postgres, and a reason quotes what somebody sent."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}")
