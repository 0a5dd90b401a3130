"""Assigns each combination of values to a group when it is first seen, and caches the assignment."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Final

from cachetools import LRUCache
from meterline.db.pool import Database
from meterline.db.scope import ALL_TENANTS
from meterline.telemetry import metrics
from meterline.telemetry.logging import logger
from meterline.transactions.unit_of_work import Transaction

from meterline_aggregate.folding.rules.groups import GroupKey, SetKey
from meterline_aggregate.folding.store import groups as store
from meterline_aggregate.folding.store.groups import Place
from meterline_aggregate.meters.rules.definitions import Pairs

log = logger()

DEFAULT_MOST: Final = 10_000

# The number of combinations in the rest is unlimited, so they have their own cache and evict no group.
_GROUPS: Final = 100_000
_RESTS: Final = 20_000


class GroupBook:
    """One per process. Caches only what is committed; assignments never change, so the cache has no age
    (ADR 23).

    most: groups of one tenant for one set of dimensions, without the rest
    """

    def __init__(self, most: int = DEFAULT_MOST) -> None:
        self._most = most
        self._groups: LRUCache[GroupKey, int] = LRUCache(_GROUPS)
        self._rests: LRUCache[GroupKey, int] = LRUCache(_RESTS)

    async def find(self, transaction: Transaction, wanted: Mapping[GroupKey, Pairs]) -> dict[GroupKey, int]:
        """The number of each combination's group. New ones get a group in their order, or count in the rest.

        Takes no lock when no combination is new.
        """
        found = {}
        for key in wanted:
            known = self._groups.get(key) or self._rests.get(key)
            if known is not None:
                found[key] = known
        missing = {key: group for key, group in wanted.items() if key not in found}
        if not missing:
            return found
        stored = await store.find(transaction.connection, missing)
        if new := {key: group for key, group in missing.items() if key not in stored}:
            added = await store.add(transaction.connection, new, self._most)
            stored |= added.places
            transaction.after_commit(partial(_log_closed, added.closed))
        transaction.after_commit(partial(self._remember, stored))
        return found | {key: place.group_id for key, place in stored.items()}

    def _remember(self, places: Mapping[GroupKey, Place]) -> None:
        for key, place in places.items():
            (self._rests if place.rest else self._groups)[key] = place.group_id


class GroupWatch:
    """Reports how full sets of groups are."""

    def __init__(self, database: Database, most: int) -> None:
        self._database = database
        self._most = most

    async def look(self) -> None:
        """Updates the metrics. Raises UnavailableError."""
        async with self._database.connection(ALL_TENANTS) as connection:
            fullest, closed = await store.fullness(connection, self._most)
        metrics.QUOTA_FULLEST.labels("groups").set(float(fullest))
        metrics.GROUP_SETS_CLOSED.set(closed)


def _log_closed(closed: Mapping[SetKey, int]) -> None:
    """Logged once per set: a closed set stays closed."""
    for (tenant_id, names), held in closed.items():
        log.warning("groups.closed", tenant_number=tenant_id, dimensions=names, groups=held)
