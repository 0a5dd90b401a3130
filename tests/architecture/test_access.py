"""Every call has a rule of access, and no rule leaves a tenant's data open to another."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module

import pytest
from google.protobuf.descriptor import Descriptor, MethodDescriptor
from meterline.auth.principals import Permission
from meterline.auth.rules import SELF_PROVING, Reach, Rule, Rules
from meterline.operations import access as operations

from tests.architecture.test_shape import proto_services
from tests.architecture.tree import SERVICES

pytestmark = pytest.mark.req("T4.1")


def rules() -> Rules:
    found: dict[str, Rule] = {}
    for service in SERVICES:
        found.update(import_module(f"meterline_{service}.access").RULES)
    return found | dict(operations.RULES)


def methods() -> dict[str, MethodDescriptor]:
    return {
        f"{service.full_name}/{method.name}": method
        for service in proto_services()
        for method in service.methods
    }


def messages_within(descriptor: Descriptor, seen: frozenset[str] = frozenset()) -> Iterator[Descriptor]:
    """Every message that a field of `descriptor` holds, at any depth."""
    for field in descriptor.fields:
        inner = field.message_type
        if inner is not None and inner.full_name not in seen:
            yield inner
            yield from messages_within(inner, seen | {inner.full_name})


def test_every_call_has_a_rule_and_every_rule_a_call() -> None:
    assert rules().keys() == methods().keys()


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_rules_its_own_calls_only(service: str) -> None:
    packages = {method.split(".")[1] for method in import_module(f"meterline_{service}.access").RULES}
    assert packages == {service}


def test_only_signed_capture_comes_without_a_token() -> None:
    open_to_all = {method for method, rule in rules().items() if rule.permission is None}
    assert open_to_all == {"meterline.ingest.v1.CaptureService/ReportSigned"}
    assert rules()["meterline.ingest.v1.CaptureService/ReportSigned"] is SELF_PROVING


def test_only_capture_judges_tenants_itself() -> None:
    by_event = {method for method, rule in rules().items() if rule.reach is Reach.EVENTS}
    assert {method.split("/")[0] for method in by_event} == {"meterline.ingest.v1.CaptureService"}


def test_what_services_ask_of_each_other_is_for_nobody_of_one_tenant() -> None:
    internal = [rule for rule in rules().values() if rule.permission is Permission.INTERNAL]
    assert internal
    assert all(rule.reach is Reach.EVERYBODY for rule in internal)


def test_a_tenant_is_named_where_the_gate_looks() -> None:
    """A tenant further down would pass the gate unseen. An import that names another is refused."""
    hidden = [
        f"{name}: {inner.name}"
        for name, rule in rules().items()
        if rule.reach is Reach.TENANT and name != "meterline.ingest.v1.CorrectionsService/ImportEvents"
        for inner in messages_within(methods()[name].input_type)
        if "tenant_id" in inner.fields_by_name
    ]
    assert hidden == []
