"""The double's state in SQLite: API objects as JSON documents with a few columns to find them by.

One connection, used only by the event loop's thread, so every call is short and nothing interleaves
inside a transaction.
"""

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from importlib.resources import files
from typing import Any, TypeAlias

JsonObject: TypeAlias = dict[str, Any]
TABLES = ("objects", "meter_events", "idempotency", "deliveries", "settings")


@dataclass(frozen=True, slots=True)
class Keys:
    """The columns that an object is found by; the order is that of the SQL below."""

    customer: str | None = None
    subscription: str | None = None
    status: str | None = None
    test_clock: str | None = None
    lookup: str | None = None
    due_at: int | None = None


def _subscription_keys(body: JsonObject) -> Keys:
    items: list[JsonObject] = body["items"]["data"]
    due_at: int = items[0]["current_period_end"]
    return Keys(
        customer=body["customer"], status=body["status"], test_clock=body["test_clock"], due_at=due_at
    )


def _invoice_keys(body: JsonObject) -> Keys:
    draft = body["status"] == "draft"
    return Keys(
        customer=body["customer"],
        subscription=body["parent"]["subscription_details"]["subscription"],
        status=body["status"],
        test_clock=body["test_clock"],
        due_at=body["automatically_finalizes_at"] if draft else None,
    )


_KEYS: dict[str, Callable[[JsonObject], Keys]] = {
    "customer": lambda body: Keys(lookup=body["email"], test_clock=body["test_clock"]),
    "billing.meter": lambda body: Keys(lookup=body["event_name"], status=body["status"]),
    "price": lambda body: Keys(lookup=body["lookup_key"]),
    "subscription": _subscription_keys,
    "invoice": _invoice_keys,
    "test_helpers.test_clock": lambda body: Keys(status=body["status"]),
    "webhook_endpoint": lambda body: Keys(status=body["status"]),
    "event": lambda body: Keys(lookup=body["type"]),
}


def keys_of(body: JsonObject) -> Keys:
    derive = _KEYS.get(body["object"])
    return derive(body) if derive else Keys()


class Store:
    """Objects by kind and id, and plain SQL for the tables that have modules of their own."""

    def __init__(self, path: str) -> None:
        self._db = sqlite3.connect(path, isolation_level=None)
        # A killed process loses nothing in this mode; a power cut may cost the last transactions.
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.executescript(files(__package__).joinpath("schema.sql").read_text(encoding="utf-8"))

    def close(self) -> None:
        self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing. Nested, it is a savepoint, so that a handler can fail and its answer be kept."""
        nested = self._db.in_transaction
        self._db.execute("SAVEPOINT step" if nested else "BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK TO step" if nested else "ROLLBACK")
            if nested:
                self._db.execute("RELEASE step")
            raise
        self._db.execute("RELEASE step" if nested else "COMMIT")

    def execute(self, sql: str, *values: object) -> sqlite3.Cursor:
        return self._db.execute(sql, values)

    def row(self, sql: str, *values: object) -> Any:
        return self._db.execute(sql, values).fetchone()

    def insert(self, body: JsonObject, *, created: int | None = None) -> None:
        """Store a new object; `created` (unix seconds) for those that state it in another form."""
        made = body["created"] if created is None else created
        columns = (body["id"], body["object"], made, *astuple(keys_of(body)), json.dumps(body))
        self._db.execute(
            "INSERT INTO objects (id, kind, created, customer, subscription, status, test_clock, lookup,"
            " due_at, body) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            columns,
        )

    def update(self, body: JsonObject) -> None:
        columns = (*astuple(keys_of(body)), json.dumps(body), body["id"])
        self._db.execute(
            "UPDATE objects SET customer = ?, subscription = ?, status = ?, test_clock = ?, lookup = ?,"
            " due_at = ?, body = ? WHERE id = ?",
            columns,
        )

    def delete(self, identifier: str) -> None:
        self._db.execute("DELETE FROM objects WHERE id = ?", (identifier,))

    def find(self, kind: str, identifier: str) -> JsonObject | None:
        return self._one("SELECT body FROM objects WHERE id = ? AND kind = ?", identifier, kind)

    def find_any(self, identifier: str) -> JsonObject | None:
        """An object of whatever kind, for expansion of references."""
        return self._one("SELECT body FROM objects WHERE id = ?", identifier)

    def with_status(self, kind: str, status: str) -> list[JsonObject]:
        """All objects of a kind in one status, oldest first."""
        return self.bodies(
            "SELECT body FROM objects WHERE kind = ? AND status = ? ORDER BY seq", kind, status
        )

    def due(self, test_clock: str | None, until: int) -> JsonObject | None:
        """The next object on this clock whose instant is not after `until`.

        At one instant an invoice ('invoice') is finalised before the next period ends ('subscription').
        """
        return self._one(
            "SELECT body FROM objects WHERE test_clock IS ? AND due_at <= ?"
            " ORDER BY due_at, kind, seq LIMIT 1",
            test_clock,
            until,
        )

    def next_due(self, test_clock: str | None) -> int | None:
        found: int | None = self.row("SELECT min(due_at) FROM objects WHERE test_clock IS ?", test_clock)[0]
        return found

    def bodies(self, sql: str, *values: object) -> list[JsonObject]:
        """The `body` column of a query, parsed."""
        return [json.loads(row[0]) for row in self._db.execute(sql, values)]

    def reset(self) -> None:
        with self.transaction():
            for table in TABLES:
                self._db.execute(f"DELETE FROM {table}")

    def _one(self, sql: str, *values: object) -> JsonObject | None:
        row = self._db.execute(sql, values).fetchone()
        if row is None:
            return None
        body: JsonObject = json.loads(row[0])
        return body
