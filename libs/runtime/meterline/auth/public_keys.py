"""Public keys and their owners: tokens are verified with them, and their owners' permissions bound tokens.

    service ingest
    -----BEGIN PUBLIC KEY-----
    ...
    -----END PUBLIC KEY-----
    operator alice read,configure
    -----BEGIN PUBLIC KEY-----
    ...

Before each key, in PEM, is a line that names its owner. A service has the permissions of `grants.SERVICES`,
an operator those that follow, or all that can be granted when none do. An owner may have several keys
while one replaces another; a key has one owner. Lines that begin with # are comments.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from meterline.auth.grants import SERVICES
from meterline.auth.principals import GRANTABLE, Permission
from meterline.telemetry.logging import logger

log = logger()

LOOK_SECONDS: Final = 2.0
"""How often a file of keys is read again, and so how long a removed key may still be accepted."""

_BEGIN: Final = "-----BEGIN PUBLIC KEY-----"
_END: Final = "-----END PUBLIC KEY-----"
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}", re.ASCII)
_GRANTABLE: Final = {str(permission): permission for permission in GRANTABLE}


@dataclass(frozen=True, slots=True)
class PublicKey:
    """owner: what its tokens must name as their subject. permissions: what they are good for at most"""

    owner: str
    permissions: frozenset[Permission]
    key: Ed25519PublicKey


def parse(text: str) -> Mapping[str, PublicKey]:
    """Keys by their ids. Raises ValueError for anything but keys with owners, and for none at all."""
    found: dict[str, PublicKey] = {}
    owner: tuple[str, frozenset[Permission]] | None = None
    block: list[str] | None = None
    for line in map(str.strip, text.splitlines()):
        if line == _BEGIN:
            if owner is None:
                raise ValueError("each public key needs a line before it: service NAME, or operator NAME")
            block = [line]
        elif block is not None:
            block.append(line)
        elif line and not line.startswith("#"):
            if owner is not None:
                raise ValueError(f"public keys: {owner[0]} has no Ed25519 public key after its line")
            owner = _owner(line)
        if block is not None and owner is not None and line == _END:
            one = PublicKey(*owner, _public("\n".join(block)))
            if found.setdefault(key_id(one.key), one) != one:
                raise ValueError(f"public keys: {owner[0]} has the key of another owner")
            owner = block = None
    if block is not None or owner is not None or not found:
        raise ValueError("public keys are Ed25519 keys in PEM, each after a line that names its owner")
    return found


def entry(owner: str, public_key: str) -> str:
    """A key as `parse` reads it: `owner` is `service NAME` or `operator NAME [PERMISSIONS]`."""
    return f"{owner}\n{public_key.strip()}\n"


def key_id(key: Ed25519PublicKey) -> str:
    """How a token names the key that it was signed with."""
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()[:16]


class KeyRing:
    """The current public keys: of a text, or of a file that is read again when it changes."""

    def __init__(self, keys: str | Path, *, now: Callable[[], float] = time.monotonic) -> None:
        """Raises ValueError for a text without valid keys, and OSError for a file that cannot be read."""
        self._path = keys if isinstance(keys, Path) else None
        self._text = keys.read_text() if isinstance(keys, Path) else keys
        self._now = now
        self._next_look = now() + LOOK_SECONDS
        self.keys = parse(self._text)

    def changed(self) -> bool:
        """Whether the keys have changed since the last call; reads the file every `LOOK_SECONDS` at most."""
        if self._path is None or self._now() < self._next_look:
            return False
        self._next_look = self._now() + LOOK_SECONDS
        try:
            text = self._path.read_text()
            if text == self._text:
                return False
            self.keys, self._text = parse(text), text
        except (OSError, ValueError) as error:
            # An incomplete file must not lock everybody out. It is logged until it can be read.
            log.exception("public_keys.unreadable", path=str(self._path), error=str(error))
            return False
        log.info("public_keys.changed", owners=sorted({key.owner for key in self.keys.values()}))
        return True


def _owner(line: str) -> tuple[str, frozenset[Permission]]:
    kind, *words = line.split()
    if kind not in ("service", "operator") or not words:
        raise ValueError("public keys: a line is service NAME, operator NAME [PERMISSIONS], or a key in PEM")
    name, *more = words
    if kind == "service":
        if name not in SERVICES or more:
            raise ValueError(f"public keys: service is one of {', '.join(SERVICES)}, and nothing after it")
        return name, SERVICES[name]
    if name in SERVICES or not _NAME.fullmatch(name):
        raise ValueError("public keys: an operator has a name of small letters, digits, '.', '_', '-'")
    named = "".join(more).split(",") if more else list(_GRANTABLE)
    if unknown := [text for text in named if text not in _GRANTABLE]:
        raise ValueError(f"public keys: operator {name} cannot have the permission {unknown[0]!r}")
    return name, frozenset(_GRANTABLE[text] for text in named)


def _public(pem: str) -> Ed25519PublicKey:
    try:
        key = serialization.load_pem_public_key(pem.encode())
    except ValueError:
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise ValueError("service public keys are Ed25519 public keys in PEM") from None
    return key
