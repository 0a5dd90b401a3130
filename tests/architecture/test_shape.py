"""Four services of one shape: to know one is to know all."""

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

# What a service has besides its capability packages; `peers` only where several of these ask other services.
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


# Protos of no service's own: what the runtime answers in several of them.
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
    """What the classes that derive from a generated servicer implement, by the servicer's name."""
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
def test_a_service_has_its_main_settings_and_migrations(service: str) -> None:
    package = service_package(service)
    missing = [name for name in OWN_MODULES if not (package / f"{name}.py").is_file()]
    missing += [name for name in FILES if not (package / name).exists()]
    assert missing == []


@pytest.mark.req("K6")
@pytest.mark.parametrize("service", SERVICES)
def test_everything_else_is_in_a_capability_package(service: str) -> None:
    modules = {path.stem for path in service_package(service).glob("*.py")} - {"__init__"}
    assert modules - {*OWN_MODULES, *OTHER_MODULES} == set()


@pytest.mark.req("K6")
@pytest.mark.parametrize("service", SERVICES)
def test_every_capability_package_says_what_it_is_for(service: str) -> None:
    empty = [
        name_of(path)
        for folder in capabilities(service)
        for path in folder.rglob("__init__.py")
        if not ast.get_docstring(parsed(path))
    ]
    assert empty == []


@pytest.mark.req("K6")
@pytest.mark.parametrize("service", SERVICES)
def test_sql_is_only_in_stores_beside_the_module_that_runs_it(service: str) -> None:
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
def test_a_service_can_be_started_by_name(service: str) -> None:
    project = tomllib.loads((ROOT / "services" / service / "pyproject.toml").read_text())["project"]
    assert project["name"] == f"meterline-{service}"
    assert project["scripts"] == {f"meterline-{service}": f"meterline_{service}.main:main"}


@pytest.mark.req("K1")
@pytest.mark.parametrize("descriptor", proto_services(), ids=lambda descriptor: str(descriptor.full_name))
def test_every_call_of_the_protos_is_answered(descriptor: ServiceDescriptor) -> None:
    package = descriptor.full_name.split(".")[1]
    implemented = servicer_methods(package).get(f"{descriptor.name}Servicer", set())
    assert {method.name for method in descriptor.methods} - implemented == set()


@pytest.mark.req("O2")
@pytest.mark.parametrize("service", SERVICES)
def test_a_service_consumes_through_its_platform_alone(service: str) -> None:
    """The platform lets the dead letters of what it consumes be redriven."""
    own = [
        name_of(path) for path in sources(name_of(service_package(service))) if any(calls(path, "Consumer"))
    ]
    assert own == []
