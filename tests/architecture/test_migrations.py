"""Migrations: numbered without holes, and never edited once they were released."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from meterline import migrate

from tests.architecture.tree import ROOT, SERVICES, name_of, packages

pytestmark = pytest.mark.req("K3")


def folders() -> dict[str, Path]:
    """Folders of migrations by the package that holds them."""
    found = [path for base in packages().values() for path in base.rglob("migrations") if path.is_dir()]
    roots = packages()
    return {
        ".".join((base, *path.parent.relative_to(roots[base]).parts)): path
        for path in found
        for base in roots
        if roots[base] in path.parents
    }


def last_release() -> str | None:
    """The latest version tag, if this is a clone that has one."""
    command = ["git", "describe", "--tags", "--abbrev=0", "--match", "v*"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def test_numbers_have_no_holes() -> None:
    found = folders()
    assert {"meterline.db", "meterline.tenants"} <= set(found)
    for package, folder in found.items():
        loaded = migrate.load(package)
        files = [entry for entry in folder.iterdir() if entry.name not in ("__init__.py", "__pycache__")]
        assert len(loaded) == len(files), f"{name_of(folder)} holds something else than migrations"


@pytest.mark.parametrize("service", SERVICES)
def test_every_service_has_migrations(service: str) -> None:
    assert migrate.load(f"meterline_{service}")


def test_every_folder_of_migrations_is_applied_by_a_service() -> None:
    applied = {package for service in SERVICES for package in migrate.packages(service)}
    assert set(folders()) == applied


def test_released_migrations_are_as_they_were() -> None:
    tag = last_release()
    if tag is None:
        pytest.skip("nothing has been released")
    changed = subprocess.run(
        ["git", "diff", "--name-only", "--diff-filter=MDRT", tag, "--", "*/migrations/*.sql"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert changed.stdout.split() == []
