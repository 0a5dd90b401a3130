"""Tokens that services and operators sign for themselves: JWTs under Ed25519, verified with nothing but
public keys. A key signs for its owner alone, and for no more than its owner may do."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from meterline.auth.principals import Kind, Permission, Principal
from meterline.auth.public_keys import KeyRing, PublicKey, key_id
from meterline.clock import Clock
from meterline.errors import UnauthenticatedError

AUDIENCE: Final = "meterline"
LIFETIME_SECONDS: Final = 300
# A token with a longer lifetime was signed by mistake; it could outlive its key by long.
MAX_LIFETIME_SECONDS: Final = 86_400
_ALGORITHM: Final = "EdDSA"
_SECOND_US: Final = 1_000_000


class ServiceSigner:
    """Signs tokens for one service, each good for many calls: a new one comes at half of its lifetime."""

    def __init__(
        self,
        name: str,
        private_key: str,
        permissions: Collection[Permission],
        clock: Clock,
        *,
        tenant: str | None = None,
        lifetime_seconds: int = LIFETIME_SECONDS,
    ) -> None:
        """`private_key` is PEM. Raises ValueError, whose text omits the key, when it is no Ed25519 key."""
        self._key = _private(private_key)
        self._headers = {"kid": key_id(self._key.public_key())}
        self._claims = {"sub": name, "aud": AUDIENCE, "permissions": sorted(permissions)}
        if tenant is not None:
            self._claims["tenant"] = tenant
        self._clock = clock
        self._lifetime = lifetime_seconds
        self._token = ""
        self._renew_us = 0

    def token(self) -> str:
        """A token that is valid now."""
        now_us = self._clock.now_us()
        if now_us >= self._renew_us:
            issued = now_us // _SECOND_US
            claims = {**self._claims, "iat": issued, "exp": issued + self._lifetime}
            self._token = jwt.encode(claims, self._key, _ALGORITHM, self._headers)
            self._renew_us = now_us + self._lifetime * _SECOND_US // 2
        return self._token


class ServiceTokens:
    """Verifies such tokens."""

    def __init__(self, ring: KeyRing) -> None:
        self._ring = ring

    def changed(self) -> bool:
        """Whether tokens that were verified before may no longer be valid."""
        return self._ring.changed()

    def verify(self, token: str) -> tuple[Principal, int]:
        """Whom it belongs to, and when it expires in microseconds; that is for the caller to look at.

        Raises UnauthenticatedError.
        """
        try:
            known = self._ring.keys[jwt.get_unverified_header(token)["kid"]]
            claims = jwt.decode(
                token,
                known.key,
                algorithms=[_ALGORITHM],
                audience=AUDIENCE,
                # Times are held against the service's own clock.
                options={
                    "require": ["sub", "aud", "iat", "exp"],
                    "verify_exp": False,
                    "verify_iat": False,
                    "verify_nbf": False,
                },
            )
            return _principal(claims, known), claims["exp"] * _SECOND_US
        except (jwt.InvalidTokenError, LookupError, TypeError, ValueError):
            # No details: a forger learns nothing from this error, and a legitimate caller knows its token.
            raise UnauthenticatedError("no valid token", "TOKEN_INVALID") from None


def new_private_key() -> str:
    """An Ed25519 private key, as PEM."""
    pem = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return pem.decode()


def public_key_of(private_key: str) -> str:
    """The public key of a private one, both as PEM. Raises ValueError when it is no Ed25519 key."""
    pem = (
        _private(private_key)
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return pem.decode()


def _principal(claims: dict[str, Any], known: PublicKey) -> Principal:
    name, issued, expires, tenant = claims["sub"], claims["iat"], claims["exp"], claims.get("tenant")
    if name != known.owner:
        raise ValueError("a key signs for its owner")
    if not (isinstance(issued, int) and isinstance(expires, int)):
        raise ValueError("times are whole seconds")
    if not 0 < expires - issued <= MAX_LIFETIME_SECONDS:
        raise ValueError("a lifetime of at most a day")
    if tenant is not None and not (isinstance(tenant, str) and tenant):
        raise ValueError("a tenant is a name")
    permissions = frozenset(Permission(text) for text in claims["permissions"])
    # Cut and not refused: a newer service may claim what this version does not grant it yet.
    return Principal(known.owner, Kind.SERVICE, tenant, permissions & known.permissions)


def _private(pem: str) -> Ed25519PrivateKey:
    try:
        key = serialization.load_pem_private_key(pem.encode(), password=None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise ValueError("a service key is an Ed25519 private key in PEM") from None
    return key
