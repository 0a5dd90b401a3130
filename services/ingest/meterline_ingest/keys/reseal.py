"""Values that were sealed under a retired key come under the current one, a few at a time."""

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
    """A column of sealed values. Its repository provides one, and `main` gives it to the resealer."""

    @property
    def table(self) -> str:
        """As it was sealed, like `column`."""

    @property
    def column(self) -> str: ...

    async def earlier(
        self, connection: Connection, tenant_id: int, before: bytes, after: bytes, limit: int
    ) -> Sequence[tuple[bytes, bytes]]:
        """(row, value) of a tenant's values that are less than `before`, in rows beyond `after`, by row.

        A row is named as it was when it was sealed, by what may be logged: a key that tells nothing.
        """

    async def replace(self, connection: Connection, tenant_id: int, values: Sequence[Resealed]) -> int:
        """Stores each, unless the value is no longer what was found; answers how many."""


@dataclass(slots=True)
class _Run:
    """left: values that may still be looked at; failed: of those that were, how many do not open"""

    left: int
    resealed: int = 0
    failed: int = 0


class Resealer:
    """Replicas may do this at the same time: what one has replaced, another finds changed."""

    def __init__(
        self,
        database: Database,
        keys: DataKeys,
        vault: Vault,
        columns: Sequence[SealedColumn],
        *,
        most: int,
    ) -> None:
        """most: values that one run looks at"""
        self._database = database
        self._keys = keys
        self._vault = vault
        self._columns = columns
        self._most = most

    async def run(self) -> int:
        """Answers how many values are sealed anew."""
        run = _Run(self._most)
        # Without a column nobody could tell that a key is not needed any more.
        tenants = await self._keys.to_reseal(TENANTS) if self._columns else []
        for tenant_id, last_key_id in tenants:
            failed_before = run.failed
            ended = [await self._reseal(run, tenant_id, column) for column in self._columns]
            if all(ended) and run.failed == failed_before:
                await self._keys.mark_resealed(tenant_id, last_key_id)
        metrics.RESEALED_VALUES.inc(run.resealed)
        return run.resealed

    async def _reseal(self, run: _Run, tenant_id: int, column: SealedColumn) -> bool:
        """Whether the column has no more values to look at."""
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
    """A value that does not open is told of and left: it must not keep others from being sealed anew."""
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
