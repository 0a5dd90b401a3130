"""Admits or refuses events by the limits of their tenants, before any other work is done for them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from meterline.errors import MeterlineError, OverloadedError, QuotaError
from meterline.telemetry import metrics

from meterline_ingest.capture.call import NOBODYS_TURN, Submission, Turn, cost_of
from meterline_ingest.capture.group_commit import Committer
from meterline_ingest.capture.rules.shares import Shares
from meterline_ingest.event.bounds import MAX_COLUMN_ROWS
from meterline_ingest.rate_limits.cache import LimitRegistry
from meterline_ingest.rate_limits.limiter import Need, RateLimiter
from meterline_ingest.tenants.directory import KnownTenants


class Admission:
    """One for each process."""

    def __init__(
        self,
        tenants: KnownTenants,
        limits: LimitRegistry,
        limiter: RateLimiter,
        committer: Committer,
        *,
        max_waiting: int,
    ) -> None:
        """
        max_waiting: events, or their equivalent in bytes, that may wait here for the database
        """
        self._tenants = tenants
        self._limits = limits
        self._limiter = limiter
        self._committer = committer
        # Waiting calls take memory, so their room is bounded and shared, like that of the commit queue.
        self._waiting: Shares[str] = Shares(max_waiting, guaranteed=MAX_COLUMN_ROWS)

    async def submit(self, submission: Submission) -> None:
        """Takes the call's events from its tenants' limits, and queues the call for commit.

        All events count, also duplicates and those that will be rejected: they cost the same work.

        Raises QuotaError when any tenant is over its limit: nothing is taken then. Raises OverloadedError and
        UnavailableError.
        """
        needs = await self._admit(submission)
        try:
            self._committer.submit(submission)
        except MeterlineError:
            # The queue refused the call.
            self._limiter.give_back(needs)
            raise

    async def _admit(self, submission: Submission) -> Sequence[Need]:
        owner, cost = _owner(submission), submission.cost
        self._enter(owner, cost)
        try:
            submission.turn, limited = await self._turn(owner)
            return await self._acquire(_events_by_tenant(submission)) if limited else ()
        except QuotaError:
            metrics.CAPTURE_REFUSALS.labels("quota").inc()
            raise
        finally:
            self._waiting.release(owner, cost)

    async def admit_event(self, slug: str, size: int) -> Turn:
        """Takes an event of `size` bytes from its tenant's limits; returns its turn. Raises as `submit` does.

        slug: the tenant that the event counts for: its caller's, else the one it names
        """
        cost = cost_of(1, size)
        self._enter(slug, cost)
        try:
            turn, limited = await self._turn(slug)
            if limited:
                await self._acquire({slug: 1})
            return turn
        finally:
            self._waiting.release(slug, cost)

    def _enter(self, owner: str, cost: int) -> None:
        if not self._waiting.reserve(owner, 1, cost):
            metrics.CAPTURE_REFUSALS.labels("queue").inc()
            raise OverloadedError("the tenant's share of what waits for admission", 0.1)

    async def _turn(self, slug: str) -> tuple[Turn, bool]:
        """The turn of the tenant's calls, and whether any tenant may be limited."""
        tenant = await self._tenants.find(slug)
        # Read last, here and below, so that the limits are no older than promised when they are applied.
        book = await self._limits.current()
        if tenant is None:
            return NOBODYS_TURN, book.limited
        limits, _ = book.find(tenant.tenant_id, tenant.plan)
        return Turn(tenant.tenant_id, limits.weight), book.limited

    async def _acquire(self, events_by_tenant: Mapping[str, int]) -> Sequence[Need]:
        needs = []
        tenants = await self._tenants.find_many(events_by_tenant)
        book = await self._limits.current()
        for slug, events in events_by_tenant.items():
            tenant = tenants.get(slug)
            if tenant is not None:
                limits, _ = book.find(tenant.tenant_id, tenant.plan)
                if limits.limited:
                    needs.append(Need(tenant.tenant_id, slug, limits, events))
        if needs:
            await self._limiter.acquire(needs)
        return needs


def _owner(submission: Submission) -> str:
    """The tenant whose turn a call uses: its caller's, else that of its first event."""
    if submission.origin.tenant is not None:
        return submission.origin.tenant
    if submission.columns is None:
        return submission.rows[0].tenant_id or submission.tenant_id
    slugs = submission.columns.tenants
    return slugs[int(submission.columns.tenant_index[0])]


def _events_by_tenant(submission: Submission) -> Mapping[str, int]:
    """How many events of a call count for each tenant.

    A caller with a tenant cannot use up the limits of others by naming them: such events are rejected, and
    count for its own tenant.
    """
    if submission.origin.tenant is not None:
        return {submission.origin.tenant: submission.events}
    columns = submission.columns
    if columns is None:
        return Counter(row.tenant_id or submission.tenant_id for row in submission.rows)
    if len(columns.tenants) == 1:
        return {columns.tenants[0]: len(columns)}
    counts: Counter[str] = Counter()
    for slug, events in zip(columns.tenants, np.bincount(columns.tenant_index).tolist(), strict=False):
        counts[slug] += events
    return +counts
