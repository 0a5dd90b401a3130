"""Signing keys: a tenant has one, and during a rotation two."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from meterline.errors import FailedPreconditionError, InvalidArgumentError

MAX_ACTIVE: Final = 2
DEFAULT_GRACE_SECONDS: Final = 86_400
MAX_GRACE_SECONDS: Final = 30 * 86_400


@dataclass(frozen=True, slots=True)
class SigningKey:
    """`generation` rises by one with each key of a tenant. `sealed` is the secret, None after it is revoked.
    Times are microseconds since the Unix epoch; the newest key has no end until it is replaced or revoked."""

    tenant_id: int
    generation: int
    key_id: str
    sealed: bytes | None
    created_at_us: int
    created_by: str
    expires_at_us: int | None = None
    revoked_at_us: int | None = None
    revoked_by: str = ""

    def is_active(self, now_us: int) -> bool:
        return self.revoked_at_us is None and (self.expires_at_us is None or now_us < self.expires_at_us)


def grace_seconds(field: str, value: int) -> int:
    if not 0 <= value <= MAX_GRACE_SECONDS:
        raise InvalidArgumentError(field, f"must be 0 to {MAX_GRACE_SECONDS} seconds")
    return value


def newest_active(keys: Sequence[SigningKey], now_us: int) -> SigningKey | None:
    """The key that new configurations are signed with."""
    active = [key for key in keys if key.is_active(now_us)]
    return max(active, key=lambda key: key.generation, default=None)


def outgoing(keys: Sequence[SigningKey], now_us: int, grace_us: int) -> SigningKey | None:
    """The active key that the next one replaces, with its end; None when there is none.

    Raises FailedPreconditionError while two are active: a third would lock out clients of the oldest.
    """
    active = [key for key in keys if key.is_active(now_us)]
    if len(active) >= MAX_ACTIVE:
        raise FailedPreconditionError(
            "signing keys",
            "two are active: revoke the older one, or wait until it expires",
            "TWO_SIGNING_KEYS",
        )
    if not active:
        return None
    (key,) = active
    end = now_us + grace_us
    return replace(key, expires_at_us=end if key.expires_at_us is None else min(key.expires_at_us, end))
