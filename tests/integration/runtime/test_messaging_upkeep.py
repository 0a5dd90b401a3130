"""Partitions of outbox and inbox: created ahead, and dropped when old, but not with rows still needed."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import LiteralString

import psycopg
import pytest

from tests.support.databases import TestDatabase

pytestmark = pytest.mark.req("S7")


def id_of(moment: datetime) -> uuid.UUID:
    """A UUIDv7 with the time `moment`."""
    return uuid.UUID(int=(int(moment.timestamp() * 1000) << 80) | 0x7000_8000_0000_0000_0001)


class Messaging:
    """Outbox and inbox, with the application role's privileges."""

    def __init__(self, database: TestDatabase) -> None:
        self._app = psycopg.connect(database.app_dsn("ingest"), autocommit=True)
        self._owner = psycopg.connect(database.owner_dsn("ingest"), autocommit=True)
        # Noon of the first day with a partition: yesterday, if the tables were created before midnight.
        (first,) = self.column("SELECT min(relname)::text FROM pg_class WHERE relname ~ '^outbox_[0-9]{8}$'")
        self.today = datetime.strptime(f"{first}T12+0000", "outbox_%Y%m%dT%H%z")

    def close(self) -> None:
        self._app.close()
        self._owner.close()

    def column(self, query: LiteralString, *parameters: object) -> list[object]:
        return [row[0] for row in self._app.execute(query, parameters).fetchall()]

    def maintain(self, keep: str = "7 days") -> list[object]:
        """Runs the maintenance; returns the dropped partitions."""
        return self.column("SELECT dropped FROM maintain_messaging(%s::interval)", keep)

    def partition(self, parent: str, day: datetime) -> None:
        """Creates the partition that the maintenance created on `day`."""
        floor = "uuid_floor(date_trunc('day', %s::timestamptz, 'UTC'))"
        low, high = (self.column(f"SELECT {floor}", moment)[0] for moment in (day, day + timedelta(days=1)))
        name = f"{parent}_{day:%Y%m%d}"
        self._owner.execute(
            f"CREATE TABLE {name} PARTITION OF {parent} FOR VALUES FROM ('{low}') TO ('{high}')"
        )

    def emitted(self, day: datetime, *, published: bool) -> uuid.UUID:
        message_id = id_of(day)
        self._app.execute(
            "INSERT INTO outbox VALUES (%s, 'probe.x', '{}', '', %s)",
            (message_id, day if published else None),
        )
        return message_id

    def handled(self, day: datetime) -> uuid.UUID:
        self._app.execute("INSERT INTO inbox VALUES (%s, 'probe', %s)", (id_of(day), day))
        return id_of(day)


@pytest.fixture
def messaging(bare_database: TestDatabase) -> Iterator[Messaging]:
    messaging = Messaging(bare_database)
    yield messaging
    messaging.close()


def test_partitions_of_coming_days_exist(messaging: Messaging) -> None:
    for parent in ("outbox", "inbox"):
        for ahead in range(3):
            name = f"{parent}_{messaging.today + timedelta(days=ahead):%Y%m%d}"
            assert messaging.column("SELECT to_regclass(%s)::text", name) == [name]


def test_message_is_stored_in_partition_of_its_day(messaging: Messaging) -> None:
    messaging.emitted(messaging.today, published=False)
    assert messaging.column("SELECT tableoid::regclass::text FROM outbox") == [
        f"outbox_{messaging.today:%Y%m%d}"
    ]


def test_old_partitions_are_dropped_unless_they_have_unpublished_messages(messaging: Messaging) -> None:
    done, waits, recent = (messaging.today - timedelta(days=days) for days in (30, 20, 3))
    for day in (done, waits, recent):
        messaging.partition("outbox", day)
        messaging.emitted(day, published=day != waits)
    assert messaging.maintain() == [f"outbox_{done:%Y%m%d}"]
    assert messaging.column("SELECT message_id FROM outbox ORDER BY 1") == [id_of(waits), id_of(recent)]


@pytest.mark.req("K3", "T3.1")
def test_inbox_is_kept_longer_than_outbox_can_republish(messaging: Messaging) -> None:
    repeatable, forgotten = messaging.today - timedelta(days=10), messaging.today - timedelta(days=15)
    for day in (repeatable, forgotten):
        messaging.partition("inbox", day)
        messaging.handled(day)
    assert messaging.maintain() == [f"inbox_{forgotten:%Y%m%d}"]
    assert messaging.column("SELECT message_id FROM inbox") == [id_of(repeatable)]


def test_old_rows_of_default_partition_are_deleted(messaging: Messaging) -> None:
    old, waits, recent = (messaging.today - timedelta(days=days) for days in (30, 20, 3))
    for day in (old, waits, recent):
        messaging.emitted(day, published=day != waits)
        messaging.handled(day)
    assert messaging.maintain() == []
    assert messaging.column("SELECT message_id FROM outbox ORDER BY 1") == [id_of(waits), id_of(recent)]
    assert messaging.column("SELECT message_id FROM inbox") == [id_of(recent)]


def test_maintenance_keeps_rows_written_before_their_partition(
    messaging: Messaging, bare_database: TestDatabase
) -> None:
    """A service that was stopped past its last partition writes to the default partition at first."""
    tomorrow = messaging.today + timedelta(days=1)
    with psycopg.connect(bare_database.owner_dsn("ingest")) as owner:
        owner.execute(f"DROP TABLE outbox_{tomorrow:%Y%m%d}")
    early = messaging.emitted(tomorrow, published=False)
    assert messaging.maintain() == []
    assert messaging.column("SELECT message_id FROM outbox") == [early]
    assert messaging.column("SELECT to_regclass(%s)::text", f"outbox_{tomorrow:%Y%m%d}") == [None]


def test_maintenance_does_not_wait_for_long_transactions(
    messaging: Messaging, bare_database: TestDatabase
) -> None:
    """All writers would queue behind a waiting maintenance."""
    with psycopg.connect(bare_database.owner_dsn("ingest")) as owner:
        owner.execute(f"DROP TABLE outbox_{messaging.today:%Y%m%d}")
    with psycopg.connect(bare_database.app_dsn("ingest")) as reader:
        reader.execute("SELECT count(*) FROM outbox")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            messaging.maintain()
    messaging.maintain()
