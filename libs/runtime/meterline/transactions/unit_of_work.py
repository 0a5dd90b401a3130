"""One RPC or one message is one transaction: read, change, `emit`, commit. Without commit nothing is kept."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from google.protobuf.message import Message

from meterline.crashpoints import crash_point
from meterline.db.pool import Connection, Database
from meterline.db.scope import NO_TENANT, Scope
from meterline.telemetry.propagation import inject
from meterline.transactions import outbox
from meterline.transactions.outbox import Envelope


class Transaction:
    """A transaction with an outbox. Left without `commit`, it is rolled back."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.committed = False
        self._outgoing: list[Envelope] = []
        self._after_commit: list[Callable[[], None]] = []

    def after_commit(self, callback: Callable[[], None]) -> None:
        """Runs `callback` if and when this transaction has committed; it must not fail."""
        self._after_commit.append(callback)

    def emit(self, subject: str, fact: Message | bytes) -> Envelope:
        """Publishes `fact` on `subject` if this transaction commits, with the current trace context."""
        payload = fact if isinstance(fact, bytes) else fact.SerializeToString()
        envelope = Envelope(subject, payload, inject({}))
        self._outgoing.append(envelope)
        return envelope

    @property
    def emitted(self) -> bool:
        return bool(self._outgoing)

    async def commit(self) -> None:
        if self._outgoing:
            await outbox.insert(self.connection, self._outgoing)
        crash_point("unit_of_work.before_commit")
        await self.connection.commit()
        self.committed = True
        for callback in self._after_commit:
            callback()
        crash_point("unit_of_work.after_commit")


class UnitOfWork:
    """Makes transactions, and wakes the relay when one has left something in the outbox."""

    def __init__(self, database: Database, wake_relay: Callable[[], None]) -> None:
        self._database = database
        self._wake_relay = wake_relay

    @asynccontextmanager
    async def begin(self, tenants: Scope = NO_TENANT) -> AsyncIterator[Transaction]:
        """A transaction that may touch rows of `tenants`, as in `Database.connection`."""
        async with self._database.connection(tenants) as connection:
            transaction = Transaction(connection)
            try:
                yield transaction
            finally:
                # Also when the caller was cancelled between commit and answer.
                if transaction.committed and transaction.emitted:
                    self._wake_relay()
