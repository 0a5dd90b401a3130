"""The price catalogue."""

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
    """Reads go by `database`, changes by `unit_of_work`; `aggregate` knows which meters exist."""

    def __init__(
        self, database: Database, unit_of_work: UnitOfWork, aggregate: Aggregate, tenants: TenantReplica
    ) -> None:
        self._database = database
        self._unit_of_work = unit_of_work
        self._aggregate = aggregate
        self._tenants = tenants

    async def put(self, rule: Rule) -> tuple[Rule, bool]:
        """The version as it is kept, and whether it is new.

        Raises AlreadyExistsError when the version is there with other content, FailedPreconditionError
        when it does not follow the one before it, would price a period that is final, or says another
        delivery than the one that holds, or when another meter of the plan is sent under the same name, when
        there is no such meter, or when the plan is archived or in another currency; UnavailableError.
        """
        # Asked before the transaction, which others of the plan wait for. From then on it is never deleted.
        meter_exists = not rule.needs_usage or await self._aggregate.refer_to(rule.meter)
        # What is final is looked for among the invoices of all tenants.
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
        """Takes back a version that nothing was calculated by; whether it was there until now.

        Raises NotFoundError; FailedPreconditionError unless it is the newest and was never used.
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
        """All versions of the plan that a tenant has now. Raises NotFoundError."""
        tenant = await self._tenants.get(slug)
        return await self.of_plan(tenant.plan) if tenant.plan else []

    async def of_plan(self, plan: str) -> list[Rule]:
        """All versions of a plan, or of all plans when it is empty, by plan, meter and version."""
        async with self._database.connection() as connection:
            return await (prices.of_plan(connection, plan) if plan else prices.everything(connection))


def _name(rule: Rule) -> str:
    return f"{rule.rule_id}/{rule.version.version}"


def _require_successor(rule: Rule, versions: list[Rule], numbers: Mapping[int, bool]) -> None:
    """`versions`: those that hold; `numbers`: all that were ever put, and whether they were withdrawn."""
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
    """What is final was billed by the versions of then: one from before would say that it was not."""
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
    """A tenant is billed in one currency, so a plan in two would bill nobody whole."""
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
    """Whether a request repeats the one that put a version, or what the version is now."""
    if rule.sent_as(kept.event_name, kept.scale) != kept:
        return False
    stated = (rule.event_name, rule.scale)
    return stated == (kept.event_name, kept.scale) or stated == await prices.stated_delivery(connection, rule)
