"""Fault 23: an attacker with write access to the database changes and moves sealed values."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

import psycopg
import pytest
from meterline.crypto import envelope
from meterline.errors import TamperedError
from meterline_ingest.keys.rotation import rotate

from tests.fault.conftest import Lengths
from tests.support.databases import TestDatabase
from tests.support.vaults import CHANGE, OpenReplica, Replica

pytestmark = pytest.mark.fault

TENANTS = (1, 2, 3)
COLUMNS = ("email", "address")


@dataclass(frozen=True)
class Cell:
    """The place of a value."""

    tenant_id: int
    column: str
    row: int

    @property
    def key(self) -> bytes:
        return b"%d" % self.row


Stored = dict[Cell, bytes]
Tampering = Callable[[Random, Stored], Iterator[tuple[Cell, bytes]]]
"""Makes (place, value) pairs of what lies there now; none of them as it was sealed."""


def moved(kind: str) -> Tampering:
    """A value copied to a place that differs in one part from its own."""

    def tamper(random: Random, stored: Stored) -> Iterator[tuple[Cell, bytes]]:
        rows = sorted({cell.row for cell in stored})
        for cell in stored:
            match kind:
                case "row":
                    source = Cell(cell.tenant_id, cell.column, random.choice(rows))
                case "column":
                    source = Cell(cell.tenant_id, random.choice(COLUMNS), cell.row)
                case _:
                    source = Cell(random.choice(TENANTS), cell.column, cell.row)
            if source != cell:
                yield cell, stored[source]

    return tamper


def flipped(random: Random, stored: Stored) -> Iterator[tuple[Cell, bytes]]:
    for cell, sealed in stored.items():
        changed = bytearray(sealed)
        changed[random.randrange(len(sealed))] ^= 1 << random.randrange(8)
        yield cell, bytes(changed)


def cut(random: Random, stored: Stored) -> Iterator[tuple[Cell, bytes]]:
    for cell, sealed in stored.items():
        yield cell, sealed[: random.randrange(len(sealed))]
        yield cell, sealed[random.randrange(1, len(sealed)) :]


def renumbered(random: Random, stored: Stored) -> Iterator[tuple[Cell, bytes]]:
    """A value with the number of another key of the tenant, of its fingerprint key, or of no key."""
    for cell, sealed in stored.items():
        for key_id in (0, 1, 2, 3, 2**32 - 1):
            if key_id != envelope.key_id_of(sealed):
                yield cell, envelope.first_of(key_id) + sealed[5:]


def joined(random: Random, stored: Stored) -> Iterator[tuple[Cell, bytes]]:
    """The head of one value, followed by the rest of another."""
    values = list(stored.values())
    for cell, sealed in stored.items():
        other = random.choice(values)
        if other != sealed:
            yield cell, other[:17] + sealed[17:]


TAMPERINGS: dict[str, Tampering] = {
    "between rows": moved("row"),
    "between columns": moved("column"),
    "between tenants": moved("tenant"),
    "bits flipped": flipped,
    "cut": cut,
    "another key's number": renumbered,
    "heads exchanged": joined,
}


@dataclass
class Table:
    """A real table with sealed values of several tenants, columns and keys, and an attacker's connection."""

    admin: psycopg.Connection[tuple[Any, ...]]
    replica: Replica

    async def fill(self, rows: int) -> None:
        self.admin.execute(
            "CREATE TABLE ingest.people (tenant_id integer, row integer, email bytea, address bytea,"
            " PRIMARY KEY (tenant_id, row))"
        )
        for tenant_id in TENANTS:
            for row in range(rows):
                if row == rows // 2:
                    await self._rotate(tenant_id)
                await self._insert(tenant_id, row)

    async def _rotate(self, tenant_id: int) -> None:
        """Rotates the keys, so that the table has values of two keys."""
        await rotate(self.replica.store, tenant_id, 0, CHANGE)
        self.admin.execute("UPDATE ingest.data_keys SET created_at = created_at - interval '1 hour'")
        self.replica.timer.memory_passes()

    async def _insert(self, tenant_id: int, row: int) -> None:
        keyring = await self.replica.vault.keyring(None, tenant_id)
        values = [
            keyring.seal("people", column, b"%d" % row, b"%s of somebody" % column.encode())
            for column in COLUMNS
        ]
        self.admin.execute("INSERT INTO ingest.people VALUES (%s, %s, %s, %s)", (tenant_id, row, *values))

    def stored(self) -> Stored:
        found = self.admin.execute(
            "SELECT tenant_id, row, email, address FROM ingest.people ORDER BY tenant_id, row"
        )
        return {
            Cell(tenant_id, column, row): value
            for tenant_id, row, *values in found
            for column, value in zip(COLUMNS, values, strict=True)
        }

    def put(self, cell: Cell, value: bytes) -> None:
        self.admin.execute(
            f"UPDATE ingest.people SET {cell.column} = %s WHERE tenant_id = %s AND row = %s",
            (value, cell.tenant_id, cell.row),
        )

    async def opens(self, cell: Cell) -> bool:
        """Whether a reader can open the value at this place."""
        query = f"SELECT {cell.column} FROM ingest.people WHERE tenant_id = %s AND row = %s"
        ((sealed,),) = self.admin.execute(query, (cell.tenant_id, cell.row)).fetchall()
        keyring = await self.replica.vault.keyring(None, cell.tenant_id)
        try:
            keyring.unseal("people", cell.column, cell.key, sealed)
        except TamperedError:
            return False
        return True


async def accepted_of(table: Table, tampering: Tampering, seed: int) -> tuple[int, int]:
    """(number of tampered values, number of those that a reader could open)."""
    stored = table.stored()
    tried = accepted = 0
    for cell, value in tampering(Random(seed), stored):
        table.put(cell, value)
        tried += 1
        accepted += await table.opens(cell)
        table.put(cell, stored[cell])
    return tried, accepted


@pytest.fixture
async def table(
    make_database: Callable[..., TestDatabase], open_replica: OpenReplica
) -> AsyncIterator[Table]:
    database = make_database("ingest")
    with psycopg.connect(database.admin_dsn, autocommit=True) as admin:
        yield Table(admin, await open_replica(database))


@pytest.mark.req("T4.3", "X7")
async def test_no_changed_or_moved_value_can_be_opened(table: Table, lengths: Lengths) -> None:
    await table.fill(2 * lengths.rounds)
    keys = {envelope.key_id_of(sealed) for sealed in table.stored().values()}
    assert keys == {1, 2}, "the table needs values of several keys"
    for seed, (name, tampering) in enumerate(TAMPERINGS.items()):
        tried, accepted = await accepted_of(table, tampering, seed)
        assert tried > 0, name
        assert accepted == 0, name
    # Untouched and restored values can be opened.
    assert all([await table.opens(cell) for cell in table.stored()])


@pytest.mark.req("X7")
async def test_sealing_without_the_place_is_caught(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted bug: values are authenticated, but not their places."""
    monkeypatch.setattr(envelope, "place", lambda *_: b"")
    monkeypatch.setattr(envelope, "part", lambda _: b"")
    await table.fill(6)
    caught = {
        name
        for seed, (name, tampering) in enumerate(TAMPERINGS.items())
        if (await accepted_of(table, tampering, seed))[1] > 0
    }
    # Keys still separate tenants, but only the place separates rows and columns.
    assert caught == {"between rows", "between columns"}
