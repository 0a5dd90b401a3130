"""Which requirement is proven by which tests: ids of docs/requirements.md against `req` marks in tests/.

Run by `make requirements`, which prints a table; `tests/architecture` holds the marks to the ids.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_ENTRY = re.compile(r"^- \*\*([A-Z]\d+(?:\.\d+)?)\*\* (.+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Mark:
    """One test, or a whole class or module, that proves `requirement`. `test` is empty for a module."""

    requirement: str
    file: Path
    test: str


def requirements() -> dict[str, str]:
    """The text of every requirement by id, in the document's order."""
    text = (ROOT / "docs" / "requirements.md").read_text(encoding="utf-8")
    return {match[1]: match[2] for match in _ENTRY.finditer(text)}


def files_of_tests() -> list[Path]:
    return sorted((ROOT / "tests").rglob("test_*.py"))


def marks(file: Path) -> Iterator[Mark]:
    """Every `pytest.mark.req(...)` of a file: decorators, and `pytestmark` of modules and classes."""
    tree = ast.parse(file.read_text(encoding="utf-8"), str(file))
    yield from _marks_in(tree.body, file, "")


def _marks_in(body: list[ast.stmt], file: Path, owner: str) -> Iterator[Mark]:
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            name = f"{owner}::{node.name}" if owner else node.name
            for decorator in node.decorator_list:
                yield from (Mark(id_, file, name) for id_ in _ids(decorator))
            if isinstance(node, ast.ClassDef):
                yield from _marks_in(node.body, file, name)
        elif isinstance(node, ast.Assign) and any(
            isinstance(target, ast.Name) and target.id == "pytestmark" for target in node.targets
        ):
            yield from (Mark(id_, file, owner) for id_ in _ids(node.value))


def _ids(node: ast.expr) -> Iterator[str]:
    """The ids in every `....req("id", ...)` below `node`."""
    for call in ast.walk(node):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "req":
            for argument in call.args:
                if isinstance(argument, ast.Constant):
                    yield str(argument.value)


def main() -> None:
    by_id: dict[str, list[Mark]] = {id_: [] for id_ in requirements()}
    for file in files_of_tests():
        for mark in marks(file):
            by_id.setdefault(mark.requirement, []).append(mark)
    for id_, found in by_id.items():
        files = sorted({str(mark.file.relative_to(ROOT / "tests")) for mark in found})
        more = f" and {len(files) - 3} more" if len(files) > 3 else ""
        print(f"{id_:6}{len(found) or '-':>4}  {', '.join(files[:3])}{more}")
    proven = sum(bool(found) for found in by_id.values())
    print(f"\n{proven} of {len(by_id)} requirements are named by tests")


if __name__ == "__main__":
    main()
