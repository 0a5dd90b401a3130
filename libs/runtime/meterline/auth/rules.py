"""What a method requires of its caller: the option `access` of each RPC in the protos."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Final

from google.protobuf import descriptor_pool
from google.protobuf.descriptor import MethodDescriptor
from meterline_protos.common.v1 import access_pb2

from meterline.auth.principals import Permission, Principal, current_principal
from meterline.errors import PermissionDeniedError


class Reach(Enum):
    """Whose data a method reaches."""

    TENANT = auto()
    """That of the tenant which the request names in `tenant_id`; that of all tenants when it names none."""
    EVERYBODY = auto()
    """That of all tenants, whatever the request names."""
    EVENTS = auto()
    """That of the tenants of single events; capture checks them one by one."""


# Where the option says nothing: what requests that name things need, with 1,000 ids or names. Others state
# 640 KiB for a single event (32 properties of 4,096 characters, and what is around them), 1 MiB for
# definitions and lists of what is longer than an id, 4 MiB for many events.
DEFAULT_BYTES: Final = 256 << 10


@dataclass(frozen=True, slots=True)
class Rule:
    """`permission` None: the request carries its own proof, which the servicer verifies.

    judged_singly: fields of the request whose items are checked one by one, each with an outcome of its own:
        an invalid text in one of them does not refuse the whole request
    max_bytes: of a request; a larger one is refused before it is parsed, since parsing holds the event loop
        for 25 ms a megabyte at worst, and takes 40 times the memory
    """

    permission: Permission | None
    reach: Reach = Reach.TENANT
    judged_singly: tuple[str, ...] = ()
    max_bytes: int = DEFAULT_BYTES


Rules = Mapping[str, Rule]
"""By method: `meterline.identity.v1.TenantsService/GetTenant`."""

_REACHES: Final = {
    access_pb2.REACH_UNSPECIFIED: Reach.TENANT,
    access_pb2.REACH_ALL_TENANTS: Reach.EVERYBODY,
    access_pb2.REACH_EVENTS: Reach.EVENTS,
}


def rules_of(services: Iterable[str]) -> Rules:
    """The rules of all methods of these services, by the options in their protos.

    services: full names, for example `meterline.identity.v1.TenantsService`
    Raises LookupError for a method without the option, and KeyError for a service that is not loaded.
    """
    pool = descriptor_pool.Default()
    methods = [method for name in services for method in pool.FindServiceByName(name).methods]
    return {f"{method.containing_service.full_name}/{method.name}": rule_of(method) for method in methods}


def rule_of(method: MethodDescriptor) -> Rule:
    """The rule of one method. Raises LookupError when its proto does not state one, or no permission."""
    options = method.GetOptions()
    if not options.HasExtension(access_pb2.access):
        raise LookupError(f"{method.full_name} has no option (meterline.common.v1.access)")
    stated = options.Extensions[access_pb2.access]
    return Rule(
        _permission(stated.permission),
        _REACHES[stated.reach],
        tuple(stated.judged_singly),
        stated.max_bytes or DEFAULT_BYTES,
    )


def _permission(stated: access_pb2.Permission.ValueType) -> Permission | None:
    """Raises LookupError where none is stated: a call must not be open by omission."""
    if stated == access_pb2.PERMISSION_SELF_PROVING:
        return None
    return Permission[access_pb2.Permission.Name(stated).removeprefix("PERMISSION_")]


def demand(permission: Permission) -> None:
    """What only some requests of a method need. Raises PermissionDeniedError."""
    if permission not in current_principal().permissions:
        raise PermissionDeniedError(f"needs the permission {permission.value}", "PERMISSION_MISSING")


def require(rule: Rule, principal: Principal, request: Any) -> None:
    """Raises PermissionDeniedError unless `principal` may make this call with this request."""
    if rule.permission is not None and rule.permission not in principal.permissions:
        raise PermissionDeniedError(f"needs the permission {rule.permission.value}", "PERMISSION_MISSING")
    if principal.tenant is None or rule.reach is Reach.EVENTS:
        return
    named = "" if rule.reach is Reach.EVERYBODY else getattr(request, "tenant_id", "")
    if not named:
        # No tenant means all of them.
        raise PermissionDeniedError("needs a caller for all tenants", "ALL_TENANTS_NEEDED")
    if named != principal.tenant:
        # Reveals nothing about the other tenant, not even whether it exists.
        raise PermissionDeniedError("the caller is bound to another tenant", "TENANT_FORBIDDEN")
