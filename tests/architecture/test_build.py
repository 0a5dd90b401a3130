"""Every make target has a description, and CI runs existing targets."""

from __future__ import annotations

import re

import pytest

from tests.architecture.tree import ROOT, packages

_PHONY = re.compile(r"^\.PHONY: (\S+)$", re.MULTILINE)
_EXPLAINED = re.compile(r"^([a-z-]+):.*## (.+)$", re.MULTILINE)


def targets() -> dict[str, str]:
    return {match[1]: match[2] for match in _EXPLAINED.finditer((ROOT / "Makefile").read_text())}


def test_every_make_target_has_a_description() -> None:
    assert set(_PHONY.findall((ROOT / "Makefile").read_text())) == set(targets())


@pytest.mark.req("X4")
@pytest.mark.parametrize("target", ["install", "run", "test", "fault", "bench", "check"])
def test_main_make_targets_exist(target: str) -> None:
    assert target in targets()


def test_ci_runs_existing_make_targets() -> None:
    stages = re.search(r"^stages=\(([^)]*)\)", (ROOT / ".ci/run").read_text(), re.MULTILINE)
    assert stages
    assert set(stages[1].split()) <= set(targets())
    assert {"lint", "types", "imports", "protos-check", "migrations-check", "test"} <= set(stages[1].split())


def test_every_package_is_installed() -> None:
    makefile = (ROOT / "Makefile").read_text().replace("\\\n", " ")
    parts = re.search(r"^PARTS := (.+)$", makefile, re.MULTILINE)
    assert parts
    folders = {str(folder.parent.relative_to(ROOT)) for folder in packages().values()}
    assert set(parts[1].split()) == folders


def test_every_package_is_under_the_import_rules() -> None:
    rules = (ROOT / ".importlinter").read_text()
    roots = re.search(r"^root_packages\s*=\n((?:\s+\S+\n)+)", rules, re.MULTILINE)
    assert roots
    assert set(roots[1].split()) == set(packages())
