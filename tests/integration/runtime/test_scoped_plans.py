"""With row-level security, statements use the same indexes, and evaluate the tenant scope once."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, LiteralString

import psycopg
import pytest
from meterline import migrate
from meterline.db.queries import Queries
from meterline.db.scope import ALL_TENANTS

from tests.support.databases import Databases, TestDatabase

pytestmark = pytest.mark.req("T4.1")

NOVEMBER, DECEMBER = "2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z"

ROWS: Final[Mapping[str, Sequence[LiteralString]]] = {
    "aggregate": (
        "INSERT INTO tenants SELECT t, 't' || t, 1, 'UTC', 'USD', 'p', 'c', 's', true, '1 hour', now()"
        " FROM generate_series(1, 50) t",
        "INSERT INTO meters (name, event_type, aggregation, quantity, unique_dimension, group_by, filter)"
        " VALUES ('calls', 'call', 1, '', '', '{}', '{}')",
        "INSERT INTO windows SELECT t, 1, '2026-11-01'::timestamptz + h * interval '1 hour', 0, 1, 1, 2, NULL"
        " FROM generate_series(1, 50) t, generate_series(0, 719) h",
        "INSERT INTO contributions SELECT t, 1, '2026-11-01'::timestamptz + h * interval '1 hour',"
        " ('00000000-0000-7000-8000-' || lpad(to_hex(t * 1000 + h), 12, '0'))::uuid, 1, NULL"
        " FROM generate_series(1, 50) t, generate_series(0, 719) h",
        "INSERT INTO changed_months SELECT t, 1, '2020-01-01'::timestamptz + n * interval '1 month', ''"
        " FROM generate_series(1, 50) t, generate_series(1, 80) n",
        "INSERT INTO pending_rebuilds SELECT t, 1, '2020-01-01'::timestamptz + n * interval '1 month'"
        " FROM generate_series(1, 50) t, generate_series(1, 80) n",
        "INSERT INTO tenant_totals SELECT t, 720 FROM generate_series(1, 5000) t",
    ),
    "publisher": (
        "INSERT INTO publications OVERRIDING SYSTEM VALUE SELECT t, 'i' || t || '-' || n, t * 1000 + n,"
        " gen_random_uuid(),"
        " gen_random_uuid(), 'calls', '2026-11-01', '2026-12-01', n, 1, 'e', 'c', '2026-11-01', 0, 'sent'"
        ", 1, NULL, now(), now(), '', ''"
        " FROM generate_series(1, 50) t, generate_series(1, 400) n",
        "INSERT INTO invoices SELECT t, gen_random_uuid(), 'p', 'USD',"
        " '2000-01-01'::timestamptz + n * interval '1 month', '2026-12-01', 'finalized', 1, 1,"
        " gen_random_uuid(), '', NULL, '' FROM generate_series(1, 50) t, generate_series(1, 200) n",
        "INSERT INTO usage SELECT t, '2000-01-01'::timestamptz + n * interval '1 month', 'calls', now(), 1,"
        " 1, 1, 'sum', '' FROM generate_series(1, 50) t, generate_series(1, 200) n",
    ),
}

SLICE: Final = {"tenant_id": 7, "meter_id": 1, "start": NOVEMBER, "end": DECEMBER, "limit": 10}
READS: Final = [
    ("aggregate.usage.store.windows", "totals_of_windows", {**SLICE, "grain": 2, "after": NOVEMBER}),
    (
        "aggregate.usage.store.windows",
        "contributions_of_meter",
        {**SLICE, "after": NOVEMBER, "after_batch": "0" * 32},
    ),
    (
        "aggregate.usage.store.windows",
        "contributions_of_batch",
        {"tenant_id": 7, "batch_id": "0" * 32, "known": [1, 2, 3, 4]},
    ),
    ("aggregate.reconciliation.store", "total_of_tenant", [7]),
    ("publisher.invoices.store", "by_period", [7, NOVEMBER]),
    ("publisher.invoices.store", "page", [7, NOVEMBER, 10]),
    ("publisher.ledger.store", "page", [7, 10_000, 10]),
    ("publisher.ledger.store", "of_period", [7, NOVEMBER]),
    ("publisher.usage.store", "of_period", [7, NOVEMBER]),
]
KEYS: Final = ([2], [7], [1], [NOVEMBER], [0], [1], [1])
HOT: Final = [
    ("aggregate.folding.store.windows", "merge_windows", KEYS),
    ("aggregate.folding.store.windows", "add_contributions", ([7], [1], [DECEMBER], ["1" * 32], [1], [1])),
    ("aggregate.folding.store.windows", "add_totals", ([7], [1])),
    ("aggregate.folding.store.windows", "mark_months", ([7], [1], [NOVEMBER], [""])),
]


def queries_of(name: str) -> Queries:
    package, _, file = name.rpartition(".")
    return Queries(f"meterline_{package}", f"{file}.sql")


@pytest.fixture(scope="module")
def plan(databases: Databases) -> Iterator[Callable[..., list[dict[str, Any]]]]:
    """A function `(queries, name, parameters, scope) -> nodes` of the executed plan, on filled tables.

    What a statement changes is rolled back.
    """
    filled: dict[str, TestDatabase] = {}

    def fill(service: str) -> TestDatabase:
        database = databases.create([(service, migrate.packages(service))])
        with psycopg.connect(database.admin_dsn, options=f"-c search_path={service}") as admin:
            for statement in ROWS[service]:
                admin.execute(statement)
        with psycopg.connect(database.admin_dsn, autocommit=True) as admin:
            admin.execute("ANALYZE")
        return database

    def run(name: str, query: str, parameters: Any, scope: str) -> list[dict[str, Any]]:
        service = name.partition(".")[0]
        if service not in filled:
            filled[service] = fill(service)
        options = f"-c meterline.tenant_ids={scope}"
        with psycopg.connect(
            filled[service].app_dsn(service), options=options, cursor_factory=psycopg.ClientCursor
        ) as app:
            # Merging of slots does not change the index that finds the rows.
            text = getattr(queries_of(name), query).replace("{merge}", "w.value + excluded.value")
            row = app.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {text}".encode(), parameters).fetchone()
            app.rollback()
        assert row is not None
        return list(nodes(row[0][0]["Plan"]))

    yield run
    for database in filled.values():
        databases.release(database)


def nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for below in node.get("Plans", ()):
        yield from nodes(below)


def scope_evaluated_once(found: Sequence[dict[str, Any]]) -> bool:
    """Whether a statement evaluates the policies' scope once for any number of rows."""
    scopes = [node for node in found if node.get("Parent Relationship") == "InitPlan"]
    return bool(scopes) and all(node["Actual Loops"] <= 1 for node in scopes)


@pytest.mark.parametrize(("name", "query", "parameters"), READS, ids=[f"{n}.{q}" for n, q, _ in READS])
def test_tenant_reads_use_the_key_index(
    plan: Callable[..., list[dict[str, Any]]], name: str, query: str, parameters: Any
) -> None:
    found = plan(name, query, parameters, "7")
    conditions = " ".join(node.get("Index Cond", "") for node in found)
    assert re.search(r"tenant_id = 7\b", conditions), found
    scanned = {node["Relation Name"] for node in found if node["Node Type"] == "Seq Scan"}
    assert scanned <= {"meters"}
    assert scope_evaluated_once(found)


@pytest.mark.parametrize(("name", "query", "parameters"), HOT, ids=[f"{n}.{q}" for n, q, _ in HOT])
def test_fold_statements_evaluate_scope_once(
    plan: Callable[..., list[dict[str, Any]]], name: str, query: str, parameters: Any
) -> None:
    assert scope_evaluated_once(plan(name, query, parameters, ALL_TENANTS))
