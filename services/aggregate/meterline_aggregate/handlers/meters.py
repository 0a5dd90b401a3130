"""Meters are created and listed."""

from __future__ import annotations

from meterline.db.pool import Database
from meterline.db.unit_of_work import UnitOfWork
from meterline.errors import AlreadyExistsError
from meterline.tenants import TenantReplica

from meterline_aggregate.domain.meters import Definition, Meter
from meterline_aggregate.domain.references import check_references
from meterline_aggregate.peers import Ingest
from meterline_aggregate.repository import meters as repository


class Meters:
    """ingest: asked what meters refer to; None: that is not checked."""

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
        """The meter, and whether it is new.

        Raises AlreadyExistsError when the name means something else, FailedPreconditionError when it refers
        to what does not exist, UnavailableError.
        """
        async with self._database.connection() as connection:
            existing = await repository.find(connection, definition.name)
        if existing is not None:
            return _same(existing, definition), False
        if self._ingest is not None:
            # Before the transaction, which others wait for. Nothing is ever removed from a type.
            check_references(definition, await self._ingest.describe(definition.event_type))
        async with self._unit_of_work.begin() as tx:
            await repository.lock(tx.connection)
            existing = await repository.find(tx.connection, definition.name)
            if existing is None:
                created = await repository.insert(tx.connection, definition)
                await tx.commit()
                return created, True
        return _same(existing, definition), False

    async def list(self, slug: str = "") -> list[Meter]:
        """All meters by name, for a tenant or nobody in particular. Raises NotFoundError."""
        if slug:
            await self._tenants.get(slug)
        async with self._database.connection() as connection:
            return await repository.everything(connection)


def _same(existing: Meter, definition: Definition) -> Meter:
    """Raises AlreadyExistsError."""
    if not existing.definition.means_the_same_as(definition):
        raise AlreadyExistsError("meter", definition.name, "it has another definition, which never changes")
    return existing
