"""Tables of events are vacuumed and frozen soon after each insert, also those of months that upkeep makes."""

from __future__ import annotations

import psycopg
import pytest

from tests.support.databases import TestDatabase

pytestmark = pytest.mark.req("S7")

SETTINGS = [
    "autovacuum_vacuum_insert_scale_factor=0",
    "autovacuum_vacuum_insert_threshold=100000",
    "autovacuum_freeze_min_age=0",
]
TABLES = (
    "SELECT relid::regclass::text, reloptions"
    " FROM (SELECT relid FROM pg_partition_tree('events') WHERE isleaf"
    " UNION SELECT relid FROM pg_partition_tree('event_details') WHERE isleaf"
    " UNION SELECT 'batches'::regclass) AS t JOIN pg_class ON oid = relid"
)


def test_tables_of_events_are_vacuumed_early(database: TestDatabase) -> None:
    with psycopg.connect(database.owner_dsn("ingest")) as owner:
        (last,) = owner.execute(
            "SELECT max(relid::regclass::text) FROM pg_partition_tree('events')"
            " WHERE relid::regclass::text ~ '[0-9]{6}$'"
        ).fetchone() or ("",)
        owner.execute(f"DROP TABLE {last}")
        made = [name for (name,) in owner.execute("SELECT made FROM make_event_months()").fetchall()]
        assert made == [last]
        settings: dict[str, list[str]] = dict(owner.execute(TABLES).fetchall())
        owner.rollback()
    assert {"batches", "events_rest", "event_details_rest", last} <= set(settings)
    assert set(map(tuple, settings.values())) == {tuple(SETTINGS)}
