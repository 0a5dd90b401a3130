"""docs/map.md lists every package of the services and the runtime with the first line of its docstring."""

from __future__ import annotations

import ast
import re
from configparser import ConfigParser

import pytest

from tests.architecture.test_shape import capabilities
from tests.architecture.tree import ROOT, SERVICES, parsed, service_package

pytestmark = pytest.mark.req("K6")

_MODULE = re.compile(r"`([\w/]+\.(?:py|sql))`")
_ROW = re.compile(r"^\| `(\w+)` \| (.+) \|$", re.MULTILINE)


def mapped(section_name: str) -> dict[str, str]:
    """The descriptions of packages of a service, or of the runtime, in the order of docs/map.md."""
    _, _, after = (ROOT / "docs/map.md").read_text(encoding="utf-8").partition(f"\n## {section_name}\n")
    section, _, _ = after.partition("\n## ")
    return dict(_ROW.findall(section))


@pytest.mark.parametrize("service", SERVICES)
def test_map_describes_service_packages_as_their_docstrings(service: str) -> None:
    assert mapped(service) == {
        folder.name: (ast.get_docstring(parsed(folder / "__init__.py")) or "").splitlines()[0]
        for folder in capabilities(service)
    }


def test_map_describes_runtime_packages_as_their_docstrings() -> None:
    packages = sorted((ROOT / "libs/runtime/meterline").glob("*/__init__.py"))
    lines = {path.parent.name: (ast.get_docstring(parsed(path)) or "").splitlines()[0] for path in packages}
    assert list(mapped("runtime").items()) == list(lines.items())


@pytest.mark.parametrize("service", SERVICES)
def test_map_lists_packages_in_import_order(service: str) -> None:
    contracts = ConfigParser()
    contracts.read(ROOT / ".importlinter")
    layers = contracts[f"importlinter:contract:order-of-{service}"]["layers"].split()
    packages = {folder.name for folder in capabilities(service)}
    assert list(mapped(service)) == [layer for layer in layers if layer in packages]


@pytest.mark.parametrize("service", SERVICES)
def test_service_page_names_existing_modules(service: str) -> None:
    pages = sorted((ROOT / "docs/services").glob(f"{service}*.md"))
    named = [name for page in pages for name in _MODULE.findall(page.read_text(encoding="utf-8"))]
    package = service_package(service)
    assert [name for name in named if not (package / name).is_file() and not (ROOT / name).is_file()] == []
