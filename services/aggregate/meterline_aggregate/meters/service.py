"""Creates, lists and deletes meters, and records that something refers to one."""

from __future__ import annotations

from meterline.db.pool import Database
from meterline.db.scope import ALL_TENANTS
from meterline.errors import AlreadyExistsError, FailedPreconditionError, NotFoundError
from meterline.telemetry.logging import logger
from meterline.tenants import TenantReplica
from meterline.transactions.unit_of_work import UnitOfWork

from meterline_aggregate.meters import store
from meterline_aggregate.meters.messages import to_description
from meterline_aggregate.meters.rules.definitions import Definition, Meter, UnknownMeter
from meterline_aggregate.meters.rules.references import check_references
from meterline_aggregate.meters.store import Usage
from meterline_aggregate.peers import Ingest

log = logger()


class Meters:
    """ingest: describes event types; None: references are not checked."""

    def __init__(
        self,
        database: Database,
        unit_of_work: UnitOfWork,
        tenants: TenantReplica,
        ingest: Ingest | None = None,
    ) -> None:
        self._database = database
        self._unit_of_work = unit_of_work
        self._tenants = tenants
        self._ingest = ingest

    async def create(self, definition: Definition) -> tuple[Meter, bool]:
        """Returns the meter, and whether it was created.

        Raises AlreadyExistsError when the name has another definition, FailedPreconditionError when the
        definition refers to something that does not exist, UnavailableError.
        """
        async with self._database.connection() as connection:
            existing = await store.find(connection, definition.name)
        if existing is not None:
            return _same(existing, definition), False
        if self._ingest is not None:
            # Before the transaction, as others wait for its lock. Types never lose fields, so this is safe.
            described = await self._ingest.describe(definition.event_type)
            check_references(definition, None if described is None else to_description(described))
        async with self._unit_of_work.begin() as tx:
            await store.lock(tx.connection)
            existing = await store.find(tx.connection, definition.name)
            if existing is None:
                created = await store.insert(tx.connection, definition)
                await tx.commit()
                return created, True
        return _same(existing, definition), False

    async def refer_to(self, name: str) -> Meter | UnknownMeter:
        """Records that something refers to the meter, so that it cannot be deleted. Raises NotFoundError."""
        async with self._unit_of_work.begin() as tx:
            # First, since a concurrent deletion holds the row until it commits.
            await store.refer_to(tx.connection, name)
            meter = await store.find(tx.connection, name)
            if meter is None:
                raise NotFoundError("meter", name)
            await tx.commit()
        return meter

    async def delete(self, name: str, deleted_by: str) -> None:
        """Deletes a meter that has counted nothing and that nothing ever referred to.

        Raises NotFoundError, FailedPreconditionError, and AbortedError when transactions that may count for
        it do not end within 2 seconds.
        """
        # All tenants' windows. First checked without a lock, so that a refusal delays nobody.
        async with self._database.connection(ALL_TENANTS) as connection:
            _require_unused(name, await store.usage(connection, name))
        async with self._unit_of_work.begin(ALL_TENANTS) as tx:
            await store.hold(tx.connection)
            # Nobody can count for the meter from here on, so this check is final.
            found = _require_unused(name, await store.usage(tx.connection, name))
            await store.delete(tx.connection, found.meter_id, deleted_by)
            await tx.commit()
        log.info("meter.deleted", meter=name, meter_number=found.meter_id, deleted_by=deleted_by)

    async def list(self, slug: str = "") -> list[Meter | UnknownMeter]:
        """All meters by name. Raises NotFoundError when a tenant is named and unknown."""
        if slug:
            await self._tenants.get(slug)
        async with self._database.connection() as connection:
            return await store.everything(connection)


def _require_unused(name: str, found: Usage | None) -> Usage:
    if found is None:
        raise NotFoundError("meter", name)
    if found.counted:
        raise FailedPreconditionError(f"meter {name}", "has counted events", "METER_HAS_USAGE")
    if found.referred:
        raise FailedPreconditionError(
            f"meter {name}", "something refers to it, or did, for example a price", "METER_REFERRED_TO"
        )
    return found


def _same(existing: Meter | UnknownMeter, definition: Definition) -> Meter:
    """Raises AlreadyExistsError. The kind of `definition` is known here, so an UnknownMeter differs."""
    if isinstance(existing, UnknownMeter) or not existing.definition.is_equivalent_to(definition):
        raise AlreadyExistsError("meter", definition.name, "it has another definition, which never changes")
    return existing
