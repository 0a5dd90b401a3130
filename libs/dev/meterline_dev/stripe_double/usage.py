"""The record of meter events, and what they add up to.

Sums are exact: SQLite adds 64-bit integers, so values are added as millions and remainder apart, which
holds for billions of the largest values that a meter event may carry.
"""

from dataclasses import dataclass

from .core import Core
from .store import JsonObject

IDENTIFIER_MEMORY_MS = 24 * 3600 * 1_000
_SPLIT = 1_000_000
_ACCEPTED = "meter = ? AND customer = ? AND at >= ? AND at < ? AND status = 'accepted'"


@dataclass(frozen=True, slots=True)
class MeterEvent:
    """`at`, `created`: unix seconds on the customer's clock; `received_ms`: on the double's own."""

    identifier: str
    event_name: str
    meter: str
    customer: str
    value: int
    at: int
    created: int
    received_ms: int
    payload: str
    idempotency_key: str | None
    status: str
    error_code: str | None = None


def insert(core: Core, event: MeterEvent) -> None:
    core.store.execute(
        "INSERT INTO meter_events (identifier, event_name, meter, customer, value, at, created, received_ms,"
        " payload, idempotency_key, status, error_code) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        event.identifier,
        event.event_name,
        event.meter,
        event.customer,
        event.value,
        event.at,
        event.created,
        event.received_ms,
        event.payload,
        event.idempotency_key,
        event.status,
        event.error_code,
    )


def is_remembered(core: Core, identifier: str) -> bool:
    """Whether this identifier came within the last 24 hours: at exactly 24 hours it is forgotten."""
    since = core.clock.now_ms() - IDENTIFIER_MEMORY_MS
    sql = "SELECT 1 FROM meter_events WHERE identifier = ? AND received_ms > ? LIMIT 1"
    return core.store.row(sql, identifier, since) is not None


def latest(core: Core, event_name: str, identifier: str) -> tuple[int, int, str] | None:
    """The (row, received_ms, status) of the last event with this identifier."""
    found: tuple[int, int, str] | None = core.store.row(
        "SELECT seq, received_ms, status FROM meter_events WHERE identifier = ? AND event_name = ?"
        " ORDER BY seq DESC LIMIT 1",
        identifier,
        event_name,
    )
    return found


def cancel(core: Core, row: int) -> None:
    core.store.execute("UPDATE meter_events SET status = 'canceled' WHERE seq = ?", row)


def aggregate(core: Core, meter: JsonObject, customer: str, start: int, end: int) -> int | None:
    """The meter's value over `[start, end)`; None where there was no event at all."""
    found = windows(core, meter, customer, start, end, end - start)
    return found[0][1] if found else None


def windows(
    core: Core, meter: JsonObject, customer: str, start: int, end: int, width: int
) -> list[tuple[int, int]]:
    """(window start, value) for each window of `width` seconds from `start` that has events, in order."""
    where = (meter["id"], customer, start, end)
    match meter["default_aggregation"]["formula"]:
        case "count":
            columns = "count(*), 0"
        case "sum":
            columns = f"sum(value / {_SPLIT}), sum(value % {_SPLIT})"
        case _:
            return _last_values(core, where, width)
    sql = f"SELECT (at - ?) / ?, {columns} FROM meter_events WHERE {_ACCEPTED} GROUP BY 1 ORDER BY 1"
    counted = meter["default_aggregation"]["formula"] == "count"
    return [
        (start + index * width, high if counted else high * _SPLIT + low)
        for index, high, low in core.store.execute(sql, start, width, *where)
    ]


def _last_values(core: Core, where: tuple[str, str, int, int], width: int) -> list[tuple[int, int]]:
    """The value of the latest event of each window; of two at one instant the later received wins."""
    start = where[2]
    sql = f"SELECT (at - ?) / ?, value FROM meter_events WHERE {_ACCEPTED} ORDER BY at, seq"
    found = dict(core.store.execute(sql, start, width, *where).fetchall())
    return [(start + index * width, value) for index, value in sorted(found.items())]


def unreported(core: Core, limit: int) -> list[tuple[int, str, str, str, str | None, int]]:
    """Rejected events not yet reported: (row, meter, error code, customer, idempotency key, created)."""
    sql = (
        "SELECT seq, meter, error_code, customer, idempotency_key, created FROM meter_events"
        " WHERE status = 'rejected' AND reported = 0 ORDER BY seq LIMIT ?"
    )
    return core.store.execute(sql, limit).fetchall()


def mark_reported(core: Core, up_to: int) -> None:
    sql = "UPDATE meter_events SET reported = 1 WHERE status = 'rejected' AND reported = 0 AND seq <= ?"
    core.store.execute(sql, up_to)
