"""Stores groups, and the number of groups that a tenant has for each set of dimensions."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np
from meterline.db.arrays import int4_array, text_array, uuid_array
from meterline.db.pool import Connection
from meterline.db.queries import Queries

from meterline_aggregate.folding.rules.groups import GroupKey, SetKey, names_of, rest_key, rest_of
from meterline_aggregate.meters.rules.definitions import Pairs

queries = Queries("meterline_aggregate.folding.store", "groups.sql")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a combination of values counts: in its own group, or in the rest."""

    group_id: int
    rest: bool


@dataclass(frozen=True, slots=True)
class Added:
    """closed: the sets that were closed now, and their numbers of groups"""

    places: Mapping[GroupKey, Place]
    closed: Mapping[SetKey, int]


async def find(connection: Connection, groups: Mapping[GroupKey, Pairs]) -> dict[GroupKey, Place]:
    """The places of the combinations that have one already."""
    keys = sorted(groups)
    parameters = (*_keys(keys), text_array([names_of(groups[key]) for key in keys]))
    cursor = await connection.execute(queries.find_groups, parameters, binary=True)
    return {
        (tenant_id, digest.bytes): Place(group_id, rest)
        for tenant_id, digest, group_id, rest in await cursor.fetchall()
    }


async def add(connection: Connection, groups: Mapping[GroupKey, Pairs], most: int) -> Added:
    """Assigns places to new combinations in order: their own groups as long as the set has fewer than `most`,
    else the rest, which closes the set permanently.

    Locks the sets until the transaction ends, so that concurrent transactions respect the bound exactly.
    """
    sets = {(key[0], names_of(group)) for key, group in groups.items()}
    held = await _hold(connection, sets)
    # Others may have added some before the sets were locked.
    places = await find(connection, groups)
    admitted: dict[GroupKey, Pairs] = {}
    closed: dict[SetKey, int] = {}
    for key, group in groups.items():
        own_set = key[0], names_of(group)
        if key in places or own_set in closed:
            continue
        if held[own_set] < most:
            held[own_set] += 1
            admitted[key] = group
        else:
            closed[own_set] = held[own_set]
    if admitted:
        await _insert(connection, admitted, rest=False)
    if closed:
        await _close(connection, closed)
    if admitted or closed:
        places = await find(connection, groups)
    return Added(places, closed)


async def fullness(connection: Connection, most: int) -> tuple[Decimal, int]:
    """The fullest set's part of `most` (1 for a closed set), and the number of closed sets."""
    cursor = await connection.execute(queries.fullness, (most,), binary=True)
    row = await cursor.fetchone()
    assert row is not None
    return row[0], row[1]


async def _hold(connection: Connection, sets: Collection[SetKey]) -> dict[SetKey, int]:
    """Locks the sets; returns how many groups each has."""
    parameters = _sets(sorted(sets))
    await connection.execute(queries.begin_sets, parameters)
    cursor = await connection.execute(queries.hold_sets, parameters, binary=True)
    return {(tenant_id, names): held for tenant_id, names, held in await cursor.fetchall()}


async def _close(connection: Connection, sets: Iterable[SetKey]) -> None:
    keys = sorted(sets)
    await _insert(connection, {rest_key(key): rest_of(key[1]) for key in keys}, rest=True)
    _, digests = _keys([rest_key(key) for key in keys])
    await connection.execute(queries.close_sets, (*_sets(keys), digests))


async def _insert(connection: Connection, groups: Mapping[GroupKey, Pairs], *, rest: bool) -> None:
    keys = sorted(groups)
    dimensions = text_array([json.dumps(dict(groups[key]), ensure_ascii=False) for key in keys])
    await connection.execute(queries.add_groups, (*_keys(keys), dimensions, [rest] * len(keys)))


def _sets(keys: Sequence[SetKey]) -> tuple[Any, Any]:
    tenants = int4_array(np.array([tenant_id for tenant_id, _ in keys]))
    return tenants, text_array([names for _, names in keys])


def _keys(keys: Sequence[GroupKey]) -> tuple[Any, Any]:
    return (
        int4_array(np.array([tenant_id for tenant_id, _ in keys])),
        uuid_array(np.frombuffer(b"".join(digest for _, digest in keys), "V16")),
    )
