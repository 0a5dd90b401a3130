"""No source contains unfinished work, sleeps in tests, oversized files, or paths of one machine."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.architecture.tree import GENERATED, ROOT, calls, name_of, parsed, sources

MAX_LINES = 400
MAX_FUNCTION_LINES = 60
# Polls other processes with a deadline, where no signal can be awaited.
POLL_HELPER = ROOT / "tests" / "support" / "polling.py"

# The words are assembled from parts, so that this file does not contain them.
UNFINISHED = re.compile(
    rf"\b({'TO'}{'DO'}|{'FIX'}{'ME'})\b|NotImpl{'emented'}|(#|--|//).*\b({'X' * 3}|HA{'CK'})\b"
)
MACHINE = re.compile(r"(?<![\w.*}-])/(work|root|home|Users)/\w")
REGISTRY = re.compile(
    r"pypi\.|pythonhosted|ghcr\.io|quay\.io|docker\.io|gcr\.io|artifactory|nexus|jfrog|npmjs|registry\.\w+\.(io|com|org|net)"
)
BINARY = {".gz", ".png", ".ico", ".pyc", ".woff2"}
SKIPPED = {".git", ".venv", ".venv-codegen", ".meterline", ".hypothesis", "__pycache__", "dist", "build"}


def texts() -> Iterator[tuple[Path, str]]:
    """Every handwritten text file: those that git lists, or all files outside a clone."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        paths = [ROOT / name for name in done.stdout.split("\0") if name]
    else:
        paths = [path for path in ROOT.rglob("*") if not SKIPPED & set(path.relative_to(ROOT).parts)]
    for path in sorted(set(paths)):
        if path.is_file() and path.suffix not in BINARY and GENERATED not in path.parents:
            yield path, path.read_text(encoding="utf-8")


def lines_with(pattern: re.Pattern[str]) -> list[str]:
    return [
        f"{name_of(path)}:{number}: {line.strip()[:100]}"
        for path, text in texts()
        if path != Path(__file__) and pattern.search(text)
        for number, line in enumerate(text.splitlines(), 1)
        if pattern.search(line)
    ]


def sleeps(path: Path) -> Iterator[str]:
    """Calls of sleep() that wait; sleep(0) only yields."""
    for call in calls(path, "sleep"):
        if not (call.args and isinstance(call.args[0], ast.Constant) and call.args[0].value == 0):
            yield f"{name_of(path)}:{call.lineno}"


def test_sources_have_no_unfinished_work() -> None:
    assert lines_with(UNFINISHED) == []


def test_sources_name_no_local_path() -> None:
    assert lines_with(MACHINE) == []


def test_sources_name_no_package_registry() -> None:
    assert lines_with(REGISTRY) == []


@pytest.mark.parametrize(
    ("pattern", "text", "found"),
    [
        (UNFINISHED, "x = 1  # TO" + "DO: later", True),
        (UNFINISHED, "raise NotImpl" + "ementedError", True),
        (UNFINISHED, "y = 2  # HA" + "CK", True),
        (UNFINISHED, "mastodons, hacksaws and the currency " + "X" * 3, False),
        (MACHINE, "open('/ho" + "me/ann/data')", True),
        (MACHINE, "the /wo" + "rk of others; a/ro" + "ot/b; {place}/ho" + "me/x", False),
        (REGISTRY, "pull ghcr.io" + "/ann/image", True),
        (REGISTRY, "the registry of meters", False),
    ],
)
def test_patterns_find_planted_lines(pattern: re.Pattern[str], text: str, found: bool) -> None:
    assert bool(pattern.search(text)) is found


def test_files_are_within_the_length_limit() -> None:
    lengths = {
        name_of(path): len(path.read_text().splitlines())
        for path in sources("libs", "services", "tools", "tests")
    }
    assert {name: lines for name, lines in lengths.items() if lines > MAX_LINES} == {}


def test_functions_are_within_the_length_limit() -> None:
    too_long = [
        f"{name_of(path)}:{node.lineno} {node.name}"
        for path in sources("libs", "services", "tools", "tests")
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or node.lineno) - node.lineno >= MAX_FUNCTION_LINES
    ]
    assert too_long == []


def test_tests_never_sleep() -> None:
    found = [place for path in sources("tests") if path != POLL_HELPER for place in sleeps(path)]
    assert found == []


def test_sleep_in_a_test_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.architecture.tree.ROOT", tmp_path)
    sample = tmp_path / "sample.py"
    sample.write_text(
        "import asyncio\n\nasync def f(n):\n    await asyncio.sleep(0)\n    await asyncio.sleep(n)\n"
    )
    assert [place.rpartition(":")[2] for place in sleeps(sample)] == ["5"]
