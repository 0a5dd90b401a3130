"""Reads the tree for architecture tests: its packages, sources and imports."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SERVICES = ("ingest", "identity", "aggregate", "publisher")
GENERATED = ROOT / "libs" / "protos" / "meterline_protos"


def service_package(service: str) -> Path:
    return ROOT / "services" / service / f"meterline_{service}"


def packages() -> dict[str, Path]:
    """The folder of every package of ours by name, including generated stubs."""
    folders = [
        path.parent for part in ("libs", "services") for path in (ROOT / part).glob("*/pyproject.toml")
    ]
    found = {
        path.parent.name: path.parent for folder in folders for path in folder.glob("meterline*/__init__.py")
    }
    return dict(sorted(found.items()))


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def sources(*folders: str) -> list[Path]:
    """Handwritten Python files below `folders`, without generated stubs."""
    return sorted(
        path for folder in folders for path in (ROOT / folder).rglob("*.py") if GENERATED not in path.parents
    )


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imported(path: Path) -> Iterator[str]:
    """Absolute names of the modules that a file imports."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module


def calls(path: Path, function: str) -> Iterator[ast.Call]:
    """Calls of `function` by its bare name or as an attribute."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Call) and called(node) == function:
            yield node


def called(call: ast.Call) -> str:
    """The last part of the called name: `sleep` of `asyncio.sleep(1)`."""
    return identifier(call.func)


def identifier(node: ast.AST) -> str:
    """The name of a name or attribute node; empty for every other node."""
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
    return ""


@cache
def names(path: Path) -> frozenset[str]:
    """Every identifier and attribute that a file mentions."""
    return frozenset(identifier(node) for node in ast.walk(parsed(path))) - {""}
