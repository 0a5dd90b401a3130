"""Imports events of any age."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable

from meterline.errors import AlreadyExistsError
from meterline.tenants import TenantReplica
from meterline.transactions.unit_of_work import UnitOfWork

from meterline_ingest.audit import store as audit_store
from meterline_ingest.audit.rules import EVENTS_IMPORTED, ChangeRequest
from meterline_ingest.capture.admission import Admission
from meterline_ingest.capture.call import Result, Submission
from meterline_ingest.corrections.dry_run import Effects
from meterline_ingest.corrections.rules.effects import Effect
from meterline_ingest.corrections.rules.history import Import, ImportKey
from meterline_ingest.corrections.store import imports

DryRun = Callable[[Submission], Awaitable[tuple[Result, bytes]]]


class Imports:
    """One for each process."""

    def __init__(
        self,
        unit_of_work: UnitOfWork,
        tenants: TenantReplica,
        admission: Admission,
        dry_run: DryRun,
        effects: Effects,
    ) -> None:
        self._unit_of_work = unit_of_work
        self._tenants = tenants
        self._admission = admission
        self._dry_run = dry_run
        self._effects = effects

    async def bring(self, submission: Submission, change: ChangeRequest) -> Result:
        """Stores the events of one call of an import.

        Raises NotFoundError, OverloadedError, QuotaError, and AlreadyExistsError when the import was begun by
        another requester, for another reason or from another source.
        """
        await self._begin(submission, change)
        await self._admission.submit(submission)
        return await submission.result

    async def preview(self, submission: Submission) -> tuple[Result, Effect]:
        """What `bring` would do."""
        tenant = await self._tenants.get(submission.tenant_id)
        result, message = await self._dry_run(submission)
        effect = Effect()
        added = result.rows - len(result.problems)
        await self._effects.add(effect, tenant.slug, message, retracted=0, added=added)
        return result, await self._effects.finish(effect, tenant.slug)

    async def page(self, slug: str, before: ImportKey | None, limit: int) -> list[Import]:
        """The newest first. Raises NotFoundError for an unknown tenant."""
        tenant_id = (await self._tenants.get(slug)).tenant_id
        async with self._unit_of_work.begin([tenant_id]) as transaction:
            return await imports.page(transaction.connection, tenant_id, before, limit)

    async def _begin(self, submission: Submission, change: ChangeRequest) -> None:
        """Records who imports the events, with the first call of an import."""
        tenant_id = (await self._tenants.get(submission.tenant_id)).tenant_id
        source, import_id = submission.origin.source, _import_id(submission)
        stated = source, change.requested_by, change.reason
        async with self._unit_of_work.begin([tenant_id]) as transaction:
            connection = transaction.connection
            if not await imports.add(connection, tenant_id, import_id, *stated):
                if await imports.find(connection, tenant_id, import_id) != stated:
                    rule = "its calls have one source, one reason and one who asked for it"
                    raise AlreadyExistsError("import", str(import_id), rule)
                return
            await audit_store.record(
                connection,
                tenant_id,
                action=EVENTS_IMPORTED,
                subject=f"import {import_id}",
                principal=change.requested_by,
                reason=change.reason,
                details={"source": source},
            )
            await transaction.commit()


def _import_id(submission: Submission) -> uuid.UUID:
    assert submission.origin.import_id is not None, "a call of an import"
    return submission.origin.import_id
