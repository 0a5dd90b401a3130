"""The gate refuses calls without a token, without the permission, or for another tenant."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from google.protobuf import message_factory
from hypothesis import given
from hypothesis import strategies as st
from meterline.auth.api_keys import KnownKeys, make, parse
from meterline.auth.gate import Anybody, Bearers, Gate, bearer_token
from meterline.auth.principals import (
    ANYBODY,
    GRANTABLE,
    GRANTABLE_TO_A_TENANT,
    STRANGER,
    SYSTEM,
    Kind,
    Permission,
    Principal,
    acting_as,
    current_principal,
)
from meterline.auth.rules import Reach, Rule, require
from meterline.clock import ManualClock
from meterline.errors import PermissionDeniedError, UnauthenticatedError
from meterline_protos.identity.v1 import tenants_pb2

from tests.architecture.test_access import methods, rules
from tests.support.callers import Authority

pytestmark = pytest.mark.req("T4.1")

ALL = frozenset(Permission)
AUTHORITY = Authority()


def caller(tenant: str | None = None, permissions: frozenset[Permission] = ALL) -> Principal:
    return Principal("someone", Kind.API_KEY, tenant, permissions)


def denied(rule: Rule, principal: Principal, request: Any) -> str:
    """The reason of the refusal, or an empty text for an admitted call."""
    try:
        require(rule, principal, request)
    except PermissionDeniedError as error:
        return error.reason
    return ""


def request_of(method: str, tenant: str) -> Any:
    """An empty request of a call, with the tenant if it has a tenant field."""
    message: Any = message_factory.GetMessageClass(methods()[method].input_type)()
    if "tenant_id" in message.DESCRIPTOR.fields_by_name:
        message.tenant_id = tenant
    return message


# --- every call of every service


# Capture checks the tenant of each event.
JUDGED_HERE = sorted(method for method, rule in rules().items() if rule.reach is not Reach.EVENTS)


@pytest.mark.parametrize("method", JUDGED_HERE)
def test_caller_of_one_tenant_cannot_reach_another(method: str) -> None:
    rule, mine = rules()[method], caller("acme")
    assert denied(rule, mine, request_of(method, "bolt")) in ("TENANT_FORBIDDEN", "ALL_TENANTS_NEEDED")
    assert denied(rule, mine, request_of(method, "")) == "ALL_TENANTS_NEEDED"


@pytest.mark.parametrize("method", JUDGED_HERE)
def test_caller_of_one_tenant_can_reach_its_own(method: str) -> None:
    rule, request = rules()[method], request_of(method, "acme")
    named = "tenant_id" in request.DESCRIPTOR.fields_by_name
    own = rule.reach is Reach.TENANT and named
    assert denied(rule, caller("acme"), request) == ("" if own else "ALL_TENANTS_NEEDED")


@pytest.mark.parametrize("method", sorted(method for method, rule in rules().items() if rule.permission))
def test_every_call_requires_exactly_its_permission(method: str) -> None:
    rule, request = rules()[method], request_of(method, "acme")
    assert rule.permission is not None
    assert denied(rule, caller(None, ALL - {rule.permission}), request) == "PERMISSION_MISSING"
    assert denied(rule, caller(None, frozenset({rule.permission})), request) == ""


@given(st.text(max_size=8), st.text(max_size=8))
def test_tenant_names_are_compared_exactly(mine: str, named: str) -> None:
    request = tenants_pb2.GetTenantRequest(tenant_id=named)
    reason = denied(Rule(Permission.READ), caller(mine), request)
    assert (reason == "") is (named == mine != "")


def test_refusal_does_not_name_the_other_tenant() -> None:
    with pytest.raises(PermissionDeniedError) as caught:
        require(Rule(Permission.READ), caller("acme"), tenants_pb2.GetTenantRequest(tenant_id="bolt"))
    assert "bolt" not in str(caught.value)


# --- authentication


def bearers(clock: ManualClock, keys: dict[str, Principal] | None = None) -> Bearers:
    async def verify(key_id: str, digest: bytes) -> Principal | None:
        return (keys or {}).get(key_id)

    return Bearers(AUTHORITY.tokens(), KnownKeys(verify), clock)


async def refused(authenticator: Bearers, *metadata: tuple[str, str | bytes]) -> str:
    with pytest.raises(UnauthenticatedError) as caught:
        await authenticator.identify(metadata)
    return caught.value.reason


async def test_service_token_identifies_until_it_expires() -> None:
    clock = ManualClock(1_700_000_000_000_000)
    known = bearers(clock)
    signer = AUTHORITY.signer(Permission.READ, name="ingest", clock=clock, lifetime_seconds=60)
    header = ("authorization", f"Bearer {signer.token()}")
    expected = Principal("ingest", Kind.SERVICE, None, frozenset({Permission.READ}))
    assert await known.identify([header]) == expected
    clock.advance(timedelta(microseconds=59_999_999))
    assert await known.identify([header]) == expected
    clock.advance(timedelta(microseconds=1))
    assert await refused(known, header) == "TOKEN_EXPIRED"


async def test_api_key_identifies_its_verified_holder() -> None:
    key, holder = make(), caller("acme", frozenset({Permission.CAPTURE}))
    known = bearers(ManualClock(0), {key.key_id: holder})
    assert await known.identify([("authorization", f"bearer {key.token}")]) is holder
    assert await refused(known, ("authorization", f"Bearer {make().token}")) == "TOKEN_INVALID"


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ([], "TOKEN_MISSING"),
        ([("x-other", "1")], "TOKEN_MISSING"),
        ([("authorization", "")], "TOKEN_INVALID"),
        ([("authorization", "Basic dXNlcjpwYXNz")], "TOKEN_INVALID"),
        ([("authorization", "Bearer ")], "TOKEN_INVALID"),
        ([("authorization", "Bearer mlk_")], "TOKEN_INVALID"),
        ([("authorization", "Bearer mlk_0123456789abcdef_short")], "TOKEN_INVALID"),
        ([("authorization", "Bearer a.b.c")], "TOKEN_INVALID"),
        ([("authorization", b"Bearer a.b.c")], "TOKEN_INVALID"),
    ],
)
async def test_malformed_token_is_refused(metadata: list[tuple[str, str]], reason: str) -> None:
    assert await refused(bearers(ManualClock(0)), *metadata) == reason


async def test_two_tokens_are_refused() -> None:
    clock = ManualClock(1_700_000_000_000_000)
    header = ("authorization", f"Bearer {AUTHORITY.signer(clock=clock).token()}")
    assert await refused(bearers(clock), header, header) == "TOKEN_INVALID"


def test_bearer_token_is_extracted_unchanged() -> None:
    assert bearer_token([("a", "b"), ("authorization", "Bearer x y")]) == "x y"


@given(st.text(max_size=90))
def test_only_well_formed_api_keys_are_parsed(text: str) -> None:
    assert parse(text) is None
    assert parse(f"mlk_{text}") is None
    key = make()
    assert parse(key.token) == (key.key_id, key.digest)
    assert parse(key.token + text) is None or text == ""
    assert key.token not in repr(key)


# --- the gate itself


async def test_disabled_authentication_admits_every_call() -> None:
    gate = Gate(rules(), Anybody())
    for method, rule in rules().items():
        admitted = await gate.admit(rule, (), request_of(method, "acme"))
        assert admitted is (STRANGER if rule.permission is None else ANYBODY)


def test_method_without_a_rule_cannot_be_served() -> None:
    gate = Gate({"a.B/C": Rule(Permission.READ)}, Anybody())
    with pytest.raises(LookupError, match="no rule"):
        gate.rule("a.B/D", streams_in=False)
    with pytest.raises(LookupError, match="streams"):
        gate.rule("a.B/C", streams_in=True)


def test_current_principal_is_restored_after_a_call() -> None:
    assert current_principal() is SYSTEM
    with acting_as(caller("acme")), acting_as(caller("bolt")):
        assert current_principal().tenant == "bolt"
    assert current_principal() is SYSTEM


def test_grantable_permissions_of_keys() -> None:
    assert {Permission.INTERNAL} == ALL - GRANTABLE
    assert {Permission.OPERATE, Permission.TENANTS} == GRANTABLE - GRANTABLE_TO_A_TENANT
