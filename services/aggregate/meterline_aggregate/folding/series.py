"""Looks up and caches the targets that the events of a series add to."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from cachetools import LRUCache
from meterline.calendar import is_zone
from meterline.db.pool import Connection
from meterline.db.scope import Scope
from meterline.telemetry import metrics
from meterline.telemetry.logging import logger
from meterline.transactions.unit_of_work import Transaction
from meterline_protos.events.v1 import events_pb2

from meterline_aggregate.folding.groups import GroupBook
from meterline_aggregate.folding.rules.digests import digest
from meterline_aggregate.folding.rules.groups import GroupKey, group_key
from meterline_aggregate.folding.rules.rows import EVERY_EVENT, SUBJECT, TOTAL, Series, Target
from meterline_aggregate.folding.store import time_zones
from meterline_aggregate.kinds.kind import Measured
from meterline_aggregate.kinds.slots.events import EVENTS
from meterline_aggregate.meters import store as meters_store
from meterline_aggregate.meters.rules.definitions import Meter, Pairs, UnknownMeter

log = logger()

# Most meters of unknown kinds that a process logs.
_REPORTED: Final = 100

# Together at most some tens of megabytes.
_SERIES: Final = 20_000
_TENANTS: Final = 100_000


class UnknownTenantError(LookupError):
    """Some tenants are not in the replica yet, or this process does not know their time zone."""

    def __init__(self, tenant_ids: frozenset[int]) -> None:
        super().__init__(f"unknown tenants {sorted(tenant_ids)}")
        self.tenant_ids = tenant_ids


@dataclass(frozen=True, slots=True)
class Match:
    """A meter that counts a series."""

    meter: Meter
    measure: str
    group: Pairs
    member: bytes | None


@dataclass(frozen=True, slots=True)
class View:
    """Limits a lookup of series that are not cached; the limited result is not cached.

    meter_id: only targets of this meter; None: of all meters
    by_group: include targets of groups. Without them no group is looked up or created.
    """

    meter_id: int | None = None
    by_group: bool = True


EVERYTHING: Final = View()


class SeriesBook:
    """One per process. Caches only what is committed. The cache has no age (ADR 23): time zones never change,
    and targets change only with meters, which are compared in every transaction."""

    def __init__(self, groups: GroupBook | None = None) -> None:
        self._groups = groups or GroupBook()
        self._latest_meter: meters_store.Latest | None = None
        self._meters: dict[str, list[Meter]] = {}
        self._unknown: dict[int, UnknownMeter] = {}
        self._reported: set[int] = set()
        # By serialised series; emptied when a meter was added or deleted.
        self._series: LRUCache[bytes, Series] = LRUCache(_SERIES)
        # A tenant's time zone never changes.
        self._zones: LRUCache[int, str] = LRUCache(_TENANTS)

    @property
    def unknown(self) -> Collection[int]:
        """The numbers of meters whose kind only a newer release knows.

        Each series of their event type gets a target for each of them, in the total and for the slot
        `events`: this shows which events are skipped.
        """
        return self._unknown.keys()

    async def look_up(
        self,
        transaction: Transaction,
        facts: Sequence[events_pb2.EventsAccepted],
        tenants: Scope | None = None,
        view: View = EVERYTHING,
    ) -> list[list[Series]]:
        """The series of each message, in order. Raises UnknownTenantError.

        tenants: sets the tenants whose rows the transaction may access; None: they are set already
        view: limits the targets; cached series may have more
        """
        await self._refresh_meters(transaction.connection, tenants)
        keys = [[series.SerializeToString() for series in fact.series] for fact in facts]
        found: dict[bytes, Series] = {}
        missing: dict[bytes, events_pb2.Series] = {}
        for fact, own_keys in zip(facts, keys, strict=True):
            for series, key in zip(fact.series, own_keys, strict=True):
                known = self._series.get(key)
                if known is None:
                    missing[key] = series
                else:
                    found[key] = known
        if missing:
            resolved = await self._resolve(transaction, missing, view)
            if view == EVERYTHING:
                transaction.after_commit(partial(self._series.update, resolved))
            found |= resolved
        return [[found[key] for key in own_keys] for own_keys in keys]

    async def _refresh_meters(self, connection: Connection, tenants: Scope | None) -> None:
        """Runs in every transaction: a meter counts all events captured after its creation, whichever replica
        created it and whichever folds. The query also keeps meters from being deleted until the end."""
        latest = await meters_store.latest(connection, tenants)
        if latest == self._latest_meter:
            return
        meters: dict[str, list[Meter]] = {}
        unknown: dict[int, UnknownMeter] = {}
        for meter in await meters_store.everything(connection):
            if isinstance(meter, UnknownMeter):
                unknown[meter.meter_id] = meter
            else:
                meters.setdefault(meter.definition.event_type, []).append(meter)
        self._meters, self._unknown = meters, unknown
        self._report()
        self._latest_meter = latest
        self._series = LRUCache(_SERIES)

    def _report(self) -> None:
        metrics.METERS_UNKNOWN.set(len(self._unknown))
        for meter_id, meter in self._unknown.items():
            if meter_id not in self._reported and len(self._reported) < _REPORTED:
                self._reported.add(meter_id)
                log.warning(
                    "meter.kind_unknown",
                    meter=meter.name,
                    meter_number=meter_id,
                    aggregation=meter.aggregation,
                )

    async def _resolve(
        self, transaction: Transaction, missing: Mapping[bytes, events_pb2.Series], view: View
    ) -> dict[bytes, Series]:
        connection = transaction.connection
        zones = await self._find_zones(connection, {series.tenant_id for series in missing.values()})
        matched = {
            key: list(matches(self._meters.get(series.event_type, ()), series, view))
            for key, series in missing.items()
        }
        groups = {
            group_key(missing[key].tenant_id, match.group): match.group
            for key, own in matched.items()
            for match in own
            if match.group
        }
        group_ids = await self._groups.find(transaction, groups) if groups else {}
        return {
            key: Series(
                series.tenant_id,
                zones[series.tenant_id],
                (*targets(series.tenant_id, matched[key], group_ids), *self._skipped(series, view)),
            )
            for key, series in missing.items()
        }

    async def _find_zones(self, connection: Connection, tenant_ids: set[int]) -> dict[int, str]:
        zones = {tenant_id: self._zones[tenant_id] for tenant_id in tenant_ids if tenant_id in self._zones}
        if unknown := tenant_ids - zones.keys():
            stored = await time_zones.find(connection, unknown)
            found = {tenant_id: zone for tenant_id, zone in stored.items() if is_zone(zone)}
            self._zones.update(found)
            zones |= found
        if unknown := tenant_ids - zones.keys():
            raise UnknownTenantError(frozenset(unknown))
        return zones

    def _skipped(self, series: events_pb2.Series, view: View) -> Iterator[Target]:
        """Targets of meters that may count the series once their kind is known; their filters are not
        checked.
        """
        for meter in self._unknown.values():
            if view.meter_id is None and meter.event_type == series.event_type:
                yield Target(meter.meter_id, EVENTS, TOTAL, EVERY_EVENT)


def matches(meters: Iterable[Meter], series: events_pb2.Series, view: View = EVERYTHING) -> Iterator[Match]:
    """The meters that count a series, as far as its type and dimensions decide that."""
    dimensions = {dimension.name: dimension.value for dimension in series.dimensions}
    for meter in meters:
        definition = meter.definition
        if view.meter_id not in (None, meter.meter_id):
            continue
        if not definition.counting.takes_series(series.event_type, dimensions):
            continue
        measure, member = definition.quantity or EVERY_EVENT, None
        if meter.kind.measured is Measured.MEMBER:
            if definition.unique_dimension:
                member = digest(dimensions[definition.unique_dimension])
            else:
                measure = SUBJECT
        group = definition.group_of(dimensions) if view.by_group else ()
        yield Match(meter, measure, group, member)


def targets(tenant_id: int, matched: Sequence[Match], group_ids: Mapping[GroupKey, int]) -> Iterator[Target]:
    """The targets of a series: the total of each meter, and its group if it has groups."""
    for match in matched:
        numbers = [TOTAL]
        if match.group:
            numbers.append(group_ids[group_key(tenant_id, match.group)])
        for group_id in numbers:
            yield Target(match.meter.meter_id, match.meter.kind.slot, group_id, match.measure, match.member)
