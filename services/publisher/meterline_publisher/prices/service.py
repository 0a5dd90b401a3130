"""Puts, withdraws and lists prices."""

from __future__ import annotations

from collections.abc import Mapping

from meterline.auth.principals import current_principal
from meterline.db.pool import Connection, Database
from meterline.db.scope import ALL_TENANTS
from meterline.errors import AlreadyExistsError, FailedPreconditionError, NotFoundError
from meterline.tenants import TenantReplica
from meterline.transactions.unit_of_work import UnitOfWork

from meterline_publisher.invoices import store as invoices_store
from meterline_publisher.peers import Aggregate
from meterline_publisher.prices.deliveries import require_own_event_name, set_by_price
from meterline_publisher.prices.plans import require_not_archived
from meterline_publisher.prices.rules.rule_sets import Rule
from meterline_publisher.prices.store import deliveries, prices


class Prices:
    """Reads use `database`, changes use `unit_of_work`; `aggregate` checks that meters exist."""

    def __init__(
        self, database: Database, unit_of_work: UnitOfWork, aggregate: Aggregate, tenants: TenantReplica
    ) -> None:
        self._database = database
        self._unit_of_work = unit_of_work
        self._aggregate = aggregate
        self._tenants = tenants

    async def put(self, rule: Rule) -> tuple[Rule, bool]:
        """Returns the stored version, and whether it is new.

        Raises AlreadyExistsError when the version exists with other content; FailedPreconditionError when it
        does not follow the version before it, when it would price a period that is final, when it states
        delivery settings other than the current ones, when another meter of the plan uses or used the event
        name, when the meter does not exist, or when the plan is archived or in another currency;
        UnavailableError.
        """
        # Before the transaction, since others of the plan wait for its lock. The meter cannot be deleted
        # afterwards.
        meter_exists = not rule.needs_usage or await self._aggregate.refer_to(rule.meter)
        # All tenants, since the search for final invoices covers all of them.
        async with self._unit_of_work.begin(ALL_TENANTS) as tx:
            await prices.lock(tx.connection, rule.plan)
            plan = await prices.of_plan(tx.connection, rule.plan)
            versions = [known for known in plan if known.meter == rule.meter]
            same = next((known for known in versions if known.version.version == rule.version.version), None)
            if same is not None:
                if not await _is_same(tx.connection, rule, same):
                    raise AlreadyExistsError("price version", _name(rule), "it was put with other content")
                return same, False
            await require_not_archived(tx.connection, rule.plan)
            if not meter_exists:
                raise FailedPreconditionError(f"meter {rule.meter}", "does not exist", "METER_UNKNOWN")
            _require_successor(rule, versions, await prices.numbers(tx.connection, rule.plan, rule.meter))
            _require_currency(rule, plan)
            await _require_open_periods(tx.connection, rule)
            known = await deliveries.of_plan(tx.connection, rule.plan)
            require_own_event_name(rule.event_name, rule.meter, known, {other.meter for other in plan})
            put = await set_by_price(tx.connection, rule, known, first=not versions)
            await prices.insert(tx.connection, rule)
            await tx.commit()
        return put, True

    async def withdraw(self, plan: str, meter: str, version: int) -> bool:
        """Withdraws a version that no calculation used; returns False if it was withdrawn before.

        Raises NotFoundError; FailedPreconditionError unless it is the newest version and was never used.
        """
        name = f"{plan}/{meter}"
        async with self._unit_of_work.begin() as tx:
            await prices.lock(tx.connection, plan)
            numbers = await prices.numbers(tx.connection, plan, meter)
            if version not in numbers:
                raise NotFoundError("price version", f"{name}/{version}")
            if numbers[version]:
                return False
            newest = max(number for number, withdrawn in numbers.items() if not withdrawn)
            if version != newest:
                raise FailedPreconditionError(
                    f"price {name}/{version}", f"version {newest} is newer", "NOT_THE_NEWEST"
                )
            if await prices.is_used(tx.connection, name, version):
                raise FailedPreconditionError(
                    f"price {name}/{version}", "an invoice was calculated by it", "VERSION_USED"
                )
            await prices.withdraw(tx.connection, plan, meter, version, current_principal().name)
            await tx.commit()
        return True

    async def of_tenant(self, slug: str) -> list[Rule]:
        """All versions of the tenant's current plan. Raises NotFoundError."""
        tenant = await self._tenants.get(slug)
        return await self.of_plan(tenant.plan) if tenant.plan else []

    async def of_plan(self, plan: str) -> list[Rule]:
        """All versions of a plan, or of all plans if it is empty, ordered by plan, meter and version."""
        async with self._database.connection() as connection:
            return await (prices.of_plan(connection, plan) if plan else prices.everything(connection))


def _name(rule: Rule) -> str:
    return f"{rule.rule_id}/{rule.version.version}"


def _require_successor(rule: Rule, versions: list[Rule], numbers: Mapping[int, bool]) -> None:
    """`versions`: those not withdrawn; `numbers`: all that were ever put, and whether they were withdrawn."""
    last = versions[-1].version if versions else None
    expected = max(numbers, default=0) + 1
    if numbers.get(rule.version.version):
        raise FailedPreconditionError(
            f"price {_name(rule)}", f"was withdrawn; the next version is {expected}", "VERSION_WITHDRAWN"
        )
    if rule.version.version != expected:
        raise FailedPreconditionError(
            f"price {_name(rule)}", f"the next version is {expected}", "PRICE_VERSION"
        )
    if last and not rule.version.follows(last):
        raise FailedPreconditionError(
            f"price {_name(rule)}",
            f"must take effect after version {last.version}, which does so at"
            f" {last.effective_from.isoformat()}, in every time zone from UTC-12 to UTC+14",
            "EFFECT_TOO_EARLY",
        )


async def _require_open_periods(connection: Connection, rule: Rule) -> None:
    """A version must not start in a final period: it did not price that period's invoice."""
    start = rule.version.effective_from
    final = await invoices_store.latest_final(connection, rule.plan, start)
    if final is not None:
        raise FailedPreconditionError(
            f"price {_name(rule)}",
            f"must take effect after {final.isoformat()}, the start of a period of this plan that has a final"
            f" invoice; it would do so at {start.isoformat()}",
            "PERIOD_IS_FINAL",
        )


def _require_currency(rule: Rule, plan: list[Rule]) -> None:
    """A tenant is billed in one currency, so no tenant could be billed for all of a plan in two."""
    code = rule.version.price.currency.code
    for known in plan:
        other = known.version.price.currency.code
        if other != code:
            raise FailedPreconditionError(
                f"price {_name(rule)}",
                f"is in {code}, and {known.meter} of the same plan is in {other}",
                "CURRENCY_DIFFERS",
            )


async def _is_same(connection: Connection, rule: Rule, kept: Rule) -> bool:
    """Whether `rule` repeats the request that put the version, or states the version with its current
    delivery.
    """
    if rule.sent_as(kept.event_name, kept.scale) != kept:
        return False
    stated = (rule.event_name, rule.scale)
    return stated == (kept.event_name, kept.scale) or stated == await prices.stated_delivery(connection, rule)
