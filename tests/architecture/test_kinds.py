"""Meter kinds are known by name in one package; everything else knows slots.

A branch on a kind outside of it would have to be found and mended for each kind that comes.
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
# Translate numbers of protobuf and of rows; they compare none.
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
    """Modules of aggregate that are not of `kinds`."""
    return [path for path in sources(name_of(PACKAGE)) if PACKAGE / "kinds" not in path.parents]


def branches(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, what) of everything that tells kinds apart."""
    for node in ast.walk(tree):
        match node:
            case ast.ImportFrom(module=str(module)) if _KIND_MODULES.match(module):
                yield node.lineno, f"imports {module}"
            case ast.Attribute(value=ast.Name(id="Aggregation")):
                yield node.lineno, f"names Aggregation.{node.attr}"
            case ast.Compare(comparators=[ast.Constant(value=None)]):
                pass  # whether it is known at all
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
def test_no_module_outside_kinds_tells_kinds_apart(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert list(branches(tree)) == []
    if path not in TRANSLATORS:
        assert "Aggregation" not in {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*/*.sql")), ids=name_of)
def test_no_statement_tells_kinds_apart(path: Path) -> None:
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
def test_the_rule_can_tell(planted: str, caught: bool) -> None:
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
def test_the_rule_can_tell_in_sql(planted: str, caught: bool) -> None:
    assert (_SQL_BRANCH.search(planted) is not None) is caught


def test_every_kind_has_its_row() -> None:
    assert set(KINDS) == set(Aggregation)
    assert all(number == kind.aggregation for number, kind in KINDS.items())
    assert {kind.measured for kind in KINDS.values()} <= set(Measured)


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.aggregation.name)
def test_a_kind_is_n_and_at_most_one_slot_more(kind: Kind) -> None:
    assert kind.slots[0] is EVENTS
    assert kind.slots in ((EVENTS,), (EVENTS, kind.slot))


def test_every_slot_stands_at_its_code() -> None:
    assert [slot.code for slot in SLOTS] == list(range(len(SLOTS)))
    assert {slot for kind in KINDS.values() for slot in kind.slots} == set(SLOTS)
