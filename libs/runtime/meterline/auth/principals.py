"""Callers and what they may do. Handlers ask `current_principal()` for the name that goes into records."""

from __future__ import annotations

from contextvars import ContextVar, Token
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Final


class Permission(StrEnum):
    """Everything that can be granted: one closed list."""

    CAPTURE = "capture"
    """Report events."""
    ISSUE = "issue"
    """Issue capture configurations to untrusted clients."""
    READ = "read"
    CONFIGURE = "configure"
    """Event types, meters, prices, limits."""
    QUARANTINE = "quarantine"
    """Look at rejected events and replay them."""
    CORRECT = "correct"
    """Amend and retract history."""
    BACKFILL = "backfill"
    """Report events that are older than capture accepts."""
    UNSEAL = "unseal"
    """Read encrypted fields in plain text."""
    CREDENTIALS = "credentials"
    """Make and revoke API keys and signing keys."""
    OPERATE = "operate"
    """Replay, publish and reconcile."""
    TENANTS = "tenants"
    """Onboard and change tenants."""
    INTERNAL = "internal"
    """Calls between services, which nobody else may make."""


GRANTABLE: Final = frozenset(Permission) - {Permission.INTERNAL}
"""What an API key may hold."""
GRANTABLE_TO_A_TENANT: Final = GRANTABLE - {Permission.OPERATE, Permission.TENANTS}
"""What an API key of one tenant may hold."""


class Kind(Enum):
    """How a caller is known."""

    API_KEY = "api key"
    SERVICE = "service"
    SIGNED_CLIENT = "signed client"
    ANONYMOUS = "anonymous"


@dataclass(frozen=True, slots=True)
class Principal:
    """A caller. `tenant` is the name of the only tenant that it may act for, None for all."""

    name: str
    kind: Kind
    tenant: str | None
    permissions: frozenset[Permission]


SYSTEM: Final = Principal("system", Kind.SERVICE, None, frozenset())
"""Who acts when no call is being served: periodic work, messages."""
STRANGER: Final = Principal("stranger", Kind.ANONYMOUS, None, frozenset())
"""A caller whose request carries its own proof, before that is verified."""
ANYBODY: Final = Principal("anonymous", Kind.ANONYMOUS, None, frozenset(Permission))
"""Every caller while authentication is off."""

_current: ContextVar[Principal] = ContextVar("principal", default=SYSTEM)


def current_principal() -> Principal:
    """Who makes the call that is being served."""
    return _current.get()


class acting_as:
    """`with acting_as(principal):` - everything inside is done by `principal`."""

    __slots__ = ("_principal", "_token")

    def __init__(self, principal: Principal) -> None:
        self._principal = principal

    def __enter__(self) -> None:
        self._token: Token[Principal] = _current.set(self._principal)

    def __exit__(self, *_: object) -> None:
        _current.reset(self._token)
