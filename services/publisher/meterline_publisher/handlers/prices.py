"""The price catalogue."""

from __future__ import annotations

from meterline.db.pool import Connection, Database
from meterline.db.unit_of_work import UnitOfWork
from meterline.errors import AlreadyExistsError, FailedPreconditionError

from meterline_publisher.domain.rule_sets import Rule
from meterline_publisher.handlers.deliveries import require_own_event_name, set_by_price
from meterline_publisher.repository import deliveries, prices


class Prices:
    """Reads go by `database`, changes by `unit_of_work`."""

    def __init__(self, database: Database, unit_of_work: UnitOfWork) -> None:
        self._database = database
        self._unit_of_work = unit_of_work

    async def put(self, rule: Rule) -> tuple[Rule, bool]:
        """The version as it is kept, and whether it is new.

        Raises AlreadyExistsError when the version is there with other content, FailedPreconditionError
        when it does not follow the one before it, or says another delivery than the one that holds, or when
        another meter of the plan is sent under the same name.
        """
        async with self._unit_of_work.begin() as tx:
            await prices.lock(tx.connection, rule.plan)
            plan = await prices.of_plan(tx.connection, rule.plan)
            versions = [known for known in plan if known.meter == rule.meter]
            same = next((known for known in versions if known.version.version == rule.version.version), None)
            if same is not None:
                if not await _is_same(tx.connection, rule, same):
                    raise AlreadyExistsError("price version", _name(rule), "it was put with other content")
                return same, False
            _require_successor(rule, versions)
            known = await deliveries.of_plan(tx.connection, rule.plan)
            require_own_event_name(rule.event_name, rule.meter, known, {other.meter for other in plan})
            put = await set_by_price(tx.connection, rule, known, first=not versions)
            await prices.insert(tx.connection, rule)
            await tx.commit()
        return put, True

    async def of_plan(self, plan: str) -> list[Rule]:
        """All versions of a plan, or of all plans when it is empty, by plan, meter and version."""
        async with self._database.connection() as connection:
            return await (prices.of_plan(connection, plan) if plan else prices.everything(connection))


def _name(rule: Rule) -> str:
    return f"{rule.rule_id}/{rule.version.version}"


def _require_successor(rule: Rule, versions: list[Rule]) -> None:
    last = versions[-1].version if versions else None
    expected = last.version + 1 if last else 1
    if rule.version.version != expected:
        raise FailedPreconditionError(f"price {_name(rule)}", f"the next version is {expected}")
    if last and not rule.version.follows(last):
        raise FailedPreconditionError(
            f"price {_name(rule)}",
            f"must take effect after version {last.version}, which does so at"
            f" {last.effective_from.isoformat()}, in every time zone from UTC-12 to UTC+14",
        )


async def _is_same(connection: Connection, rule: Rule, kept: Rule) -> bool:
    """Whether a request repeats the one that put a version, or what the version is now."""
    if rule.sent_as(kept.event_name, kept.scale) != kept:
        return False
    stated = (rule.event_name, rule.scale)
    return stated == (kept.event_name, kept.scale) or stated == await prices.stated_delivery(connection, rule)
