"""The number of blocks that a page of events reads, with the application's query plans."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from meterline_ingest.reading.store import queries

from tests.support.databases import TestDatabase

pytestmark = pytest.mark.req("S3")

NOW = datetime.now(UTC)
BEGINNING = datetime(1, 1, 1, tzinfo=UTC)

# 800 batches of 100 events, ten minutes apart. Every fourth belongs to tenant 1.
FILL = """
WITH made AS (
    INSERT INTO ingest.batches (
        batch_id, tenant_id, batch_number, source, event_count, received_at, sampled, message_id,
        first_at, last_at
    )
    SELECT gen_random_uuid(), 1 + (at %% 4 > 0)::int, at, 's', 100, begins, false, gen_random_uuid(),
           begins, begins + interval '50 seconds'
    FROM generate_series(1, 800) AS at,
         LATERAL (SELECT %s - interval '10 days' + at * interval '10 minutes' AS begins) b
    RETURNING tenant_id, batch_number, first_at
)
INSERT INTO ingest.events (event_id, batch_number, subject_id, occurred_at, tenant_id, series_id)
SELECT (lpad(to_hex((extract(epoch FROM first_at) * 1000)::bigint), 12, '0') || '7' || lpad(to_hex(e), 3, '0')
        || '8' || substr(md5(batch_number::text || e), 1, 15))::uuid,
       batch_number, 1, first_at + e * interval '0.5 seconds', tenant_id, 1
FROM made, generate_series(1, 100) e
ORDER BY batch_number
"""


@pytest.fixture
def filled(database: TestDatabase) -> Iterator[psycopg.Connection[Any]]:
    """A session like those of the application's pool, on a filled database."""
    with psycopg.connect(database.admin_dsn, autocommit=True) as admin:
        admin.execute(FILL, (NOW,))
        admin.execute("INSERT INTO ingest.subjects (tenant_id, subject, subject_id) VALUES (1, 'u', 1)")
        admin.execute(
            "INSERT INTO ingest.series (tenant_id, series_key, series_id, event_type, dimensions)"
            " VALUES (1, gen_random_uuid(), 1, 'api.request', '{}')"
        )
        admin.execute("VACUUM ANALYZE ingest.events")
        admin.execute("VACUUM ANALYZE ingest.batches")
    options = "-c plan_cache_mode=force_generic_plan -c meterline.tenant_ids=1"
    with psycopg.connect(
        database.app_dsn("ingest"), options=options, autocommit=True, cursor_factory=psycopg.ClientCursor
    ) as connection:
        yield connection


def run(connection: psycopg.Connection[Any], query: str, **parameters: object) -> list[dict[str, Any]]:
    """Runs a query with its generic plan; returns all nodes of the plan."""
    names = list(dict.fromkeys(re.findall(r"%\((\w+)\)s", query)))
    numbered = re.sub(r"%\((\w+)\)s", lambda match: f"${names.index(match[1]) + 1}", query)
    connection.execute(f"PREPARE looked_at AS {numbered}")
    places = ", ".join(["%s"] * len(names))
    row = connection.execute(
        f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE looked_at ({places})",
        [parameters[name] for name in names],
    ).fetchone()
    connection.execute("DEALLOCATE looked_at")
    assert row is not None
    nodes: list[dict[str, Any]] = [row[0][0]["Plan"]]
    for node in nodes:
        nodes += node.get("Plans", [])
    return nodes


def blocks(node: dict[str, Any]) -> int:
    return int(node["Shared Hit Blocks"] + node["Shared Read Blocks"])


def read_whole(nodes: list[dict[str, Any]]) -> list[str]:
    """Tables that a plan scans sequentially, except for empty ones."""
    return [node["Relation Name"] for node in nodes if node["Node Type"] == "Seq Scan" and blocks(node)]


def spans(connection: psycopg.Connection[Any], **more: object) -> list[dict[str, Any]]:
    usual: dict[str, object] = {
        "tenant_id": 1,
        "start": NOW - timedelta(days=8),
        "end": NOW,
        "after_first": BEGINNING,
        "after_number": -1,
        "limit": 10,
    }
    return run(connection, queries.spans_of_time, **usual | more)


def test_batches_of_a_page_are_found_by_index(filled: psycopg.Connection[Any]) -> None:
    nodes = spans(filled)
    assert nodes[0]["Actual Rows"] == 10
    assert read_whole(nodes) == []
    (scan,) = [node for node in nodes if node.get("Index Name") == "batches_span"]
    assert "span_class" in scan["Index Cond"]
    assert blocks(nodes[0]) < 60


def test_later_group_of_batches_costs_no_more_blocks(filled: psycopg.Connection[Any]) -> None:
    after = NOW - timedelta(days=6)
    nodes = spans(filled, after_first=after, after_number=0)
    assert nodes[0]["Actual Rows"] == 10
    assert blocks(nodes[0]) < 60


def test_events_of_some_batches_are_read_without_other_batches(filled: psycopg.Connection[Any]) -> None:
    total = filled.execute("SELECT sum(relpages) FROM pg_class WHERE relname ~ '^events_[0-9]'").fetchone()
    nodes = run(
        filled,
        queries.events_of_batches,
        tenant_id=1,
        batch_numbers=[4 * at for at in range(1, 11)],
        # The current state would cost a lookup of corrections for each event.
        standing=False,
        after_time=BEGINNING,
        after_id="00000000-0000-0000-0000-000000000000",
        end=None,
        event_type=None,
        subject=None,
        dimensions=None,
        limit=101,
    )
    assert nodes[0]["Actual Rows"] == 101
    assert [name for name in read_whole(nodes) if name.startswith(("events", "batches"))] == []
    scans = [node for node in nodes if node["Node Type"] == "Bitmap Heap Scan"]
    # A block range is 32 blocks; a batch lies in one or two.
    assert sum(blocks(node) for node in scans) < 10 * 80
    assert total is not None
    assert total[0] > 800
    used = {node["Index Name"] for node in nodes if node["Node Type"] == "Bitmap Index Scan"}
    assert all("batch_number" in name for name in used), (
        "the primary key would be scanned for the whole tenant"
    )
