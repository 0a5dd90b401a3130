"""Reads windows and contributions, in pages by key."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from meterline.clock import to_datetime, to_us
from meterline.db.pool import Connection
from meterline.db.queries import Queries

from meterline_aggregate.kinds.kind import Kind, State
from meterline_aggregate.kinds.table import KINDS, numbers
from meterline_aggregate.meters.rules.definitions import Meter
from meterline_aggregate.usage.rules.answers import Contribution, Window
from meterline_aggregate.windows.calendar import Grain

queries = Queries("meterline_aggregate.usage.store", "windows.sql")

FIRST_BATCH: Final = uuid.UUID(int=0)


@dataclass(frozen=True, slots=True)
class Slice:
    """Windows of one meter of one tenant that start in [start_us, end_us)."""

    tenant_id: int
    meter: Meter
    start_us: int
    end_us: int

    def parameters(self, limit: int) -> dict[str, Any]:
        return {
            "tenant_id": self.tenant_id,
            "meter_id": self.meter.meter_id,
            "start": to_datetime(self.start_us),
            "end": to_datetime(self.end_us),
            "limit": limit,
        }


async def totals_of_windows(
    connection: Connection, where: Slice, grain: Grain, after_us: int | None, limit: int
) -> list[Window]:
    """At most `limit` windows of the total that start after `after_us`, by start."""
    # Without a cursor, one before the range includes its start.
    after = to_datetime(where.start_us - 1 if after_us is None else after_us)
    parameters = {**where.parameters(limit), "grain": int(grain), "after": after}
    cursor = await connection.execute(queries.totals_of_windows, parameters, binary=True)
    return [
        _window(where.meter.kind, (start, 0, {}, False, *numbers), traceparent, rebuilding)
        for start, *numbers, traceparent, rebuilding in await cursor.fetchall()
    ]


async def groups_of_windows(
    connection: Connection, where: Slice, grain: Grain, after: tuple[int, int] | None, limit: int
) -> list[Window]:
    """At most `limit` windows of groups beyond (start, group) `after`, by start, then group."""
    after_us, after_group = after or (where.start_us, 0)
    parameters = {
        **where.parameters(limit),
        "grain": int(grain),
        "after": to_datetime(after_us),
        "after_group": after_group,
    }
    cursor = await connection.execute(queries.groups_of_windows, parameters, binary=True)
    return [_window(where.meter.kind, row) for row in await cursor.fetchall()]


async def contributions_of_meter(
    connection: Connection, where: Slice, after: tuple[int, uuid.UUID] | None, limit: int
) -> list[Contribution]:
    """At most `limit` contributions beyond (start, batch) `after`, by start, then batch."""
    after_us, after_batch = after or (where.start_us - 1, FIRST_BATCH)
    parameters = {**where.parameters(limit), "after": to_datetime(after_us), "after_batch": after_batch}
    cursor = await connection.execute(queries.contributions_of_meter, parameters, binary=True)
    name, kind = where.meter.definition.name, where.meter.kind
    return [_contribution(name, kind, row) for row in await cursor.fetchall()]


async def contributions_of_batch(
    connection: Connection, tenant_id: int, batch_id: uuid.UUID
) -> list[Contribution]:
    """The contributions of a batch to all meters of known kinds, by meter, then time."""
    parameters = {"tenant_id": tenant_id, "batch_id": batch_id, "known": numbers()}
    cursor = await connection.execute(queries.contributions_of_batch, parameters, binary=True)
    return [
        _contribution(name, KINDS[aggregation], row) for name, aggregation, *row in await cursor.fetchall()
    ]


def _window(kind: Kind, row: Sequence[Any], traceparent: str = "", rebuilding: bool = False) -> Window:
    start, group_id, dimensions, rest, number, events, revision = row
    value = kind.shown(State(events, number))
    return Window(
        to_us(start),
        group_id,
        dimensions,
        rest,
        value,
        events,
        revision,
        kind.aggregation,
        traceparent,
        rebuilding,
    )


def _contribution(name: str, kind: Kind, row: Sequence[Any]) -> Contribution:
    start, batch_id, events, number = row
    return Contribution(name, to_us(start), batch_id, events, kind.value(State(events, number)))
