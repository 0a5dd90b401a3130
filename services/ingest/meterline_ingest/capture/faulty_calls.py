"""Calls that capture failed on with an unexpected error.

Their events wait in quarantine for a release that can accept them.
"""

from __future__ import annotations

from collections.abc import Iterator

from meterline.transactions.unit_of_work import UnitOfWork

from meterline_ingest.capture.call import Submission
from meterline_ingest.capture.rejected import NOT_QUARANTINED, Quarantine, Rejected
from meterline_ingest.event.outcomes import Kind, Problem
from meterline_ingest.tenants.directory import TenantDirectory

FAULT = Problem(Kind.REJECTED, "INTERNAL_FAULT", "", "a fault of the service, not of the event")


class FaultyCalls:
    """One for each process."""

    def __init__(self, unit_of_work: UnitOfWork, quarantine: Quarantine, tenants: TenantDirectory) -> None:
        self._unit_of_work = unit_of_work
        self._quarantine = quarantine
        self._tenants = tenants

    async def keep(self, submission: Submission) -> int:
        """Quarantines the events of known tenants that the caller may report for; returns how many.

        Raises any error: the fault may affect the quarantine as well.
        """
        if submission.origin.kind in NOT_QUARANTINED:
            return 0  # an import, a replay or a timer keeps its events itself
        slugs = list(_tenants(submission))
        allowed = {slug for slug in slugs if submission.origin.tenant in (None, slug)}
        numbers = await self._tenants.numbers(allowed)
        rejected = [
            Rejected(row, FAULT, tenant_id, slug, submission, row)
            for row, slug in enumerate(slugs)
            if (tenant_id := numbers.get(slug))
        ]
        entries = await self._quarantine.seal(rejected)
        async with self._unit_of_work.begin({entry.tenant_id for entry in entries}) as transaction:
            kept = await self._quarantine.keep(transaction, entries)
            await transaction.commit()
        return len(kept)


def _tenants(submission: Submission) -> Iterator[str]:
    """The name of the tenant of each row."""
    columns = submission.columns
    if columns is None:
        return (event.tenant_id or submission.tenant_id for event in submission.rows)
    return (columns.tenants[at] for at in columns.tenant_index.tolist())
