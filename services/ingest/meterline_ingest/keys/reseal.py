"""Reseals values of retired keys under the current one, a few at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from meterline.db.pool import Connection, Database
from meterline.errors import ShreddedError, TamperedError
from meterline.telemetry import metrics
from meterline.telemetry.logging import logger

from meterline_ingest.keys.keyring import Keyring
from meterline_ingest.keys.rules import Resealed
from meterline_ingest.keys.store import DataKeys
from meterline_ingest.keys.vault import Vault

log = logger()

# Values a transaction.
PAGE: Final = 200
TENANTS: Final = 100


class SealedColumn(Protocol):
    """A column of sealed values. Its store provides one, and `main` passes it to the resealer."""

    @property
    def table(self) -> str:
        """The table that values are sealed for; likewise `column`."""

    @property
    def column(self) -> str: ...

    async def earlier(
        self, connection: Connection, tenant_id: int, before: bytes, after: bytes, limit: int
    ) -> Sequence[tuple[bytes, bytes]]:
        """(row, value) of a tenant's values that are less than `before`, in rows after `after`, by row.

        A row has the name that it was sealed for; it may be logged, since it reveals nothing.
        """

    async def replace(self, connection: Connection, tenant_id: int, values: Sequence[Resealed]) -> int:
        """Stores each, unless the value has changed since it was read; returns how many."""


@dataclass(slots=True)
class _Run:
    """left: values that may still be read; failed: how many values could not be unsealed"""

    left: int
    resealed: int = 0
    failed: int = 0


class Resealer:
    """Replicas may run it concurrently: each skips values that another has replaced."""

    def __init__(
        self,
        database: Database,
        keys: DataKeys,
        vault: Vault,
        columns: Sequence[SealedColumn],
        *,
        most: int,
    ) -> None:
        """most: values that one run reads"""
        self._database = database
        self._keys = keys
        self._vault = vault
        self._columns = columns
        self._most = most

    async def run(self) -> int:
        """Returns how many values were resealed."""
        run = _Run(self._most)
        # Without columns nothing shows that a key is no longer needed.
        tenants = await self._keys.to_reseal(TENANTS) if self._columns else []
        for tenant_id, last_key_id in tenants:
            failed_before = run.failed
            ended = [await self._reseal(run, tenant_id, column) for column in self._columns]
            if all(ended) and run.failed == failed_before:
                await self._keys.mark_resealed(tenant_id, last_key_id)
        metrics.RESEALED_VALUES.inc(run.resealed)
        return run.resealed

    async def _reseal(self, run: _Run, tenant_id: int, column: SealedColumn) -> bool:
        """Whether the column has no more values to read."""
        after = b""
        while run.left > 0:
            try:
                keyring = await self._vault.keyring(None, tenant_id)
                limit = min(PAGE, run.left)
                async with self._database.connection([tenant_id]) as connection:
                    page = await column.earlier(connection, tenant_id, keyring.sealed_before, after, limit)
                    values = _resealed(run, keyring, column, page)
                    if values:
                        run.resealed += await column.replace(connection, tenant_id, values)
                        await connection.commit()
            except ShreddedError:
                return True
            run.left -= len(page)
            if len(page) < limit:
                return True
            after = page[-1][0]
        return False


def _resealed(
    run: _Run, keyring: Keyring, column: SealedColumn, page: Sequence[tuple[bytes, bytes]]
) -> list[Resealed]:
    """Logs and skips a value that cannot be unsealed: it must not keep others from being resealed."""
    values = []
    for row, sealed in page:
        try:
            text = keyring.unseal(column.table, column.column, row, sealed)
        except TamperedError as error:
            run.failed += 1
            log.error("value.not_resealed", tenant_id=keyring.tenant_id, row=row.hex(), error=str(error))
            continue
        values.append(Resealed(row, sealed, keyring.seal(column.table, column.column, row, text)))
    return values
