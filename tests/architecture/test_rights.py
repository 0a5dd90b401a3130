"""Application roles have the rights that the services' statements need, and no others."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from meterline import migrate

from tests.architecture.test_queries import queries
from tests.architecture.tree import ROOT, SERVICES, service_package
from tests.support import rights

pytestmark = pytest.mark.req("T4.1")

LIBRARY = ROOT / "libs" / "runtime" / "meterline"


def statements(service: str) -> Iterator[str]:
    """The named queries that the service runs, its own and those of the runtime."""
    of_library = [path for path in LIBRARY.rglob("*.sql") if path.parent.name != "migrations"]
    if service == "identity":
        of_library.remove(LIBRARY / "tenants/replica.sql")  # it owns the tenants, and has no replica
    own = [path for path in service_package(service).rglob("*.sql") if path.parent.name != "migrations"]
    for path in (*of_library, *own):
        for text in queries(path.read_text()).values():
            # Capture appends to partitions by their names.
            yield text.replace("COPY {partition}", "INSERT INTO events_*")
    yield from triggers(service)


def triggers(service: str) -> Iterator[str]:
    """Bodies of functions that run with the rights of whoever calls them."""
    for migration in migrate.for_service(service):
        for head, body in re.findall(
            r"CREATE (?:OR REPLACE )?FUNCTION(.*?)AS \$\$(.*?)\$\$", migration.body, re.DOTALL
        ):
            if "SECURITY DEFINER" not in head and "regclass" not in head:
                yield body


@pytest.mark.parametrize("service", SERVICES)
def test_what_is_granted_is_what_statements_need(service: str) -> None:
    stated = rights.stated(service)
    texts = [text.replace("events_*", "events_partition") for text in statements(service)]
    needed = rights.needed(texts, stated)
    if "events_partition" in needed:
        needed["events_*"] = needed.pop("events_partition")
    assert {name: sorted(needed.get(name, ())) for name in stated} == {
        name: sorted(granted) for name, granted in stated.items()
    }
    assert needed.keys() <= stated.keys()


@pytest.mark.parametrize(
    ("statement", "needs"),
    [
        ("INSERT INTO t (a) VALUES (1) ON CONFLICT DO NOTHING", "INSERT"),
        ("INSERT INTO t (a) VALUES (1) ON CONFLICT (a) DO NOTHING", "SELECT, INSERT"),
        ("INSERT INTO t (a) VALUES (1) RETURNING a", "SELECT, INSERT"),
        (
            "INSERT INTO t AS x (a) SELECT 1 ON CONFLICT (a) DO UPDATE SET b = greatest(x.b, 1), c = 2",
            "SELECT, INSERT, UPDATE (b, c)",
        ),
        ("UPDATE t AS x SET a = (SELECT max(b) FROM t), b = 2 FROM u WHERE true", "SELECT, UPDATE (a, b)"),
        (
            "INSERT INTO t (a) VALUES (1) ON CONFLICT (a) DO UPDATE SET b = 1; DELETE FROM u",
            "SELECT, INSERT, UPDATE (b)",
        ),
        ("WITH w AS (UPDATE t SET a = 1) SELECT 1", "SELECT, UPDATE (a)"),
        ("DELETE FROM t USING u WHERE true", "SELECT, DELETE"),
        ("SELECT FROM u JOIN t ON true FOR UPDATE -- DELETE FROM t", "SELECT"),
        ("SELECT 'DELETE FROM t' FROM t FOR NO KEY UPDATE", "SELECT"),
    ],
)
def test_what_a_statement_needs_is_read_from_its_words(statement: str, needs: str) -> None:
    assert rights.needed([statement], ["t", "u"])["t"] == rights.parsed(needs)


def test_a_right_that_no_statement_uses_is_noticed() -> None:
    """The planted fault: a table that is granted more than it needs, and one that is granted less."""
    needed = rights.needed(["INSERT INTO t (a) VALUES (1)"], ["t"])["t"]
    assert needed != rights.parsed("SELECT, INSERT")
    assert rights.needed(["DELETE FROM t WHERE true"], ["t"])["t"] != rights.parsed("SELECT")
