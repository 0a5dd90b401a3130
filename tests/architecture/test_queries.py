"""SQL is only in .sql files; every query is used, and filters by tenant or states why not."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.architecture.tree import ROOT, SERVICES, calls, name_of, names, service_package, sources

pytestmark = pytest.mark.req("T4.1")

_NAME = re.compile(r"^-- name: (\w+)\s*$", re.MULTILINE)
_REASON = re.compile(r"^-- tenant: \S.*$", re.MULTILINE)
_COMMENT = re.compile(r"--.*$", re.MULTILINE)


def query_files() -> list[Path]:
    files = [path for part in ("libs", "services") for path in (ROOT / part).rglob("*.sql")]
    return sorted(
        path for path in files if path.parent.name != "migrations" and _NAME.search(path.read_text())
    )


def queries(text: str) -> dict[str, str]:
    _, *parts = _NAME.split(text)
    return dict(zip(parts[::2], parts[1::2], strict=True))


def keeps_to_its_tenant(query: str) -> bool:
    statement = _COMMENT.sub("", query)
    return bool(re.search(r"\btenant_id\b", statement) or _REASON.search(query))


def test_every_query_filters_by_tenant_or_states_why_not() -> None:
    files = query_files()
    assert files
    offenders = [
        f"{name_of(path)}: {name}"
        for path in files
        for name, body in queries(path.read_text()).items()
        if not keeps_to_its_tenant(body)
    ]
    assert offenders == []


@pytest.mark.parametrize(
    ("query", "kept"),
    [
        ("SELECT 1 FROM events WHERE tenant_id = %s", True),
        ("-- tenant: counts every tenant's rows\nSELECT count(*) FROM events", True),
        ("SELECT 1 FROM events", False),
        ("-- tenant:\nSELECT 1 FROM events", False),
        ("-- tenant_id is not needed\nSELECT 1 FROM events", False),
        ("SELECT subtenant_id FROM events", False),
    ],
)
def test_rule_finds_queries_without_a_tenant(query: str, kept: bool) -> None:
    assert keeps_to_its_tenant(query) is kept


def test_every_query_is_used() -> None:
    """A service uses its own queries; libs and services use those of libs."""
    anywhere = {name for file in sources("libs", "services") for name in names(file)}
    unused = []
    for path in query_files():
        of_libs = path.is_relative_to(ROOT / "libs")
        mentioned = (
            anywhere if of_libs else {name for file in path.parent.rglob("*.py") for name in names(file)}
        )
        unused += [f"{name_of(path)}: {name}" for name in queries(path.read_text()) if name not in mentioned]
    assert unused == []


def test_services_write_no_sql_in_python() -> None:
    """The rules above do not see SQL statements in Python."""
    offenders = [
        f"{name_of(path)}:{call.lineno}"
        for service in SERVICES
        for path in sources(name_of(service_package(service)))
        for function in ("execute", "executemany", "fetch", "copy", "stream")
        for call in calls(path, function)
        if call.args and isinstance(call.args[0], ast.Constant | ast.JoinedStr)
    ]
    assert offenders == []
