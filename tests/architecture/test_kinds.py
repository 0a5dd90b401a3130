"""Only the package `kinds` distinguishes meter kinds; all other code works with slots.

A branch on a kind elsewhere would need a change for each new kind.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from meterline_aggregate.kinds.kind import Aggregation, Kind, Measured
from meterline_aggregate.kinds.slots.events import EVENTS
from meterline_aggregate.kinds.slots.table import SLOTS
from meterline_aggregate.kinds.table import KINDS

from tests.architecture.tree import identifier, name_of, service_package, sources

pytestmark = pytest.mark.req("T2.2", "K6")

PACKAGE = service_package("aggregate")
# These translate kind numbers of protobuf and of rows; they compare none.
TRANSLATORS = {
    PACKAGE / "meters/messages.py",
    PACKAGE / "meters/rules/definitions.py",
}
_KIND_MODULES = re.compile(r"meterline_aggregate\.kinds\.(?!kind$|table$|slots\b|grouping$)")
_COMPARED = {"aggregation", "aggregations", "kind"}
_SQL_BRANCH = re.compile(
    r"\baggregation\b\s*(?:=(?!\s*ANY\b)|<>|<|>|!=|IN\b|WHEN\b|BETWEEN\b|IS\b)|\bCASE\s+\S*aggregation\b",
    re.I,
)


def elsewhere() -> list[Path]:
    """Modules of aggregate outside `kinds`."""
    return [path for path in sources(name_of(PACKAGE)) if PACKAGE / "kinds" not in path.parents]


def branches(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, description) of every expression that distinguishes kinds."""
    for node in ast.walk(tree):
        match node:
            case ast.ImportFrom(module=str(module)) if _KIND_MODULES.match(module):
                yield node.lineno, f"imports {module}"
            case ast.Attribute(value=ast.Name(id="Aggregation")):
                yield node.lineno, f"names Aggregation.{node.attr}"
            case ast.Compare(comparators=[ast.Constant(value=None)]):
                pass  # checks only whether the kind is known
            case ast.Compare():
                if any(identifier(side) in _COMPARED for side in [node.left, *node.comparators]):
                    yield node.lineno, "compares a kind"
            case ast.Match(subject=subject) if identifier(subject) in _COMPARED:
                yield node.lineno, "matches a kind"
            case ast.Subscript(value=ast.Dict() | ast.Name(), slice=key) if (
                identifier(key) in _COMPARED and identifier(node.value) != "KINDS"
            ):
                yield node.lineno, "looks a kind up"


@pytest.mark.parametrize("path", elsewhere(), ids=name_of)
def test_no_module_outside_kinds_branches_on_a_kind(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert list(branches(tree)) == []
    if path not in TRANSLATORS:
        assert "Aggregation" not in {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*/*.sql")), ids=name_of)
def test_no_sql_statement_branches_on_a_kind(path: Path) -> None:
    if path.parent.name != "migrations":
        text = re.sub(r"--.*$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
        assert _SQL_BRANCH.search(text) is None


@pytest.mark.parametrize(
    ("planted", "caught"),
    [
        ("if meter.aggregation is SUM: pass", True),
        ("found = [x for x in y if target.kind == other]", True),
        ("match meter.aggregation:\n    case 3: pass", True),
        ("if self in (Aggregation.SUM, Aggregation.MAX): pass", True),
        ("from meterline_aggregate.kinds.max import MAX", True),
        ("value = {1: first, 2: second}[aggregation]", True),
        ("if meter.kind.slot.has_members: pass", False),
        ("if kind is None: pass", False),
        ("value = KINDS[aggregation].shown(state)", False),
        ("from meterline_aggregate.kinds.slots.members import MEMBERS", False),
    ],
)
def test_rule_finds_branches_on_a_kind(planted: str, caught: bool) -> None:
    assert bool(list(branches(ast.parse(planted)))) is caught


@pytest.mark.parametrize(
    ("planted", "caught"),
    [
        ("SELECT coalesce(w.value, CASE m.aggregation WHEN 1 THEN w.event_count ELSE 0 END)", True),
        ("SELECT 1 FROM meters WHERE aggregation = 3", True),
        ("SELECT 1 FROM meters m WHERE m.aggregation IN (3, 4)", True),
        ("SELECT 1 FROM meters m WHERE m.aggregation = ANY(%(known)s)", False),
        ("SELECT m.aggregation, w.value FROM meters m", False),
    ],
)
def test_rule_finds_branches_on_a_kind_in_sql(planted: str, caught: bool) -> None:
    assert (_SQL_BRANCH.search(planted) is not None) is caught


def test_every_kind_is_in_the_table() -> None:
    assert set(KINDS) == set(Aggregation)
    assert all(number == kind.aggregation for number, kind in KINDS.items())
    assert {kind.measured for kind in KINDS.values()} <= set(Measured)


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.aggregation.name)
def test_kind_has_the_event_count_and_at_most_one_other_slot(kind: Kind) -> None:
    assert kind.slots[0] is EVENTS
    assert kind.slots in ((EVENTS,), (EVENTS, kind.slot))


def test_slot_index_equals_its_code() -> None:
    assert [slot.code for slot in SLOTS] == list(range(len(SLOTS)))
    assert {slot for kind in KINDS.values() for slot in kind.slots} == set(SLOTS)
