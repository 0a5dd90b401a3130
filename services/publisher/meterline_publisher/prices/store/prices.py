"""Stores the prices of the catalogue. Versions are immutable, so parsed bodies can be cached."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any

from meterline.db.pool import Connection
from meterline.db.queries import Queries
from psycopg.types.json import Jsonb

from meterline_publisher.billing.canonical import canonical_json
from meterline_publisher.prices.rules.parsing import parse_price
from meterline_publisher.prices.rules.prices import Price
from meterline_publisher.prices.rules.rule_sets import Rule, RuleSet
from meterline_publisher.prices.rules.versions import PriceVersion

queries = Queries("meterline_publisher.prices.store", "prices.sql")


async def lock(connection: Connection, plan: str) -> None:
    """Locks the prices of this plan for writing until the transaction ends."""
    await connection.execute(queries.lock, (plan,))


async def lock_shared(connection: Connection, plan: str) -> None:
    """Keeps others from putting or withdrawing prices of this plan until the transaction ends; rating is
    allowed.
    """
    await connection.execute(queries.lock_shared, (plan,))


async def of_plan(connection: Connection, plan: str) -> list[Rule]:
    """All versions of all prices of a plan, by meter and version."""
    cursor = await connection.execute(queries.of_plan, (plan,), binary=True)
    return [_rule(row) for row in await cursor.fetchall()]


async def everything(connection: Connection) -> list[Rule]:
    cursor = await connection.execute(queries.everything, binary=True)
    return [_rule(row) for row in await cursor.fetchall()]


async def insert(connection: Connection, rule: Rule) -> None:
    price, start = rule.version.price, rule.version.effective_from
    at_instant = isinstance(start, datetime)
    await connection.execute(
        queries.insert,
        (
            rule.plan,
            rule.meter,
            rule.version.version,
            start if at_instant else None,
            None if at_instant else start,
            canonical_json(price.body()),
            price.digest(),
            rule.description,
            rule.event_name,
            rule.scale,
        ),
    )


async def stated_delivery(connection: Connection, rule: Rule) -> tuple[str, int] | None:
    """The event name and scale in the request that put this version."""
    key = (rule.plan, rule.meter, rule.version.version)
    cursor = await connection.execute(queries.stated_delivery, key, binary=True)
    row = await cursor.fetchone()
    return (row[0], row[1]) if row else None


async def numbers(connection: Connection, plan: str, meter: str) -> dict[int, bool]:
    """The numbers of all versions ever put, in order, and whether each was withdrawn."""
    cursor = await connection.execute(queries.numbers, (plan, meter), binary=True)
    return dict(await cursor.fetchall())


async def is_used(connection: Connection, rule_id: str, version: int) -> bool:
    """Whether a stored calculation used this version."""
    used = Jsonb([{"rule": rule_id, "version": version}])
    cursor = await connection.execute(queries.is_used, (used,), binary=True)
    row = await cursor.fetchone()
    return bool(row and row[0])


async def withdraw(connection: Connection, plan: str, meter: str, version: int, by: str) -> None:
    await connection.execute(queries.withdraw, (plan, meter, version, by))


async def insert_rule_set(connection: Connection, rule_set: RuleSet) -> None:
    """Idempotent, since the id is computed from the content."""
    rules = [
        {
            "rule": rule.rule_id,
            "version": rule.version.version,
            "from": rule.version.effective_from.isoformat(),
            "digest": rule.digest,
        }
        for rule in rule_set.rules
    ]
    await connection.execute(queries.insert_rule_set, (rule_set.rule_set_id, rule_set.digest, Jsonb(rules)))


def _rule(row: Sequence[Any]) -> Rule:
    plan, meter, version, effective_from, effective_date, body, description, event_name, scale = row
    start = effective_date if effective_from is None else effective_from
    return Rule(plan, meter, PriceVersion(version, start, _parsed(body)), description, event_name, scale)


@lru_cache(maxsize=10_000)
def _parsed(body: str) -> Price:
    return parse_price(json.loads(body))
