"""Tests are marked with existing requirements."""

from __future__ import annotations

from tests.architecture.tree import name_of
from tools.requirement_coverage import files_of_tests, marks, requirements


def test_every_mark_names_an_existing_requirement() -> None:
    known = requirements()
    assert len(known) > 50
    unknown = [
        f"{name_of(file)}: {mark.requirement}"
        for file in files_of_tests()
        for mark in marks(file)
        if mark.requirement not in known
    ]
    assert unknown == []


def test_every_test_file_has_a_requirement() -> None:
    """Except architecture tests, which also check rules of the tree that are no requirements."""
    silent = [
        name_of(file)
        for file in files_of_tests()
        if file.parent.name != "architecture" and not any(marks(file))
    ]
    assert silent == []
