"""Reads windows and contributions, in pages by key."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from meterline.clock import to_datetime, to_us
from meterline.db.pool import Connection
from meterline.db.queries import Queries

from meterline_aggregate.meters.rules.definitions import Aggregation, Meter
from meterline_aggregate.usage.rules.answers import Contribution, Window
from meterline_aggregate.windows.calendar import Grain

queries = Queries("meterline_aggregate.usage.store", "windows.sql")

FIRST_BATCH: Final = uuid.UUID(int=0)


@dataclass(frozen=True, slots=True)
class Slice:
    """Windows of one meter of one tenant that start in [start_us, end_us)."""

    tenant_id: int
    meter_id: int
    start_us: int
    end_us: int

    def parameters(self, limit: int) -> dict[str, Any]:
        return {
            "tenant_id": self.tenant_id,
            "meter_id": self.meter_id,
            "start": to_datetime(self.start_us),
            "end": to_datetime(self.end_us),
            "limit": limit,
        }


async def totals_of_windows(
    connection: Connection, where: Slice, grain: Grain, after_us: int | None, limit: int
) -> list[Window]:
    """At most `limit` windows of the total that start after `after_us`, by start."""
    # Before the range there is nothing to begin after.
    after = to_datetime(where.start_us - 1 if after_us is None else after_us)
    parameters = {**where.parameters(limit), "grain": int(grain), "after": after}
    cursor = await connection.execute(queries.totals_of_windows, parameters, binary=True)
    return [Window(to_us(start), 0, {}, False, *numbers) for start, *numbers in await cursor.fetchall()]


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
    return [Window(to_us(start), *rest) for start, *rest in await cursor.fetchall()]


async def contributions_of_meter(
    connection: Connection, where: Slice, meter: Meter, after: tuple[int, uuid.UUID] | None, limit: int
) -> list[Contribution]:
    """At most `limit` contributions beyond (start, batch) `after`, by start, then batch."""
    after_us, after_batch = after or (where.start_us - 1, FIRST_BATCH)
    parameters = {**where.parameters(limit), "after": to_datetime(after_us), "after_batch": after_batch}
    cursor = await connection.execute(queries.contributions_of_meter, parameters, binary=True)
    return [
        _contribution((meter.definition.name, meter.aggregation, *row)) for row in await cursor.fetchall()
    ]


async def contributions_of_batch(
    connection: Connection, tenant_id: int, batch_id: uuid.UUID
) -> list[Contribution]:
    """What a batch added to all meters of a tenant, by meter, then time."""
    cursor = await connection.execute(queries.contributions_of_batch, (tenant_id, batch_id), binary=True)
    return [_contribution(row) for row in await cursor.fetchall()]


def _contribution(row: Sequence[Any]) -> Contribution:
    name, aggregation, start, batch_id, event_count, value = row
    # A count keeps no value of its own: it is the number of events.
    own = Decimal(event_count) if aggregation == Aggregation.COUNT else value
    return Contribution(name, to_us(start), batch_id, event_count, own)
