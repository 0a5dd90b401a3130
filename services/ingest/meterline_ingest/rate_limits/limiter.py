"""Decides from memory whether tenants may report more, with leases on their buckets."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice

from meterline import tasks
from meterline.errors import MeterlineError, QuotaError, UnavailableError
from meterline.telemetry import metrics
from meterline.telemetry.logging import logger

from meterline_ingest.rate_limits.rules.lease import RENEW_SECONDS, Ask, Grant, Lease
from meterline_ingest.rate_limits.rules.limits import Limits
from meterline_ingest.rate_limits.store.buckets import BucketRepository

log = logger()

# One exchange takes a few milliseconds. A call that waits longer gets UnavailableError.
EXCHANGE_SECONDS = 2.0
# Tenants of one exchange.
MAX_ASKS = 1_000


@dataclass(frozen=True, slots=True)
class Need:
    """The events of a call that count for one limited tenant."""

    tenant_id: int
    slug: str
    limits: Limits
    events: int


@dataclass(slots=True, eq=False)
class _Waiting:
    """A call that no lease covers. `refused`: seconds after which to retry; 0: it got its tokens."""

    events: int
    refused: asyncio.Future[float] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class RateLimiter:
    """One for each process. `start` and `stop` may be called twice; `stop` gives leased tokens back."""

    def __init__(self, buckets: BucketRepository, now: Callable[[], float] = time.monotonic) -> None:
        self._buckets = buckets
        self._now = now
        self._leases: dict[int, Lease] = {}
        self._waiting: dict[int, deque[_Waiting]] = {}
        # Tenants that need an exchange, in order.
        self._due: dict[int, None] = {}
        self._next_sweep = 0.0
        self._loop = tasks.Loop("rate-limits", self._step)

    async def start(self) -> None:
        await self._loop.start()

    async def stop(self) -> None:
        if not self._loop.running:
            return
        await self._loop.stop()
        for tenant_id, lease in self._leases.items():
            self._fail(tenant_id, UnavailableError("the service is stopping"))
            lease.settle(lease.expires)
        self._due = dict.fromkeys(self._leases)
        while self._due:
            await self._exchange()

    async def acquire(self, needs: Sequence[Need]) -> None:
        """Takes what a call needs of every tenant, or nothing.

        Raises QuotaError naming each tenant that is over its limit, UnavailableError when that cannot be
        checked.
        """
        now = self._now()
        answers = [self._try(need, now) for need in needs]
        if not any(answers):
            return
        try:
            async with asyncio.timeout(EXCHANGE_SECONDS):
                refusals = [each if isinstance(each, float) else await each.refused for each in answers]
        except BaseException as error:
            self._withdraw(needs, answers)
            if isinstance(error, TimeoutError):
                raise UnavailableError("the database did not answer in time") from error
            raise
        if any(refusals):
            self.give_back(need for need, refused in zip(needs, refusals, strict=True) if not refused)
            raise QuotaError(
                {
                    f"tenant:{need.slug}": str(need.limits)
                    for need, refused in zip(needs, refusals, strict=True)
                    if refused
                },
                max(refusals),
            )

    def give_back(self, needs: Iterable[Need]) -> None:
        """Gives acquired tokens back that were not used."""
        for need in needs:
            lease = self._lease(need)
            if lease.limits == need.limits:
                lease.give(need.events)

    def _lease(self, need: Need) -> Lease:
        lease = self._leases.get(need.tenant_id)
        if lease is None:
            lease = self._leases[need.tenant_id] = Lease(need.tenant_id, need.limits)
        return lease

    def _try(self, need: Need, now: float) -> float | _Waiting:
        """0: taken; else seconds after which to retry, or the call that waits for an exchange."""
        lease = self._lease(need)
        lease.follow(need.limits)
        waiting = self._waiting.get(need.tenant_id)
        if not waiting:
            if lease.take(need.events, now):
                if lease.due:
                    self._want(need.tenant_id)
                return 0.0
            if refused := lease.refuses(now):
                return refused
            waiting = self._waiting[need.tenant_id] = deque()
        call = _Waiting(need.events)
        waiting.append(call)
        self._want(need.tenant_id)
        return call

    def _withdraw(self, needs: Sequence[Need], answers: Sequence[float | _Waiting]) -> None:
        for need, answer in zip(needs, answers, strict=True):
            if isinstance(answer, float):
                refused = answer
            else:
                answer.refused.cancel()
                heard = answer.refused.done() and not answer.refused.cancelled()
                refused = answer.refused.result() if heard and not answer.refused.exception() else 1.0
            if not refused:
                self.give_back([need])

    def _want(self, tenant_id: int) -> None:
        self._due[tenant_id] = None
        self._loop.wake()

    async def _step(self) -> float:
        """Does the due exchanges; returns the seconds until the next step, infinite without leases."""
        self._sweep()
        if self._due:
            await self._exchange()
            return 0.0
        return RENEW_SECONDS if self._leases else math.inf

    def _sweep(self) -> None:
        now = self._now()
        if now < self._next_sweep:
            return
        self._next_sweep = now + RENEW_SECONDS
        for tenant_id, lease in list(self._leases.items()):
            lease.renew(now)
            lease.settle(now)
            if lease.due:
                self._due[tenant_id] = None
            elif lease.idle and not lease.refuses(now) and tenant_id not in self._waiting:
                del self._leases[tenant_id]

    async def _exchange(self) -> None:
        """One round trip for all tenants that need one."""
        asks: list[Ask] = []
        for tenant_id in list(islice(self._due, MAX_ASKS)):
            del self._due[tenant_id]
            ask = self._leases[tenant_id].ask(self._counts(tenant_id), self._now())
            if ask is None:
                self._serve(tenant_id)
            else:
                asks.append(ask)
        if not asks:
            return
        metrics.TOKEN_EXCHANGES.inc()
        try:
            async with asyncio.timeout(EXCHANGE_SECONDS):
                grants = await self._buckets.exchange(asks)
        except (MeterlineError, TimeoutError) as error:
            log.warning("rate_limits.exchange_failed", error=str(error) or type(error).__name__)
            self._fail_all(asks, UnavailableError("the database did not answer"))
        except Exception as error:
            log.exception("rate_limits.exchange_failed", error=str(error))
            self._fail_all(asks, MeterlineError("internal error"))
        else:
            for ask in asks:
                self._granted(ask, grants.get(ask.tenant_id))

    def _counts(self, tenant_id: int) -> list[int]:
        return [call.events for call in self._waiting.get(tenant_id, ()) if not call.refused.done()]

    def _granted(self, ask: Ask, grant: Grant | None) -> None:
        lease = self._leases[ask.tenant_id]
        if grant is None:
            # Its limits were deleted meanwhile: waiting calls are admitted, and no tokens are kept.
            lease.drop()
            for call in self._waiting.pop(ask.tenant_id, ()):
                if not call.refused.done():
                    call.refused.set_result(0.0)
            return
        lease.granted(ask, grant, self._now())
        self._serve(ask.tenant_id)

    def _serve(self, tenant_id: int) -> None:
        """Admits waiting calls in order, as far as tokens suffice."""
        lease, now = self._leases[tenant_id], self._now()
        waiting = self._waiting.get(tenant_id, deque())
        while waiting:
            call = waiting[0]
            if call.refused.done():
                waiting.popleft()
            elif lease.take(call.events, now):
                waiting.popleft().refused.set_result(0.0)
            elif refused := lease.refuses(now):
                waiting.popleft().refused.set_result(refused)
            else:
                # It arrived after the request for the others' tokens.
                self._due[tenant_id] = None
                break
        else:
            self._waiting.pop(tenant_id, None)
        lease.give(0)
        if lease.due:
            self._due[tenant_id] = None

    def _fail_all(self, asks: Sequence[Ask], error: MeterlineError) -> None:
        for ask in asks:
            self._fail(ask.tenant_id, error)

    def _fail(self, tenant_id: int, error: MeterlineError) -> None:
        for call in self._waiting.pop(tenant_id, ()):
            if not call.refused.done():
                call.refused.set_exception(error)
                # Retrieves the exception, so that asyncio does not log it when the caller has gone.
                call.refused.exception()
