"""Sealed values: AES-256-GCM under a tenant's data key, bound to the place that they are stored at.

A sealed value describes itself:

    version (1) | number of the data key (4) | nonce (12) | ciphertext | tag (16)

Version and number are big-endian and come first, so that values of earlier keys compare as less than those
of later ones, in Python and in Postgres alike. Tenant, table, column and row are not in the value but are
authenticated with it. A ciphertext that was moved or changed does not open.
"""

from __future__ import annotations

import os
import struct
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from meterline.crypto.framing import part
from meterline.errors import TamperedError

VERSION: Final = 1
KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
TAG_BYTES: Final = 16

_HEADER = struct.Struct(">BI")
_KEY_ID = struct.Struct(">I")
_TENANT = struct.Struct(">q")
OVERHEAD: Final = _HEADER.size + NONCE_BYTES + TAG_BYTES
"""A sealed value is this much longer than its text."""


def new_secret() -> bytes:
    """The bytes of a new key."""
    return os.urandom(KEY_BYTES)


def new_nonce() -> bytes:
    """Random, which is safe for 2^32 messages of one key; keys are rotated long before."""
    return os.urandom(NONCE_BYTES)


def place(tenant_id: int, table: str, column: str) -> bytes:
    """Where values live, but for their rows. The same for a whole column, so worth keeping."""
    names = (bytes([VERSION]), _TENANT.pack(tenant_id), table.encode(), column.encode())
    return b"".join(map(part, names))


def key_id_of(sealed: bytes) -> int:
    """The number of the key that a value says it is sealed under. Raises TamperedError."""
    if len(sealed) < OVERHEAD or sealed[0] != VERSION:
        raise TamperedError("not a sealed value of a known version")
    number: int = _KEY_ID.unpack_from(sealed, 1)[0]
    return number


def first_of(key_id: int) -> bytes:
    """Values of earlier keys are less than these bytes, those of this key and of later ones are not."""
    return _HEADER.pack(VERSION, key_id)


class DataKey:
    """A key that is ready for use. Its secret never leaves it, nor shows in its text."""

    __slots__ = ("_cipher", "_header", "_tail", "key_id")

    def __init__(self, key_id: int, secret: bytes) -> None:
        if len(secret) != KEY_BYTES:
            raise ValueError(f"a key has {KEY_BYTES} bytes")
        self.key_id = key_id
        self._cipher = AESGCM(secret)
        self._header = first_of(key_id)
        self._tail = part(_KEY_ID.pack(key_id))

    def seal(self, where: bytes, row: bytes, text: bytes) -> bytes:
        """`where` is the column's `place`."""
        nonce = new_nonce()
        return self._header + nonce + self._cipher.encrypt(nonce, text, where + part(row) + self._tail)

    def unseal(self, where: bytes, row: bytes, sealed: bytes) -> bytes:
        """Raises TamperedError when anything differs from what was sealed: the value, its place, the key."""
        if key_id_of(sealed) != self.key_id:
            raise TamperedError("sealed under another key")
        start = _HEADER.size + NONCE_BYTES
        try:
            return self._cipher.decrypt(
                sealed[_HEADER.size : start], sealed[start:], where + part(row) + self._tail
            )
        except InvalidTag:
            raise TamperedError("a sealed value does not fit its place, or was changed") from None
