"""What an untrusted client may be allowed to report."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from typing import Final

from meterline.errors import InvalidArgumentError
from meterline.names import NAME_RULE, is_name

from meterline_identity.tenants.rules import fields

MAX_TYPES: Final = 32
DEFAULT_LIFETIME_SECONDS: Final = 3_600
MAX_LIFETIME_SECONDS: Final = 7 * 86_400
_MAX_ACTOR: Final = 256
_MAX_SOURCE: Final = 128


@dataclass(frozen=True, slots=True)
class Scope:
    """The requested scope of a configuration. Raises InvalidArgumentError for what breaks a rule."""

    actor: str
    types: tuple[str, ...]
    source: str
    lifetime_seconds: int

    def __post_init__(self) -> None:
        fields.text("actor", self.actor, required=False, longest=_MAX_ACTOR)
        fields.text("source", self.source, longest=_MAX_SOURCE)
        if not 1 <= len(set(self.types)) == len(self.types) <= MAX_TYPES:
            raise InvalidArgumentError("types", f"must be 1 to {MAX_TYPES}, each once")
        if not all(map(is_name, self.types)):
            raise InvalidArgumentError("types", f"must each be {NAME_RULE}", "NAME_INVALID")
        if not 1 <= self.lifetime_seconds <= MAX_LIFETIME_SECONDS:
            raise InvalidArgumentError("lifetime_seconds", f"must be 1 to {MAX_LIFETIME_SECONDS}")


def client_secret(signing_secret: bytes, config: bytes) -> bytes:
    """The secret that the client of a configuration signs with. It is derived from both arguments, so that
    nothing is stored, and a changed configuration has another secret."""
    return hmac.digest(signing_secret, config, hashlib.sha256)
