"""Documents: links, paths and commands are valid, and decision records have one form."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.architecture.test_build import targets
from tests.architecture.tree import ROOT, name_of

_LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
_TARGET = re.compile(r"(?:`|^|\$ )make ([a-z-]+)", re.MULTILINE)
_CODE = re.compile(r"`(?:meterline_\w+|libs|services|tests|tools|docs|protos)/[\w./-]+`")
SECTIONS = ("Context", "Decision", "Consequences", "Alternatives considered")


def documents() -> list[Path]:
    parts = [path for part in ("docs", "libs", "services", "tests") for path in (ROOT / part).rglob("*.md")]
    return sorted([*ROOT.glob("*.md"), *parts])


def decisions() -> list[Path]:
    return sorted((ROOT / "docs" / "adr").glob("[0-9]*.md"))


def test_links_have_existing_targets() -> None:
    broken = [
        f"{name_of(path)}: {link}"
        for path in documents()
        for link in _LINK.findall(path.read_text(encoding="utf-8"))
        if "://" not in link and not (path.parent / link).exists()
    ]
    assert broken == []


def test_paths_in_documents_exist() -> None:
    broken = [
        f"{name_of(path)}: {quoted}"
        for path in documents()
        for quoted in _CODE.findall(path.read_text(encoding="utf-8"))
        if not (ROOT / quoted.strip("`")).exists()
    ]
    assert broken == []


def test_commands_in_documents_exist() -> None:
    unknown = {
        f"{name_of(path)}: make {target}"
        for path in documents()
        for target in _TARGET.findall(path.read_text(encoding="utf-8"))
        if target not in targets()
    }
    assert unknown == set()


def test_decisions_are_numbered_and_listed() -> None:
    index = (ROOT / "docs" / "adr" / "README.md").read_text(encoding="utf-8")
    numbers = [int(path.name[:4]) for path in decisions()]
    assert numbers == list(range(1, len(numbers) + 1))
    assert [path.name for path in decisions() if f"({path.name})" not in index] == []


@pytest.mark.parametrize("path", decisions(), ids=lambda path: str(path.stem))
def test_decision_has_context_and_alternatives(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.startswith(f"# {int(path.name[:4])}. ")
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == list(SECTIONS)
