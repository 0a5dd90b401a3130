"""The secrets of one mesh, made at random and kept in files that only their owner reads."""

from __future__ import annotations

import base64
import json
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Final

from meterline.auth.tokens import new_private_key, public_key_of

_MASTER_KEY_BYTES: Final = 32


class SecretFile:
    """Texts by name, in a JSON file. What is not there yet is made when it is first asked for."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, str] | None = None

    def get(self, name: str, make: Callable[[], str]) -> str:
        if self._known is None:
            self._known = json.loads(self._path.read_text()) if self._path.exists() else {}
        if name not in self._known:
            self._known[name] = make()
            write_secret(self._path, json.dumps(self._known))
        return self._known[name]


class Keys:
    """What the services of a mesh prove themselves with, and seal with."""

    def __init__(self, path: Path) -> None:
        self._file = SecretFile(path)

    @property
    def private(self) -> str:
        """What tokens are signed with, as PEM."""
        return self._file.get("service_key", new_private_key)

    @property
    def public(self) -> str:
        """What they are verified with."""
        return public_key_of(self.private)

    @property
    def master_keys(self) -> str:
        return self._file.get("master_keys", _master_keys)


def write_secret(path: Path, text: str) -> None:
    """Writes a file that only its owner can read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        # A file that was there keeps its mode otherwise.
        os.fchmod(descriptor, 0o600)
        file.write(text)


def _master_keys() -> str:
    return "dev:" + base64.b64encode(secrets.token_bytes(_MASTER_KEY_BYTES)).decode()
