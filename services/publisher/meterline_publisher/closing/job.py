"""Rates and sends periods shortly before they end, and again for late usage until their invoice is final."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence, Set
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from meterline.calendar import Period, month_before, month_of
from meterline.clock import Clock, to_datetime
from meterline.db.pool import Connection, Database
from meterline.db.scope import ALL_TENANTS
from meterline.errors import MeterlineError, UnavailableError
from meterline.telemetry.logging import logger
from meterline.tenants import TenantReplica

from meterline_publisher.closing.store import Candidate, closing_schedules, to_close
from meterline_publisher.gaps.rules import NotBillableError
from meterline_publisher.gaps.service import Gaps
from meterline_publisher.gaps.store import held
from meterline_publisher.prices.rules.rule_sets import RuleSet, choose
from meterline_publisher.prices.rules.versions import VersionError
from meterline_publisher.prices.store import prices
from meterline_publisher.publishing.service import Publishing
from meterline_publisher.rating.rules.unbilled import billable
from meterline_publisher.usage.freshness import Freshness

log = logger()

_AT_A_TIME: Final = 8
_PAGE: Final = 500
_EARLIEST: Final = datetime.min.replace(tzinfo=UTC)


class Closing:
    """The background job that finds periods to rate. When no month is about to end, it runs three small
    queries.
    """

    def __init__(
        self,
        database: Database,
        tenants: TenantReplica,
        publishing: Publishing,
        freshness: Freshness,
        gaps: Gaps,
        clock: Clock,
        *,
        grace: timedelta,
        billed: Collection[str],
    ) -> None:
        """billed: what tenants may have chosen as their provider that is configured"""
        self._database = database
        self._tenants = tenants
        self._publishing = publishing
        self._freshness = freshness
        self._gaps = gaps
        self._clock = clock
        self._grace = grace
        self._billed = billed

    async def close_due(self) -> int:
        """Rates every due period whose usage or rules changed since it was rated, and all ended periods that
        were held because their provider was not configured, and now is; returns the number of periods rated.

        A failure of one tenant is logged and retried by the next run. A period that cannot be billed until
        somebody changes something is stored as a billing gap.
        """
        done = await self._look()
        await self._close_held(done)
        if done.tried:
            log.info("closing.done", rated=done.rated, not_billable=done.not_billable, failed=done.failed)
        await self._gaps.count()
        return done.rated

    async def _look(self) -> Done:
        async with self._database.connection(ALL_TENANTS) as connection:
            schedules = await closing_schedules(connection)
        now = to_datetime(self._clock.now_us())
        done = Done()
        for zone, lead in schedules:
            for period in due_periods(now, ZoneInfo(zone), lead, self._grace):
                await self._close((zone, lead), period, done)
        return done

    async def _close(self, schedule: tuple[str, timedelta], period: Period, done: Done) -> None:
        after = 0
        rule_sets: dict[str, RuleSet | None] = {}
        while True:
            async with self._database.connection(ALL_TENANTS) as connection:
                page = await to_close(connection, schedule, period, after, _PAGE)
                for plan in {one.plan for one in page} - rule_sets.keys():
                    rule_sets[plan] = await _rule_set(connection, plan, period, ZoneInfo(schedule[0]))
            made = await self._made_since(page)
            due = [one.tenant_id for one in page if is_due(one, rule_sets[one.plan], made)]
            for start in range(0, len(due), _AT_A_TIME):
                some = due[start : start + _AT_A_TIME]
                await asyncio.gather(*(self._try(tenant_id, period, done) for tenant_id in some))
            if len(page) < _PAGE:
                return
            after = page[-1].tenant_id

    async def _close_held(self, done: Done) -> None:
        now, after = to_datetime(self._clock.now_us()), (0, _EARLIEST)
        while True:
            async with self._database.connection(ALL_TENANTS) as connection:
                page = await held(connection, now, self._billed, after, _PAGE)
            for start in range(0, len(page), _AT_A_TIME):
                some = page[start : start + _AT_A_TIME]
                await asyncio.gather(*(self._try(tenant_id, period, done) for tenant_id, period in some))
            if len(page) < _PAGE:
                return
            after = (page[-1][0], page[-1][1].start)

    async def _made_since(self, page: Sequence[Candidate]) -> Set[str]:
        """The meters that were unknown when a period was rated and exist now. One request serves a page of
        tenants, who often have the same plan."""
        unknown = {meter for one in page for meter in one.unknown_meters}
        try:
            return await self._freshness.existing(unknown)
        except UnavailableError:
            # Without aggregate no period that needs usage can be rated now; the next run asks again.
            return frozenset()

    async def _try(self, tenant_id: int, period: Period, done: Done) -> None:
        tenant = await self._tenants.find_by_id(tenant_id)
        if tenant is None:
            return
        try:
            await self._publishing.rate(tenant, period, retry_rejected=False)
        except NotBillableError:
            # Publishing has stored the gap, and logged it when it was new.
            done.not_billable += 1
        except MeterlineError as error:
            done.failed += 1
            log.warning(
                "period.not_closed",
                tenant=tenant.slug,
                period_start=period.start.isoformat(),
                error=str(error),
            )
        except Exception:
            # A fault of one tenant must not stop the others; Publishing has stored it as a gap.
            done.failed += 1
            log.exception("period.fault", tenant=tenant.slug, period_start=period.start.isoformat())
        else:
            done.rated += 1


@dataclass(slots=True)
class Done:
    """The numbers of periods of one run, by result."""

    rated: int = 0
    not_billable: int = 0
    failed: int = 0

    @property
    def tried(self) -> int:
        return self.rated + self.not_billable + self.failed


def is_due(candidate: Candidate, rule_set: RuleSet | None, made: Set[str] = frozenset()) -> bool:
    """Whether a period must be rated, for the first time or again, because of new usage, other rules than
    those that rated it, or other delivery settings for a meter of which the provider has nothing yet.

    rule_set: the plan's current rules; None when nothing is priced
    made: meters that did not exist when the period was rated and exist now
    """
    if candidate.rated_rules is None:
        return candidate.is_used or rule_set is not None
    rules = None
    if rule_set is not None:
        rules = billable(rule_set, candidate.currency, set(candidate.unknown_meters) - made)[0].rule_set_id
    changed = (candidate.plan, rules) != (candidate.rated_plan, candidate.rated_rules)
    return changed or candidate.usage_differs or candidate.delivery_differs


async def _rule_set(connection: Connection, plan: str, period: Period, zone: ZoneInfo) -> RuleSet | None:
    try:
        found = choose(await prices.of_plan(connection, plan), period.start, zone)
    except VersionError:
        # Rating reports this error for each tenant of the plan.
        return None
    return found if found.rules else None


def due_periods(now: datetime, zone: ZoneInfo, lead: timedelta, grace: timedelta) -> Sequence[Period]:
    """The periods that must be rated at `now`: the one that ends within `lead`, and the previous one within
    `grace` after its end, while its invoice may still be open."""
    current = month_of(now, zone)
    previous = month_before(current, zone)
    due = [previous] if now - previous.end < grace else []
    return [*due, current] if current.end - now <= lead else due
