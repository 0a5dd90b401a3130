"""Reads current usage from aggregate before rating, so that stale usage is never rated.

`usage.window` arrives about once a minute, so under steady traffic the replica is always a little behind. An
answer contains the same absolute value with the same revision as a message, so it may be stored in the
replica too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence, Set
from dataclasses import dataclass
from decimal import InvalidOperation
from typing import Final

from meterline.calendar import Period
from meterline.errors import AbortedError, NotFoundError
from meterline.tenants import Tenant
from meterline_protos.aggregate.v1 import usage_pb2

from meterline_publisher.gaps.rules import GapReason, NotBillableError
from meterline_publisher.peers import Aggregate
from meterline_publisher.prices.rules.rule_sets import Rule
from meterline_publisher.usage.replica import to_window
from meterline_publisher.usage.store import UsageWindow

_POLL_SECONDS: Final = 0.1
# A rebuild reads all events of a month, usually within seconds. A new tenant is known within one second.
_REBUILD_SECONDS: Final = 2.0
_TENANT_SECONDS: Final = 0.5


@dataclass(frozen=True, slots=True)
class Pulled:
    """Aggregate's answer: windows, and which of the requested meters do not exist."""

    windows: Sequence[UsageWindow]
    unknown: Set[str]


class Freshness:
    """Reads months of a tenant from aggregate. `wait_seconds`: how long to wait for a rebuild."""

    def __init__(self, aggregate: Aggregate, wait_seconds: float) -> None:
        self._aggregate = aggregate
        self._wait_seconds = wait_seconds

    async def pull(self, tenant: Tenant, period: Period, rules: Sequence[Rule]) -> Pulled:
        """The current usage of these rules' meters; a meter without events has no window.

        Raises AbortedError with a time to wait while a value is being rebuilt, or while aggregate does not
        know the tenant yet; NotBillableError for a value that cannot be billed; UnavailableError.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._wait_seconds
        asked = [rule for rule in rules if rule.needs_usage]
        found: list[UsageWindow] = []
        unknown: set[str] = set()
        while asked:
            windows = await asyncio.gather(*(self._month(tenant, period, rule, unknown) for rule in asked))
            answered = list(zip(asked, windows, strict=True))
            asked = [rule for rule, window in answered if window is not None and window.rebuilding]
            found += [
                _window(tenant, rule, window)
                for rule, window in answered
                if window is not None and not window.rebuilding
            ]
            if asked and loop.time() >= deadline:
                meters = ", ".join(rule.meter for rule in asked)
                raise AbortedError(f"usage of {meters} is being rebuilt; try again", _REBUILD_SECONDS)
            if asked:
                await asyncio.sleep(_POLL_SECONDS)
        return Pulled(found, unknown)

    async def existing(self, meters: Set[str]) -> Set[str]:
        """Those of the meters that exist. Raises UnavailableError."""
        return meters & (await self._aggregate.meters(meters)).keys() if meters else meters

    async def _month(
        self, tenant: Tenant, period: Period, rule: Rule, unknown: set[str]
    ) -> usage_pb2.Window | None:
        """The window, or None; an unknown meter is added to `unknown`."""
        try:
            return await self._aggregate.month(tenant.slug, rule.meter, period)
        except NotFoundError as error:
            if error.kind != "meter":
                raise AbortedError(
                    f"aggregate has not heard of {tenant.slug} yet; try again", _TENANT_SECONDS
                ) from error
            unknown.add(rule.meter)
            return None


def _window(tenant: Tenant, rule: Rule, window: usage_pb2.Window) -> UsageWindow:
    try:
        return to_window(tenant.tenant_id, rule.meter, window)
    except (ValueError, OverflowError, InvalidOperation) as error:
        raise NotBillableError(
            GapReason.FAULT, f"usage of {rule.meter}", f"cannot be billed: {error}"
        ) from error
