"""Master keys wrap the keys of tenants. They are kept outside the database, which alone opens nothing."""

from __future__ import annotations

import base64
import binascii
import re
import struct
from collections.abc import Mapping
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from meterline.crypto.envelope import KEY_BYTES, NONCE_BYTES, TAG_BYTES, new_nonce
from meterline.crypto.framing import part
from meterline.errors import TamperedError, UnavailableError

VERSION: Final = 1
WRAPPED_BYTES: Final = 1 + NONCE_BYTES + KEY_BYTES + TAG_BYTES

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_SUBJECT = struct.Struct(">qI")


class MasterKeys:
    """The first is current and wraps; the others only unwrap what they wrapped once."""

    __slots__ = ("_ciphers", "current_id")

    def __init__(self, secrets: Mapping[str, bytes]) -> None:
        """Names and bytes, the current key first. Raises ValueError; its text contains none of the bytes."""
        if not secrets:
            raise ValueError("at least one master key")
        for name, secret in secrets.items():
            if not _NAME.fullmatch(name):
                raise ValueError("a master key's id has 1 to 64 letters, digits, '.', '_' and '-'")
            if len(secret) != KEY_BYTES:
                raise ValueError(f"each master key has {KEY_BYTES} bytes, in base64")
        if len(set(secrets.values())) < len(secrets):
            raise ValueError("two master keys are the same under different ids")
        self.current_id = next(iter(secrets))
        self._ciphers = {name: AESGCM(secret) for name, secret in secrets.items()}

    @classmethod
    def parse(cls, text: str) -> MasterKeys:
        """From `id:base64,…`. Raises ValueError, whose text contains none of the bytes."""
        secrets: dict[str, bytes] = {}
        for entry in text.split(","):
            name, _, encoded = entry.strip().partition(":")
            if name in secrets:
                raise ValueError("a master key's id occurs twice")
            try:
                secrets[name] = base64.b64decode(encoded, validate=True)
            except binascii.Error:
                raise ValueError("master keys are id:base64, with commas between") from None
        return cls(secrets)

    def __repr__(self) -> str:
        return f"MasterKeys({', '.join(self._ciphers)})"

    def cipher(self, master_id: str) -> AESGCM:
        """Raises UnavailableError when this process was not given the master key."""
        cipher = self._ciphers.get(master_id)
        if cipher is None:
            raise UnavailableError(f"master key {master_id!r} was not given to this process")
        return cipher

    def wrap(self, secret: bytes, tenant_id: int, key_id: int, purpose: str) -> bytes:
        """A key of a tenant under the current master key, to be opened as that key only."""
        nonce = new_nonce()
        context = _context(tenant_id, key_id, purpose, self.current_id)
        return bytes([VERSION]) + nonce + self._ciphers[self.current_id].encrypt(nonce, secret, context)

    def unwrap(self, wrapped: bytes, master_id: str, tenant_id: int, key_id: int, purpose: str) -> bytes:
        """Raises TamperedError when it is not what was wrapped, UnavailableError when this process was not
        given the master key."""
        cipher = self.cipher(master_id)
        if len(wrapped) != WRAPPED_BYTES or wrapped[0] != VERSION:
            raise TamperedError("not a wrapped key of a known version")
        context = _context(tenant_id, key_id, purpose, master_id)
        try:
            return cipher.decrypt(wrapped[1 : 1 + NONCE_BYTES], wrapped[1 + NONCE_BYTES :], context)
        except InvalidTag:
            raise TamperedError("a wrapped key does not fit its place, or was changed") from None


def _context(tenant_id: int, key_id: int, purpose: str, master_id: str) -> bytes:
    parts = (
        b"meterline wrapped key",
        bytes([VERSION]),
        _SUBJECT.pack(tenant_id, key_id),
        purpose.encode(),
        master_id.encode(),
    )
    return b"".join(map(part, parts))
