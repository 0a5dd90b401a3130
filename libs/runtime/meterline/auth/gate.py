"""The gate of a server: every call passes it before its request reaches a handler."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from meterline.auth import api_keys
from meterline.auth.api_keys import KnownKeys
from meterline.auth.principals import ANYBODY, STRANGER, Principal
from meterline.auth.rules import Reach, Rule, Rules, require
from meterline.auth.tokens import ServiceTokens
from meterline.clock import Clock
from meterline.errors import UnauthenticatedError

HEADER = "authorization"
_SCHEME = "bearer "
_MAX_SERVICE_TOKENS = 1_000

Metadata = Iterable[tuple[str, str | bytes]]


class Authenticator(Protocol):
    """Identifies the caller."""

    async def identify(self, metadata: Metadata) -> Principal:
        """Raises UnauthenticatedError, and UnavailableError when it cannot be found out."""

    def knows(self, metadata: Metadata) -> bool:
        """Whether somebody was known by this before. Says nothing of what they may do, or still may."""


class Anybody:
    """Authentication is off: every caller may do everything."""

    async def identify(self, metadata: Metadata) -> Principal:
        return ANYBODY

    def knows(self, metadata: Metadata) -> bool:
        return True


class Bearers:
    """Identifies callers by their token. A token that was verified before is only looked up."""

    def __init__(self, services: ServiceTokens, keys: KnownKeys, clock: Clock) -> None:
        self._services = services
        self._keys = keys
        self._clock = clock
        self._verified: dict[str, tuple[Principal, int]] = {}

    async def identify(self, metadata: Metadata) -> Principal:
        token = bearer_token(metadata)
        if token.startswith(api_keys.PREFIX):
            return self._keys.known(token) or await self._keys.find(token)
        if self._services.changed():
            self._verified.clear()
        known = self._verified.get(token)
        if known is None:
            known = self._remember(token)
        principal, expires_us = known
        if self._clock.now_us() >= expires_us:
            raise UnauthenticatedError("the token has expired", "TOKEN_EXPIRED")
        return principal

    def knows(self, metadata: Metadata) -> bool:
        for key, value in metadata:
            if key == HEADER and isinstance(value, str):
                token = value[len(_SCHEME) :]
                return token in self._verified or self._keys.remembers(token)
        return False

    def _remember(self, token: str) -> tuple[Principal, int]:
        known = self._services.verify(token)
        if len(self._verified) >= _MAX_SERVICE_TOKENS:
            # The first was seen first, so it is likely the first to have expired.
            del self._verified[next(iter(self._verified))]
        self._verified[token] = known
        return known


class Gate:
    """Checks the callers of one server against the rules of its methods."""

    def __init__(self, rules: Rules, authenticator: Authenticator) -> None:
        self._rules = rules
        self._authenticator = authenticator

    def rule(self, method: str, *, streams_in: bool) -> Rule:
        """Raises LookupError for a method without a rule: such a server does not start."""
        rule = self._rules.get(method)
        if rule is None:
            raise LookupError(f"{method} has no rule of access")
        if streams_in and rule.reach is not Reach.EVENTS:
            raise LookupError(f"{method} streams requests, whose tenants only capture judges")
        return rule

    def knows(self, rule: Rule, metadata: Metadata) -> bool:
        """Whether a call seems to be a known caller's, so that it uses their lane. Authenticates nobody."""
        return rule.permission is not None and self._authenticator.knows(metadata)

    async def admit(self, rule: Rule, metadata: Metadata, request: Any) -> Principal:
        """Who makes this call. Raises UnauthenticatedError, PermissionDeniedError and UnavailableError.

        Called again while a stream lasts, so that no stream outlives its credentials.
        """
        principal = await self.identify(rule, metadata)
        require(rule, principal, request)
        return principal

    async def identify(self, rule: Rule, metadata: Metadata) -> Principal:
        """Who makes this call, before anything is known of the request.

        Raises UnauthenticatedError and UnavailableError.
        """
        return STRANGER if rule.permission is None else await self._authenticator.identify(metadata)


def bearer_token(metadata: Metadata) -> str:
    """The token of a call. Raises UnauthenticatedError without exactly one."""
    found = [value for key, value in metadata if key == HEADER]
    if not found:
        raise UnauthenticatedError(f"metadata {HEADER}: Bearer <token>", "TOKEN_MISSING")
    value = found[0]
    if len(found) > 1 or not isinstance(value, str) or value[: len(_SCHEME)].lower() != _SCHEME:
        raise UnauthenticatedError(f"one {HEADER}: Bearer <token>", "TOKEN_INVALID")
    return value[len(_SCHEME) :]
