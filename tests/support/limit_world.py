"""Replicas that admit calls of one tenant, with a clock that tests turn: in memory, or on a real database.

Everything from the admission of a call to the store of limits and buckets is what the service runs. The steps
of a scenario follow one another; the calls of one step start at the same time, on any of the replicas.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Protocol, cast

from meterline.errors import QuotaError
from meterline.remembered.book import Source
from meterline.tenants import Tenant
from meterline_ingest.capture.admission import Admission
from meterline_ingest.capture.call import Origin, Submission
from meterline_ingest.capture.group_commit import Committer
from meterline_ingest.rate_limits.cache import LIMITS_SECONDS, LimitRegistry
from meterline_ingest.rate_limits.limiter import RateLimiter
from meterline_ingest.rate_limits.rules.lease import Ask, Grant
from meterline_ingest.rate_limits.rules.limits import LimitBook, Limits
from meterline_ingest.rate_limits.store.buckets import BucketRepository
from meterline_ingest.tenants.directory import KnownTenants
from meterline_protos.ingest.v1 import capture_pb2
from opentelemetry.trace import INVALID_SPAN_CONTEXT

from tests.support.buckets import Bucket
from tests.support.limits import Admitted, excess

US = 1_000_000
ACME = 1
LARGEST = 400
REPLICAS = 3
# Tokens that are given out and not used may be with a call for two exchanges, and come back with a third.
EXCHANGES_UNDER_WAY = 3
_EVENT = capture_pb2.Event()


@dataclass(frozen=True, slots=True)
class Quiet:
    """Nobody calls for so long. `swept`: leases that ended meanwhile are given back before the next call."""

    microseconds: int
    swept: bool = False


@dataclass(frozen=True, slots=True)
class Change:
    """The tenant gets other limits."""

    limits: Limits


@dataclass(frozen=True, slots=True)
class Call:
    """`gone_after`: turns of the event loop after which its caller gives up; None: never."""

    replica: int
    events: int
    gone_after: int | None = None


@dataclass(frozen=True, slots=True)
class AtOnce:
    """Calls that start together."""

    calls: Sequence[Call]


Step = Quiet | Change | AtOnce


class Buckets(Protocol):
    """As `BucketRepository`."""

    async def exchange(self, asks: Sequence[Ask]) -> dict[int, Grant]:
        """Gives back and takes."""


class Store(Protocol):
    """What replicas share: limits, buckets and the time."""

    limits: Source[LimitBook]
    buckets: Buckets
    longest_exchange_us: int

    def now_us(self) -> int:
        """The time of all of them."""

    async def wait(self, microseconds: int) -> None:
        """Lets time pass, for the buckets as well."""

    async def put(self, limits: Limits) -> None:
        """Changes the tenant's limits."""


class MemoryStore:
    """Both statements in memory. Each takes a random time, in which everybody else goes on."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._now_us = 1_000 * US
        self.longest_exchange_us = 0
        self._change = 0
        self._current = Limits()
        self._bucket = Bucket(self._current)
        self.limits: Source[LimitBook] = self
        self.buckets: Buckets = self

    def now_us(self) -> int:
        return self._now_us

    async def wait(self, microseconds: int) -> None:
        self._now_us += microseconds

    async def put(self, limits: Limits) -> None:
        self._change += 1
        self._current = self._bucket.limits = limits

    async def last_change(self) -> int:
        await self._way()
        change = self._change
        await self._way()
        return change

    async def book(self) -> LimitBook:
        await self._way()
        book = LimitBook({}, {ACME: self._current})
        await self._way()
        return book

    async def exchange(self, asks: Sequence[Ask]) -> dict[int, Grant]:
        asked_at = self._now_us
        await self._way()
        grants = {}
        for ask in asks:
            if self._current.limited:
                grants[ask.tenant_id] = self._bucket.exchange(ask, self._now_us)
        await self._way()
        self.longest_exchange_us = max(self.longest_exchange_us, self._now_us - asked_at)
        return grants

    async def _way(self) -> None:
        """To the database or back: up to a tenth of a second."""
        for _ in range(self._random.randrange(4)):
            await asyncio.sleep(0)
            self._now_us += self._random.choice((0, 100, 2_000, 33_000))


class _OneTenant:
    """As `KnownTenants`."""

    _TENANT = cast("Tenant", type("Acme", (), {"tenant_id": ACME, "slug": "acme", "plan": "basic"}))

    async def find(self, _: str) -> Tenant:
        return self._TENANT

    async def find_many(self, names: Iterable[str]) -> dict[str, Tenant]:
        return dict.fromkeys(names, self._TENANT)


class _Sink:
    """As `Committer`: takes everything in."""

    def submit(self, submission: Submission) -> None:
        submission.taken = True


class Replica:
    def __init__(self, store: Store) -> None:
        def now() -> float:
            return store.now_us() / US

        self.limiter = RateLimiter(cast("BucketRepository", store.buckets), now)
        self._limits = LimitRegistry(store.limits, now)
        self._admission = Admission(
            cast("KnownTenants", _OneTenant()),
            self._limits,
            self.limiter,
            cast("Committer", _Sink()),
            max_waiting=1_000_000,
        )

    async def start(self) -> None:
        await self._limits.start()
        await self.limiter.start()

    async def stop(self) -> None:
        await self.limiter.stop()
        await self._limits.stop()

    async def call(self, events: int) -> bool:
        """Whether it is let in."""
        origin = Origin("test", 0, None, INVALID_SPAN_CONTEXT)
        try:
            await self._admission.submit(Submission(origin, "acme", rows=[_EVENT] * events))
        except QuotaError:
            return False
        return True


@dataclass
class World:
    """What was let in, and which limits there were since when."""

    store: Store
    admitted: list[Admitted] = field(default_factory=list)
    changes: list[tuple[int, Limits]] = field(default_factory=list)

    async def run(self, steps: Iterable[Step]) -> None:
        replicas = [Replica(self.store) for _ in range(REPLICAS)]
        for replica in replicas:
            await replica.start()
        try:
            for step in steps:
                await self._take(step, replicas)
        finally:
            for replica in replicas:
                await replica.stop()

    async def _take(self, step: Step, replicas: Sequence[Replica]) -> None:
        match step:
            case Quiet():
                await self.store.wait(step.microseconds)
                if step.swept:
                    await _sweep(replicas)
            case Change():
                await self.store.put(step.limits)
                self.changes.append((self.store.now_us(), step.limits))
            case AtOnce():
                await asyncio.gather(*(self._call(call, replicas[call.replica]) for call in step.calls))

    async def _call(self, call: Call, replica: Replica) -> None:
        began = self.store.now_us()
        calling = asyncio.ensure_future(replica.call(call.events))
        if call.gone_after is not None:
            await _turns(call.gone_after)
            if calling.cancel():
                await asyncio.wait({calling})
                return
        if await calling:
            self.admitted.append(Admitted(began, self.store.now_us(), call.events))

    def beyond_the_bound(self) -> Fraction:
        """By how much what got in exceeds the bound; zero or less where it holds.

        The bound is that of the limits since two seconds after they were put, until they were changed.
        """
        ends = [moment for moment, _ in self.changes[1:]] + [self.store.now_us() + 1]
        worst = Fraction(0)
        for (moment, limits), end in zip(self.changes, ends, strict=True):
            known = moment + int(LIMITS_SECONDS * US)
            calls = [call for call in self.admitted if call.began >= known and call.ended < end]
            if limits.limited and calls:
                under_way = EXCHANGES_UNDER_WAY * self.store.longest_exchange_us
                over = excess(calls, limits, replicas=REPLICAS, largest=LARGEST, under_way=under_way)
                worst = max(worst, over)
        return worst


async def _sweep(replicas: Sequence[Replica]) -> None:
    """Each limiter looks at its leases, as it does twice a second."""
    for replica in replicas:
        replica.limiter._loop.wake()
    await _turns(30)


async def _turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)
