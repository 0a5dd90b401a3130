"""Tests say which requirement they prove, and only requirements that there are."""

from __future__ import annotations

from tests.architecture.tree import name_of
from tools.requirement_coverage import files_of_tests, marks, requirements


def test_every_mark_names_a_requirement() -> None:
    known = requirements()
    assert len(known) > 50
    unknown = [
        f"{name_of(file)}: {mark.requirement}"
        for file in files_of_tests()
        for mark in marks(file)
        if mark.requirement not in known
    ]
    assert unknown == []


def test_every_file_of_tests_proves_a_requirement() -> None:
    """Architecture tests prove rules of the tree as well, which are nobody's requirement."""
    silent = [
        name_of(file)
        for file in files_of_tests()
        if file.parent.name != "architecture" and not any(marks(file))
    ]
    assert silent == []
