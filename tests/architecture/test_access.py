"""Every RPC has an access rule, and no rule opens a tenant's data to another tenant."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import Descriptor, MethodDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from meterline.auth.principals import Permission
from meterline.auth.rules import DEFAULT_BYTES, Reach, Rule, Rules, rule_of, rules_of
from meterline_protos.common.v1 import access_pb2

from tests.architecture.test_shape import proto_services

pytestmark = pytest.mark.req("T4.1")


def rules() -> Rules:
    return rules_of(service.full_name for service in proto_services())


def methods() -> dict[str, MethodDescriptor]:
    return {
        f"{service.full_name}/{method.name}": method
        for service in proto_services()
        for method in service.methods
    }


def messages_within(descriptor: Descriptor, seen: frozenset[str] = frozenset()) -> Iterator[Descriptor]:
    """Every message type that `descriptor` contains, at any depth."""
    for field in descriptor.fields:
        inner = field.message_type
        if inner is not None and inner.full_name not in seen:
            yield inner
            yield from messages_within(inner, seen | {inner.full_name})


def test_every_rpc_has_an_access_rule() -> None:
    assert rules().keys() == methods().keys()


def test_proto_permissions_equal_runtime_permissions() -> None:
    stated = {name.removeprefix("PERMISSION_") for name, _ in access_pb2.Permission.items()}
    assert stated == {each.name for each in Permission} | {"UNSPECIFIED", "SELF_PROVING"}


def method_with(rule: access_pb2.AccessRule | None) -> MethodDescriptor:
    """A method of a synthetic proto with this rule, or with none."""
    file = descriptor_pb2.FileDescriptorProto(name="made_up.proto", package="made_up", syntax="proto3")
    file.message_type.add(name="Empty")
    method = file.service.add(name="Service").method.add(
        name="Call", input_type=".made_up.Empty", output_type=".made_up.Empty"
    )
    if rule is not None:
        method.options.Extensions[access_pb2.access].CopyFrom(rule)
    pool = DescriptorPool()
    pool.Add(file)
    return pool.FindServiceByName("made_up.Service").methods[0]


@pytest.mark.parametrize("rule", [None, access_pb2.AccessRule(max_bytes=1)])
def test_rpc_without_a_permission_prevents_startup(
    rule: access_pb2.AccessRule | None,
) -> None:
    with pytest.raises(LookupError):
        rule_of(method_with(rule))


def test_omitted_parts_of_a_rule_have_defaults() -> None:
    stated = access_pb2.AccessRule(permission=access_pb2.PERMISSION_READ)
    assert rule_of(method_with(stated)) == Rule(Permission.READ, Reach.TENANT, (), DEFAULT_BYTES)


def test_only_signed_capture_needs_no_token() -> None:
    open_to_all = {method for method, rule in rules().items() if rule.permission is None}
    assert open_to_all == {"meterline.ingest.v1.CaptureService/ReportSigned"}
    assert rules()["meterline.ingest.v1.CaptureService/ReportSigned"].reach is Reach.EVENTS


def test_only_capture_checks_tenants_of_events() -> None:
    by_event = {method for method, rule in rules().items() if rule.reach is Reach.EVENTS}
    assert {method.split("/")[0] for method in by_event} == {"meterline.ingest.v1.CaptureService"}


def test_internal_rpcs_are_closed_to_callers_of_one_tenant() -> None:
    internal = [rule for rule in rules().values() if rule.permission is Permission.INTERNAL]
    assert internal
    assert all(rule.reach is Reach.EVERYBODY for rule in internal)


def test_tenant_fields_are_where_the_gate_reads_them() -> None:
    """The gate does not see a tenant in a nested message. An import with another tenant is refused."""
    hidden = [
        f"{name}: {inner.name}"
        for name, rule in rules().items()
        if rule.reach is Reach.TENANT and name != "meterline.ingest.v1.CorrectionsService/ImportEvents"
        for inner in messages_within(methods()[name].input_type)
        if "tenant_id" in inner.fields_by_name
    ]
    assert hidden == []
