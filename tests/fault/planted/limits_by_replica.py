"""Ingest whose replicas count limits separately: a tenant gets its limit once for each replica."""

from __future__ import annotations

import time
from collections.abc import Sequence

from meterline_ingest.main import main
from meterline_ingest.rate_limits.limiter import Need, RateLimiter
from meterline_ingest.rate_limits.rules.lease import Ask, Grant
from meterline_ingest.rate_limits.rules.limits import Limits
from meterline_ingest.rate_limits.store.buckets import BucketRepository

from tests.support.buckets import Bucket

_limits: dict[int, Limits] = {}
_buckets: dict[int, Bucket] = {}
_acquire = RateLimiter.acquire


async def _remember(self: RateLimiter, needs: Sequence[Need]) -> None:
    _limits.update({need.tenant_id: need.limits for need in needs})
    await _acquire(self, needs)


async def _from_memory(self: BucketRepository, asks: Sequence[Ask]) -> dict[int, Grant]:
    moment = time.monotonic_ns() // 1_000
    for ask in asks:
        if ask.tenant_id not in _buckets:
            _buckets[ask.tenant_id] = Bucket(_limits[ask.tenant_id])
    return {ask.tenant_id: _buckets[ask.tenant_id].exchange(ask, moment) for ask in asks}


if __name__ == "__main__":
    RateLimiter.acquire = _remember  # type: ignore[method-assign]
    BucketRepository.exchange = _from_memory  # type: ignore[method-assign]
    main()
