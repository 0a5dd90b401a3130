"""Secrets of a service's own, sealed directly under a master key: few, and never of a size worth a key each.

A sealed value opens only in the place that it was sealed for: tenant, table, column and row are part of what
is authenticated. What tenants own is sealed under keys of theirs (`envelope`), which can be destroyed.
"""

from __future__ import annotations

from dataclasses import dataclass

from cryptography.exceptions import InvalidTag

from meterline.crypto.envelope import NONCE_BYTES, new_nonce, place
from meterline.crypto.framing import part
from meterline.crypto.master_keys import MasterKeys
from meterline.errors import TamperedError

_VERSION = 1


@dataclass(frozen=True, slots=True)
class Place:
    """Where a sealed value lies."""

    tenant_id: int
    table: str
    column: str
    row: str


class Sealer:
    """Seals with the current master key and opens with any of them, so that they can be replaced."""

    def __init__(self, masters: MasterKeys) -> None:
        self._masters = masters

    def seal(self, secret: bytes, where: Place) -> bytes:
        name, nonce = self._masters.current_id, new_nonce()
        sealed = self._masters.cipher(name).encrypt(nonce, secret, _authenticated(where, name))
        return bytes((_VERSION, len(name))) + name.encode() + nonce + sealed

    def open(self, sealed: bytes, where: Place) -> bytes:
        """Raises TamperedError for what was sealed elsewhere or changed, UnavailableError when this process
        was not given the master key."""
        start = 2 + sealed[1] if len(sealed) > 1 and sealed[0] == _VERSION else len(sealed)
        name, rest = sealed[2:start].decode(errors="replace"), sealed[start:]
        if not name or len(rest) < NONCE_BYTES:
            raise TamperedError("not a sealed value of a known version")
        cipher = self._masters.cipher(name)
        try:
            return cipher.decrypt(rest[:NONCE_BYTES], rest[NONCE_BYTES:], _authenticated(where, name))
        except InvalidTag:
            raise TamperedError("a sealed value does not fit its place, or was changed") from None


def _authenticated(where: Place, master_id: str) -> bytes:
    column = place(where.tenant_id, where.table, where.column)
    return b"".join(map(part, (b"meterline sealed secret", column, where.row.encode(), master_id.encode())))
