"""Ingest that publishes a correction before its commit: a kill in between makes it count twice."""

from __future__ import annotations

from collections.abc import Callable

from meterline.db.pool import Database
from meterline.transactions.unit_of_work import Transaction, UnitOfWork
from meterline_ingest.corrections import correct_many, correct_one
from meterline_ingest.main import main

_units_of_work: list[UnitOfWork] = []
_commit = correct_one.commit
_init = UnitOfWork.__init__


def _noted(self: UnitOfWork, database: Database, wake_relay: Callable[[], None]) -> None:
    _init(self, database, wake_relay)
    _units_of_work.append(self)


async def _publish_first(transaction: Transaction) -> None:
    async with _units_of_work[0].begin() as other:
        other._outgoing, transaction._outgoing = transaction._outgoing, []
        await other.commit()
    await _commit(transaction)


if __name__ == "__main__":
    UnitOfWork.__init__ = _noted  # type: ignore[method-assign]
    for module in (correct_one, correct_many):
        vars(module)["commit"] = _publish_first
    main()
