"""Puts and lists delivery settings of the catalogue's meters."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from meterline.auth.principals import current_principal
from meterline.db.pool import Connection, Database
from meterline.errors import AlreadyExistsError, FailedPreconditionError, NotFoundError
from meterline.transactions.unit_of_work import UnitOfWork

from meterline_publisher.peers import Aggregate
from meterline_publisher.prices.rules.deliveries import Delivery, last_of, taken_by
from meterline_publisher.prices.rules.rule_sets import Rule
from meterline_publisher.prices.store import deliveries, prices


@dataclass(frozen=True, slots=True)
class Wanted:
    """The version in a request."""

    plan: str
    meter: str
    version: int
    event_name: str
    scale: int

    @property
    def settings(self) -> tuple[str, int]:
        return self.event_name, self.scale


class Deliveries:
    """Reads use `database`, changes use `unit_of_work`; `aggregate` checks that meters exist."""

    def __init__(self, database: Database, unit_of_work: UnitOfWork, aggregate: Aggregate) -> None:
        self._database = database
        self._unit_of_work = unit_of_work
        self._aggregate = aggregate

    async def put(self, wanted: Wanted) -> tuple[Delivery, bool]:
        """Returns the stored version, and whether it is new.

        Raises NotFoundError when the plan has no price for the meter; AlreadyExistsError when the version
        exists with other content; FailedPreconditionError when it is not the next version, when another meter
        of the plan uses or used the event name, or when the meter does not exist and something is to be sent;
        UnavailableError.
        """
        nothing_sent = not wanted.event_name
        meter_exists = nothing_sent or await self._aggregate.refer_to(wanted.meter)
        async with self._unit_of_work.begin() as tx:
            await prices.lock(tx.connection, wanted.plan)
            known = await deliveries.of_plan(tx.connection, wanted.plan)
            name = f"{wanted.plan}/{wanted.meter}"
            mine = [each for each in known if each.meter == wanted.meter]
            same = next((each for each in mine if each.version == wanted.version), None)
            if same is not None:
                if same.settings != wanted.settings:
                    raise AlreadyExistsError(
                        "delivery", f"{name}/{wanted.version}", "it was put with other content"
                    )
                return same, False
            priced = {rule.meter for rule in await prices.of_plan(tx.connection, wanted.plan)}
            if wanted.meter not in priced:
                raise NotFoundError("price", name)
            expected = mine[-1].version + 1 if mine else 1
            if wanted.version != expected:
                raise FailedPreconditionError(
                    f"delivery {name}", f"the next version is {expected}", "DELIVERY_VERSION"
                )
            if not meter_exists:
                raise FailedPreconditionError(f"meter {wanted.meter}", "does not exist", "METER_UNKNOWN")
            require_own_event_name(wanted.event_name, wanted.meter, known, priced)
            put = await _insert(tx.connection, wanted)
            await tx.commit()
        return put, True

    async def of_plan(self, plan: str) -> Sequence[Delivery]:
        """All versions of all meters of a plan, by meter and version."""
        async with self._database.connection() as connection:
            return await deliveries.of_plan(connection, plan)


def require_own_event_name(
    event_name: str, meter: str, known: Collection[Delivery], priced: Collection[str]
) -> None:
    """Raises FailedPreconditionError when another meter of the plan uses or used the event name."""
    owner = taken_by(event_name, meter, known, priced)
    if owner is not None:
        raise FailedPreconditionError(
            f"meter {meter}", f"{owner} is sent as {event_name!r} already, or was", "EVENT_NAME_TAKEN"
        )


async def set_by_price(
    connection: Connection, rule: Rule, known: Collection[Delivery], *, first: bool
) -> Rule:
    """Returns the rule with the current settings of its meter; the meter's first price sets them.

    Raises FailedPreconditionError when a later version states different settings.
    """
    last = last_of(known, rule.meter)
    stated = (rule.event_name, rule.scale)
    if first or last is None:
        if last is None or last.settings != stated:
            version = last.version + 1 if last else 1
            await _insert(connection, Wanted(rule.plan, rule.meter, version, *stated))
        return rule
    if stated not in (("", 0), last.settings):
        raise FailedPreconditionError(
            f"price {rule.rule_id}",
            f"is sent as {last.event_name!r} with scale {last.scale}, which PutDelivery changes",
            "DELIVERY_DIFFERS",
        )
    return rule.sent_as(*last.settings)


async def _insert(connection: Connection, wanted: Wanted) -> Delivery:
    return await deliveries.insert(
        connection, wanted.plan, wanted.meter, wanted.version, wanted.settings, current_principal().name
    )
