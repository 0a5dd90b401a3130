"""API keys: their fields, and who may grant which permissions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from meterline.auth.principals import GRANTABLE, GRANTABLE_TO_A_TENANT, Permission, Principal
from meterline.errors import InvalidArgumentError, PermissionDeniedError


@dataclass(frozen=True, slots=True)
class ApiKey:
    """`slug` is the tenant's name, empty for a key for all tenants. Times are microseconds since the Unix
    epoch; `revoked_at_us` is None while the key is valid."""

    key_id: str
    slug: str
    name: str
    permissions: frozenset[Permission]
    created_at_us: int
    created_by: str
    revoked_at_us: int | None
    revoked_by: str


def grant(field: str, wanted: Iterable[str], slug: str, granter: Principal) -> frozenset[Permission]:
    """The permissions of a new key. Raises InvalidArgumentError for those that no such key may hold, and
    PermissionDeniedError for those that `granter` does not hold: a key must not permit more than its maker.
    """
    grantable = GRANTABLE_TO_A_TENANT if slug else GRANTABLE
    granted = frozenset(wanted)
    if not granted or not granted <= grantable:
        kind = "a tenant's key" if slug else "a key for all tenants"
        names = ", ".join(sorted(grantable))
        raise InvalidArgumentError(field, f"at least one of what {kind} may hold: {names}")
    permissions = frozenset(map(Permission, granted))
    if missing := permissions - granter.permissions:
        names = ", ".join(sorted(missing))
        raise PermissionDeniedError(f"the caller may not grant {names}", "PERMISSION_MISSING")
    return permissions
