"""Checks a signed call before anything of its body is read.

Every refusal has a reason of its own, for those who debug a client. None reveals what only the holder of the
secret may know.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass, field
from typing import Final

from meterline.errors import InvalidArgumentError, UnauthenticatedError

WINDOW_MS: Final = 300_000
# Dots separate the signed parts: with one in an id, one call could be read as another.
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class SigningKey:
    """The key that a tenant's configurations are issued with. `expires_at_us` None: does not expire."""

    secret: bytes = field(repr=False)
    expires_at_us: int | None
    revoked: bool


@dataclass(frozen=True, slots=True)
class SignedCall:
    """A signed call as it was received."""

    config: bytes
    id: str
    timestamp_ms: int
    body: bytes
    signature: bytes


def check_moment(call: SignedCall, now_us: int) -> None:
    """Raises unless the call was made now; event ids make a replay within the window harmless."""
    if not _ID.fullmatch(call.id):
        raise InvalidArgumentError("id", "1 to 64 letters, digits, dashes and underscores", "ID_INVALID")
    now_ms = now_us // 1_000
    if abs(now_ms - call.timestamp_ms) > WINDOW_MS:
        raise UnauthenticatedError(
            f"timestamp_ms: at most {WINDOW_MS // 1_000} s from the server's time",
            "TIMESTAMP_OUT_OF_WINDOW",
            {"server_time_ms": str(now_ms)},
        )


def check_key(key: SigningKey | None, now_us: int) -> SigningKey:
    """The key, if it verifies now."""
    if key is None:
        raise UnauthenticatedError("the tenant has no such signing key", "KEY_UNKNOWN")
    if key.revoked:
        raise UnauthenticatedError("the signing key was revoked", "KEY_REVOKED")
    if key.expires_at_us is not None and now_us >= key.expires_at_us:
        raise UnauthenticatedError("the signing key has expired", "KEY_EXPIRED")
    return key


def check_signature(call: SignedCall, key: SigningKey) -> None:
    """Raises unless the call was signed with the secret that belongs to its configuration."""
    secret = hmac.digest(key.secret, call.config, hashlib.sha256)
    expected = signature(secret, call.id, call.timestamp_ms, call.body)
    if not hmac.compare_digest(expected, call.signature):
        raise UnauthenticatedError("the signature does not fit the call", "SIGNATURE_INVALID")


def signature(client_secret: bytes, id: str, timestamp_ms: int, body: bytes) -> bytes:
    """HMAC-SHA256 of `{id}.{timestamp_ms}.{body}`, the bytes as they are."""
    mac = hmac.new(client_secret, f"{id}.{timestamp_ms}.".encode(), hashlib.sha256)
    mac.update(body)
    return mac.digest()
