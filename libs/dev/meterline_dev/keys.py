"""The secrets of one mesh, made at random and kept in files that only their owner reads.

Each service has a key of its own. The operator's is in a separate file, so that it can be replaced while the
mesh runs: services read the file of public keys again, and then refuse tokens of the old key.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import tempfile
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Final

from meterline.auth.grants import SERVICES
from meterline.auth.principals import GRANTABLE, Permission
from meterline.auth.public_keys import entry
from meterline.auth.tokens import ServiceSigner, new_private_key, public_key_of
from meterline.clock import SystemClock

from meterline_dev.placement import TOKEN_FILE

OPERATOR: Final = "operator"
_MASTER_KEY_BYTES: Final = 32
_TOKEN_SECONDS: Final = 86_400


class SecretFile:
    """Texts by name, in a JSON file. A missing text is created when it is first requested."""

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
    """What the services of a mesh prove themselves with, and seal with, and what its operator has."""

    def __init__(self, directory: Path) -> None:
        self._file = SecretFile(directory / "keys.json")
        self._operator_key = directory / "operator.pem"
        self.public_keys_file = directory / "public-keys"
        """What services verify tokens with."""
        self.token_file = directory / TOKEN_FILE
        """A token of the operator's, of when the mesh was started or the key was made."""
        self._signer: ServiceSigner | None = None
        self._signer_of = (0, 0)

    def private(self, service: str) -> str:
        """The private key with which a service signs its tokens, as PEM."""
        return self._file.get(f"{service}_key", new_private_key)

    @property
    def master_keys(self) -> str:
        return self._file.get("master_keys", _master_keys)

    @property
    def double_control_key(self) -> str:
        """The key of the Stripe double's control calls."""
        return self._file.get("double_control_key", lambda: secrets.token_urlsafe(32))

    def publish(self) -> None:
        """Writes the files that others read, and the operator's key if there is none."""
        owners = [entry(f"service {name}", public_key_of(self.private(name))) for name in SERVICES]
        owners.append(entry(f"operator {OPERATOR}", public_key_of(self._operator_private())))
        write_secret(self.public_keys_file, "".join(owners))
        write_secret(self.token_file, self.operator_token())

    def renew_operator(self) -> None:
        """A new key and token for the operator. Running services take them instead of the old ones as soon as
        they look at the file again, which is within `public_keys.LOOK_SECONDS`."""
        write_secret(self._operator_key, new_private_key())
        self.publish()

    def operator_token(self) -> str:
        """A token that is valid now, under the current key, which another process may have replaced."""
        if not self._operator_key.exists():
            write_secret(self._operator_key, new_private_key())
        # A replaced key file has another inode or time.
        status = self._operator_key.stat()
        seen = status.st_ino, status.st_mtime_ns
        if self._signer is None or seen != self._signer_of:
            self._signer, self._signer_of = self.operator_signer(GRANTABLE), seen
        return self._signer.token()

    def operator_signer(
        self, permissions: Collection[Permission], tenant: str | None = None
    ) -> ServiceSigner:
        """Signs tokens of the operator's, for less than it may do."""
        return ServiceSigner(
            OPERATOR,
            self._operator_private(),
            permissions,
            SystemClock(),
            tenant=tenant,
            lifetime_seconds=_TOKEN_SECONDS,
        )

    def service_signer(self, service: str) -> ServiceSigner:
        """Signs tokens of a service, for all that it may ask of others."""
        return ServiceSigner(service, self.private(service), SERVICES[service], SystemClock())

    def _operator_private(self) -> str:
        if not self._operator_key.exists():
            write_secret(self._operator_key, new_private_key())
        return self._operator_key.read_text()


def write_secret(path: Path, text: str) -> None:
    """Writes a file that only its owner can read. Who reads it meanwhile sees the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
        Path(name).replace(path)
    finally:
        # It is there only if it could not be written or renamed.
        Path(name).unlink(missing_ok=True)


def _master_keys() -> str:
    return "dev:" + base64.b64encode(secrets.token_bytes(_MASTER_KEY_BYTES)).decode()
