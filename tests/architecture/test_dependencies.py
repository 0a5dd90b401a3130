"""Every package declares its imports; declared dependencies are locked by hash, without an index address."""

from __future__ import annotations

import re
import sys
import tomllib
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.architecture.tree import GENERATED, ROOT, imported, name_of, packages

LOCKS = ("requirements", "requirements-codegen")
_PIN = re.compile(r"^([A-Za-z0-9._-]+)==(\S+)( ; [^\\]+?)?( \\)?$", re.MULTILINE)
# Namespaces that several distributions share; the next part of the name identifies the distribution.
_NAMESPACES = {"google.protobuf": "protobuf", "google.rpc": "googleapis-common-protos"}


def project(package: Path) -> dict[str, Any]:
    """The `[project]` table of the distribution that contains `package`."""
    table: dict[str, Any] = tomllib.loads((package.parent / "pyproject.toml").read_text())["project"]
    return table


def declared(package: Path) -> set[str]:
    """The declared dependencies of a package, its own name, and those of our packages that it depends on."""
    table = project(package)
    found: set[str] = {canonicalize_name(table["name"])}
    optional = [text for texts in table.get("optional-dependencies", {}).values() for text in texts]
    for requirement in map(Requirement, [*table["dependencies"], *optional]):
        name = canonicalize_name(requirement.name)
        # An extra of a distribution is usually a distribution with a longer name.
        found |= {name, *(f"{name}-{extra}" for extra in requirement.extras)}
        if ours := packages().get(name.replace("-", "_")):
            found |= declared(ours)
    return found


@cache
def distributions() -> dict[str, list[str]]:
    return {
        name: [canonicalize_name(dist) for dist in dists] for name, dists in packages_distributions().items()
    }


def suppliers(module: str) -> set[str]:
    """The distributions that may provide `module`; empty for the standard library."""
    for namespace, distribution in _NAMESPACES.items():
        if module.startswith(namespace):
            return {distribution}
    top = module.partition(".")[0]
    if top in packages():
        return {canonicalize_name(top)}
    return set() if top in sys.stdlib_module_names else set(distributions().get(top, [top]))


def pins(lock: str) -> dict[str, list[str]]:
    """Locked versions by name; several if they depend on the Python version."""
    found: dict[str, list[str]] = {}
    for match in _PIN.finditer((ROOT / f"{lock}.lock").read_text()):
        found.setdefault(canonicalize_name(match[1]), []).append(match[2])
    return found


def wanted(name: str) -> list[Requirement]:
    lines = (ROOT / f"{name}.in").read_text().splitlines()
    return [Requirement(line) for line in lines if line.strip() and not line.startswith("#")]


@pytest.mark.parametrize("name", sorted(packages()))
def test_package_declares_its_imports(name: str) -> None:
    package = packages()[name]
    known = declared(package)
    undeclared: dict[str, str] = {}
    for path in sorted(package.rglob("*.py")):
        for module in imported(path):
            found = suppliers(module)
            if found and not found & known:
                undeclared.setdefault(" or ".join(sorted(found)), name_of(path))
    assert undeclared == {}


@pytest.mark.parametrize("name", LOCKS)
def test_lock_satisfies_its_requirements(name: str) -> None:
    locked = pins(name)
    for requirement in wanted(name):
        versions = locked.get(canonicalize_name(requirement.name), [])
        assert versions, f"{requirement} is not locked: make lock"
        assert all(requirement.specifier.contains(version) for version in versions), requirement


def test_lock_satisfies_every_package() -> None:
    locked = pins("requirements")
    asked_for = {canonicalize_name(requirement.name) for requirement in wanted("requirements")}
    for package in packages().values():
        for requirement in map(Requirement, project(package)["dependencies"]):
            name = canonicalize_name(requirement.name)
            if name.partition("-")[0] == "meterline":
                continue
            assert name in asked_for, f"{name} of {package.name} is missing in requirements.in"
            assert all(requirement.specifier.contains(version) for version in locked[name]), requirement


@pytest.mark.parametrize("name", LOCKS)
def test_lock_has_hashes_and_no_index_address(name: str) -> None:
    text = (ROOT / f"{name}.lock").read_text()
    entries = re.split(r"^(?=\S)", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE), flags=re.MULTILINE)
    entries = [entry for entry in entries if entry.strip()]
    assert len(entries) == sum(len(versions) for versions in pins(name).values())
    for entry in entries:
        assert "--hash=sha256:" in entry, entry
    assert re.findall(r"://|@ |--(?!hash=sha256:)\S+|(?:^|\s)[./]\S*", text, re.MULTILINE) == []


def test_generated_stubs_import_no_other_package_of_ours() -> None:
    foreign = {
        module
        for path in GENERATED.rglob("*.py")
        for module in imported(path)
        if module.partition(".")[0].startswith("meterline") and not module.startswith("meterline_protos")
    }
    assert foreign == set()
