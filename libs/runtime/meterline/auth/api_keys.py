"""API keys: `mlk_<key id>_<secret>`. Identity stores a digest of the secret; nobody stores the secret.

The secret has 256 random bits, so a plain SHA-256 of it cannot be reversed by guessing.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from meterline.auth.credential_cache import FRESH_SECONDS, STALE_SECONDS, CredentialCache
from meterline.auth.principals import Principal
from meterline.errors import UnauthenticatedError

PREFIX: Final = "mlk_"
_FORM = re.compile(r"mlk_([0-9a-f]{16})_([0-9a-f]{64})", re.ASCII)

Verify = Callable[[str, bytes], Awaitable[Principal | None]]
"""From (key id, digest of the secret) to the key's owner; None for a key that is not valid."""


@dataclass(frozen=True, slots=True)
class NewKey:
    """A new key. Its `token` is returned once, to the caller that created it."""

    key_id: str
    digest: bytes
    token: str = field(repr=False)


def make() -> NewKey:
    key_id, secret = secrets.token_hex(8), secrets.token_hex(32)
    return NewKey(key_id, digest_of(secret), f"{PREFIX}{key_id}_{secret}")


def parse(token: str) -> tuple[str, bytes] | None:
    """Key id and digest of the secret; None if the text is no API key."""
    match = _FORM.fullmatch(token)
    return (match[1], digest_of(match[2])) if match else None


def digest_of(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


class KnownKeys:
    """Whom keys belong to. A revoked one is known for `fresh` seconds, and for `stale` at the most."""

    def __init__(self, verify: Verify, *, fresh: float = FRESH_SECONDS, stale: float = STALE_SECONDS) -> None:
        self._verify = verify
        self._cache: CredentialCache[str, Principal] = CredentialCache(
            "the verification of keys", self._ask, fresh=fresh, stale=stale
        )
        self.known = self._cache.known
        self.remembers = self._cache.remembers

    async def find(self, token: str) -> Principal:
        """Raises UnauthenticatedError, and UnavailableError when it cannot be found out."""
        found = await self._cache.find(token) if _FORM.fullmatch(token) else None
        if found is None:
            # Unknown, revoked and malformed look the same from outside.
            raise UnauthenticatedError("no valid API key", "TOKEN_INVALID")
        return found

    async def _ask(self, token: str) -> Principal | None:
        parsed = parse(token)
        return await self._verify(*parsed) if parsed else None
