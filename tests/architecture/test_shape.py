"""Four services of one shape: to know one is to know all."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

import pytest
from google.protobuf.descriptor import ServiceDescriptor
from meterline_protos.aggregate.v1 import meters_pb2, reconciliation_pb2, usage_pb2
from meterline_protos.identity.v1 import tenants_pb2
from meterline_protos.ingest.v1 import capture_pb2, event_types_pb2, events_pb2, limits_pb2
from meterline_protos.publisher.v1 import invoices_pb2, prices_pb2, publications_pb2

from tests.architecture.tree import ROOT, SERVICES, identifier, name_of, parsed, service_package, sources

# A module may grow into a package of the same name.
MODULES = ("main", "migrate", "settings", "servicers", "handlers", "domain", "repository", "events")
FILES = ("__init__.py", "py.typed", "migrations")
PROTO_FILES = (
    meters_pb2,
    reconciliation_pb2,
    usage_pb2,
    tenants_pb2,
    capture_pb2,
    event_types_pb2,
    events_pb2,
    limits_pb2,
    invoices_pb2,
    prices_pb2,
    publications_pb2,
)


def proto_services() -> list[ServiceDescriptor]:
    return [service for file in PROTO_FILES for service in file.DESCRIPTOR.services_by_name.values()]


def has_module(package: Path, name: str) -> bool:
    return (package / f"{name}.py").is_file() or (package / name / "__init__.py").is_file()


def servicer_methods(service: str) -> dict[str, set[str]]:
    """What the classes that derive from a generated servicer implement, by the servicer's name."""
    found: dict[str, set[str]] = {}
    for path in sources(name_of(service_package(service))):
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
def test_a_service_has_the_common_shape(service: str) -> None:
    package = service_package(service)
    missing = [name for name in MODULES if not has_module(package, name)]
    missing += [name for name in FILES if not (package / name).exists()]
    assert missing == []
    assert list(package.rglob("*.sql"))


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_can_be_started_by_name(service: str) -> None:
    project = tomllib.loads((ROOT / "services" / service / "pyproject.toml").read_text())["project"]
    assert project["name"] == f"meterline-{service}"
    assert project["scripts"] == {f"meterline-{service}": f"meterline_{service}.main:main"}


@pytest.mark.req("K1")
def test_all_protos_are_looked_at() -> None:
    protos = {path for path in (ROOT / "protos").rglob("*.proto") if "\nservice " in path.read_text()}
    assert {ROOT / "protos" / file.DESCRIPTOR.name for file in PROTO_FILES} == protos


@pytest.mark.req("K1")
@pytest.mark.parametrize("descriptor", proto_services(), ids=lambda descriptor: str(descriptor.full_name))
def test_every_call_of_the_protos_is_answered(descriptor: ServiceDescriptor) -> None:
    service = descriptor.full_name.split(".")[1]
    implemented = servicer_methods(service).get(f"{descriptor.name}Servicer", set())
    assert {method.name for method in descriptor.methods} - implemented == set()
