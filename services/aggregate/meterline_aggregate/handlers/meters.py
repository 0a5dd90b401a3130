"""Meters are created and listed."""

from __future__ import annotations

from meterline.db.pool import Database
from meterline.db.unit_of_work import UnitOfWork
from meterline.errors import AlreadyExistsError
from meterline.tenants import TenantReplica

from meterline_aggregate.domain.meters import Definition, Meter
from meterline_aggregate.repository import meters as repository


class Meters:
    def __init__(self, database: Database, unit_of_work: UnitOfWork, tenants: TenantReplica) -> None:
        self._database = database
        self._unit_of_work = unit_of_work
        self._tenants = tenants

    async def create(self, definition: Definition) -> tuple[Meter, bool]:
        """The meter, and whether it is new. Raises AlreadyExistsError when the name means something else."""
        async with self._unit_of_work.begin() as tx:
            await repository.lock(tx.connection)
            existing = await repository.find(tx.connection, definition.name)
            if existing is None:
                created = await repository.insert(tx.connection, definition)
                await tx.commit()
                return created, True
        if not existing.definition.means_the_same_as(definition):
            raise AlreadyExistsError(
                "meter", definition.name, "it has another definition, which never changes"
            )
        return existing, False

    async def list(self, slug: str = "") -> list[Meter]:
        """All meters by name, for a tenant or nobody in particular. Raises NotFoundError."""
        if slug:
            await self._tenants.get(slug)
        async with self._database.connection() as connection:
            return await repository.everything(connection)
