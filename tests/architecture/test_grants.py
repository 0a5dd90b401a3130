"""Services are granted exactly the RPCs of other services that they call."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from meterline.auth.grants import SERVICES as GRANTS
from meterline.auth.principals import Permission

from tests.architecture.test_access import methods, rules
from tests.architecture.tree import SERVICES

pytestmark = pytest.mark.req("T4.1")

ROOT = Path(__file__).resolve().parents[2]


def sources(service: str) -> Iterator[ast.Module]:
    """The modules of a service, and the runtime modules that make calls for it."""
    paths = list((ROOT / "services" / service).rglob("*.py"))
    if any('.link("identity"' in path.read_text() for path in paths):
        paths.append(ROOT / "libs/runtime/meterline/service/api_keys.py")
    for path in paths:
        yield ast.parse(path.read_text())


def called(service: str) -> set[str]:
    """The methods that a service calls: attributes of that name in modules that use their service's stub."""
    stubs, attributes = set(), set()
    for module in sources(service):
        found = {node.attr for node in ast.walk(module) if isinstance(node, ast.Attribute)}
        attributes |= found
        stubs |= {name.removesuffix("Stub") for name in found if name.endswith("ServiceStub")}
    return {
        name
        for name, method in methods().items()
        if method.containing_service.name in stubs and method.name in attributes
    }


def needed(service: str) -> set[Permission | None]:
    return {rules()[method].permission for method in called(service)}


def test_every_service_has_its_grants() -> None:
    assert GRANTS.keys() == set(SERVICES)


@pytest.mark.parametrize("service", SERVICES)
def test_service_is_granted_exactly_the_rpcs_it_calls(service: str) -> None:
    assert needed(service) == GRANTS[service], sorted(called(service))


def test_calls_are_found() -> None:
    assert "meterline.ingest.v1.EventsService/GetTotals" in called("aggregate")
    assert "meterline.identity.v1.CredentialsService/VerifyApiKey" in called("publisher")
    assert called("identity") == {"meterline.publisher.v1.PricesService/ListPrices"}
