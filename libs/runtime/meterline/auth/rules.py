"""What a method demands of its caller. Each service has one table of them, its `access.py`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Final

from meterline.auth.principals import Permission, Principal, current_principal
from meterline.errors import PermissionDeniedError


class Reach(Enum):
    """Whose data a method reaches."""

    TENANT = auto()
    """That of the tenant which the request names in `tenant_id`; everybody's when it names none."""
    EVERYBODY = auto()
    """Everybody's, whatever the request names."""
    EVENTS = auto()
    """That of the tenants of single events; capture judges them one by one."""


# What the largest requests that name things need: 1,000 ids or names.
NAMES_BYTES: Final = 256 << 10
# A single event: 32 properties of 4,096 characters, and what is around them.
EVENT_BYTES: Final = 640 << 10
# Definitions, and lists of what is longer than an id.
CONTENT_BYTES: Final = 1 << 20
# Many events at once.
EVENTS_BYTES: Final = 4 << 20


@dataclass(frozen=True, slots=True)
class Rule:
    """`permission` None: the request carries its own proof, which the servicer looks at.

    judged_singly: fields of the request whose items are judged one by one, each with an outcome of its own:
        a text that is wrong in one of them does not refuse the whole request
    max_bytes: of a request; a larger one is refused before it is parsed, since parsing holds the event loop
        for 25 ms a megabyte at worst, and takes 40 times the memory
    """

    permission: Permission | None
    reach: Reach = Reach.TENANT
    judged_singly: tuple[str, ...] = ()
    max_bytes: int = NAMES_BYTES


SELF_PROVING: Final = Rule(None, Reach.EVENTS, max_bytes=EVENTS_BYTES)

Rules = Mapping[str, Rule]
"""By method: `meterline.identity.v1.TenantsService/GetTenant`."""


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
        # Says nothing of the other tenant, also not whether there is one.
        raise PermissionDeniedError("the caller is bound to another tenant", "TENANT_FORBIDDEN")
