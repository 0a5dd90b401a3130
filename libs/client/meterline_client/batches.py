"""Batches: what is sent, spooled and retried as one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from meterline_client.columns import ScaleConflictError, encode
from meterline_client.events import Event, Row, to_event
from meterline_client.limits import MAX_REQUEST_BYTES
from meterline_client.reading import decode

# Spans that one call is linked to; a span keeps 128 links at the most.
MAX_TRACES = 32


@dataclass(frozen=True, slots=True)
class Batch:
    """A serialised request, but for the time of sending, and the traces its events were recorded in."""

    payload: bytes
    count: int
    traces: tuple[object, ...] = ()

    def events(self) -> list[Event]:
        return [to_event(row) for row in decode(self.payload)[1]]


def cut(rows: Sequence[Row], source: str, max_bytes: int = MAX_REQUEST_BYTES) -> Iterator[Batch]:
    """Encode rows into as few batches as the protocol allows: UUIDs apart from other ids, quantities that
    share no scale apart, each within `max_bytes` unless it is a single row."""
    uuids = [row for row in rows if isinstance(row[0], bytes)]
    others = [row for row in rows if isinstance(row[0], str)] if len(uuids) < len(rows) else []
    for part in (uuids, others):
        if part:
            yield from _cut(part, source, max_bytes)


def _cut(rows: Sequence[Row], source: str, max_bytes: int) -> Iterator[Batch]:
    try:
        payload = encode(rows, source)
    except ScaleConflictError as conflict:
        parts = _by_scale(rows, conflict)
    else:
        if len(payload) <= max_bytes or len(rows) == 1:
            yield Batch(payload, len(rows), _traces(rows))
            return
        middle = len(rows) // 2
        parts = (rows[:middle], rows[middle:])
    for part in parts:
        yield from _cut(part, source, max_bytes)


def split(batch: Batch, parts: int) -> list[Batch]:
    """The same events, with the same ids, in up to `parts` smaller batches. A batch of one is itself."""
    if batch.count == 1:
        return [batch]
    source, rows = decode(batch.payload)
    size = -(-len(rows) // parts)
    return [part for start in range(0, len(rows), size) for part in cut(rows[start : start + size], source)]


def _by_scale(rows: Sequence[Row], conflict: ScaleConflictError) -> Sequence[Sequence[Row]]:
    """Rows with the most decimals apart from the others. Neither part is empty: values of one scale fit."""
    most: list[Row] = []
    fewer: list[Row] = []
    for row in rows:
        value = row[6].get(conflict.name, 0)
        (most if isinstance(value, tuple) and value[1] == conflict.scale else fewer).append(row)
    return fewer, most


def _traces(rows: Sequence[Row]) -> tuple[object, ...]:
    # By identity, since contexts cannot be keys; events of one span hold the same object.
    distinct = {id(row[7]): row[7] for row in rows if row[7] is not None}
    return tuple(distinct.values())[:MAX_TRACES]
