"""Secrets at rest: AES-256-GCM under a master key that the database does not hold.

A sealed value opens only in the place that it was sealed for: tenant, table, column and row are part of what
is authenticated.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from meterline.errors import MeterlineError

_VERSION = 1
_NONCE_BYTES = 12
_KEY_ID = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a sealed value lies."""

    tenant_id: int
    table: str
    column: str
    row: str


class Sealer:
    """Seals with the first of the master keys and opens with any of them, so that they can be replaced."""

    def __init__(self, master_keys: str) -> None:
        """`master_keys` is `id:base64,…`, keys of 32 bytes. Raises ValueError, without telling the keys."""
        self._keys = dict(map(_parse, filter(None, master_keys.replace("\n", ",").split(","))))
        if not self._keys:
            raise ValueError("a master key is needed")
        self._current = next(iter(self._keys))

    def seal(self, secret: bytes, place: Place) -> bytes:
        nonce = os.urandom(_NONCE_BYTES)
        sealed = self._keys[self._current].encrypt(nonce, secret, _authenticated(place, self._current))
        name = self._current.encode()
        return bytes((_VERSION, len(name))) + name + nonce + sealed

    def open(self, sealed: bytes, place: Place) -> bytes:
        """Raises MeterlineError for what was sealed elsewhere, tampered with, or under a key that is gone."""
        start = 2 + sealed[1] if len(sealed) > 1 and sealed[0] == _VERSION else len(sealed)
        name, rest = sealed[2:start].decode(errors="replace"), sealed[start:]
        key = self._keys.get(name)
        if key is None:
            raise MeterlineError(f"{place.table} {place.row} is sealed with a key that is not here")
        try:
            return key.decrypt(rest[:_NONCE_BYTES], rest[_NONCE_BYTES:], _authenticated(place, name))
        except (InvalidTag, ValueError):
            raise MeterlineError(f"{place.table} {place.row} cannot be opened") from None


def _parse(entry: str) -> tuple[str, AESGCM]:
    name, _, encoded = entry.strip().partition(":")
    try:
        key = base64.b64decode(encoded, validate=True)
    except binascii.Error:
        key = b""
    if not _KEY_ID.fullmatch(name) or len(key) != 32:
        raise ValueError("a master key is `id:` and the base64 of 32 bytes") from None
    return name, AESGCM(key)


def _authenticated(place: Place, key: str) -> bytes:
    return f"{_VERSION}|{place.tenant_id}|{place.table}|{place.column}|{place.row}|{key}".encode()
