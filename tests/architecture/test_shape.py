"""All four services have the same layout."""

from __future__ import annotations

import ast
import importlib
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
from google.protobuf.descriptor import ServiceDescriptor

from tests.architecture.tree import (
    ROOT,
    SERVICES,
    calls,
    identifier,
    name_of,
    parsed,
    service_package,
    sources,
)

# Modules besides the capability packages; `peers` only where several of these call other services.
OWN_MODULES = ("main", "settings")
OTHER_MODULES = ("peers",)
FILES = ("__init__.py", "py.typed", "migrations")


def modules_with_services() -> list[ModuleType]:
    """The generated module of every proto that describes a service."""
    protos = ROOT / "protos"
    found = sorted(path for path in protos.rglob("*.proto") if "\nservice " in path.read_text())
    names = [
        "meterline_protos." + ".".join(path.relative_to(protos / "meterline").with_suffix("").parts)
        for path in found
    ]
    return [importlib.import_module(f"{name}_pb2") for name in names]


# Protos of no single service: RPCs that the runtime implements in several services.
RUNTIME = "libs/runtime/meterline"
OPERATIONS = "operations"


def proto_services() -> list[ServiceDescriptor]:
    return [
        service for file in modules_with_services() for service in file.DESCRIPTOR.services_by_name.values()
    ]


def capabilities(service: str) -> list[Path]:
    """The capability packages of a service."""
    folders = sorted(path.parent for path in service_package(service).glob("*/__init__.py"))
    assert folders
    return folders


def servicer_methods(package: str) -> dict[str, set[str]]:
    """The methods that subclasses of generated servicers implement, by the servicer's name."""
    found: dict[str, set[str]] = {}
    folder = RUNTIME if package == OPERATIONS else name_of(service_package(package))
    for path in sources(folder):
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.ClassDef):
                methods = {
                    item.name
                    for item in node.body
                    if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef)
                }
                for base in filter(None, map(identifier, node.bases)):
                    found.setdefault(base, set()).update(methods)
    return found


@pytest.mark.req("K1", "K6")
@pytest.mark.parametrize("service", SERVICES)
def test_service_has_main_settings_and_migrations(service: str) -> None:
    package = service_package(service)
    missing = [name for name in OWN_MODULES if not (package / f"{name}.py").is_file()]
    missing += [name for name in FILES if not (package / name).exists()]
    assert missing == []


@pytest.mark.req("K6")
@pytest.mark.parametrize("service", SERVICES)
def test_all_other_modules_are_in_capability_packages(service: str) -> None:
    modules = {path.stem for path in service_package(service).glob("*.py")} - {"__init__"}
    assert modules - {*OWN_MODULES, *OTHER_MODULES} == set()


@pytest.mark.req("K6")
@pytest.mark.parametrize("service", SERVICES)
def test_every_capability_package_has_a_docstring(service: str) -> None:
    empty = [
        name_of(path)
        for folder in capabilities(service)
        for path in folder.rglob("__init__.py")
        if not ast.get_docstring(parsed(path))
    ]
    assert empty == []


@pytest.mark.req("K6")
@pytest.mark.parametrize("service", SERVICES)
def test_sql_files_are_next_to_the_store_that_runs_them(service: str) -> None:
    package = service_package(service)
    statements = {path for path in package.rglob("*.sql") if path.parent.name != "migrations"}
    assert statements
    stray = [
        name_of(path)
        for path in statements
        if not path.with_suffix(".py").is_file() or "store" not in (path.stem, path.parent.name)
    ]
    loading = [
        name_of(path)
        for path in package.rglob("*.py")
        if any(calls(path, "Queries")) and path.with_suffix(".sql") not in statements
    ]
    assert stray + loading == []


@pytest.mark.parametrize("service", SERVICES)
def test_service_starts_by_name(service: str) -> None:
    project = tomllib.loads((ROOT / "services" / service / "pyproject.toml").read_text())["project"]
    assert project["name"] == f"meterline-{service}"
    assert project["scripts"] == {f"meterline-{service}": f"meterline_{service}.main:main"}


@pytest.mark.req("K1")
@pytest.mark.parametrize("descriptor", proto_services(), ids=lambda descriptor: str(descriptor.full_name))
def test_every_rpc_is_implemented(descriptor: ServiceDescriptor) -> None:
    package = descriptor.full_name.split(".")[1]
    implemented = servicer_methods(package).get(f"{descriptor.name}Servicer", set())
    assert {method.name for method in descriptor.methods} - implemented == set()


@pytest.mark.req("O2")
@pytest.mark.parametrize("service", SERVICES)
def test_service_consumes_only_through_its_platform(service: str) -> None:
    """Only consumers of the platform support redriving their dead letters."""
    own = [
        name_of(path) for path in sources(name_of(service_package(service))) if any(calls(path, "Consumer"))
    ]
    assert own == []
