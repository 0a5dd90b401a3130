"""What sealing a value costs beside the cipher alone: `python -m tests.bench.sealing`.

The cipher alone is one call of the library, with a nonce and a context that are ready.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from meterline.crypto.envelope import new_secret
from meterline.crypto.master_keys import MasterKeys
from meterline_ingest.keys.keyring import Keyring, Sealed
from meterline_ingest.keys.rules import FINGERPRINT_KEY, FIRST_KEY, Purpose, WrappedKey
from rich.console import Console
from rich.table import Table

_TENANT = 1
_SECONDS = 0.3
_SIZES = (16, 256, 4_096)
_ROW = bytes(16)


def _microseconds(work: Callable[[], object]) -> float:
    """Of one call, in the best hundred of those that fit into `_SECONDS`: others disturb, and never help."""
    ends, best = time.perf_counter() + _SECONDS, float("inf")
    while (started := time.perf_counter()) < ends:
        for _ in range(100):
            work()
        best = min(best, time.perf_counter() - started)
    return best / 100 * 1e6


def _keyring() -> Keyring:
    masters = MasterKeys({"bench": new_secret()})
    names = ((FINGERPRINT_KEY, Purpose.FINGERPRINTS), (FIRST_KEY, Purpose.SEALING))
    keys = [
        WrappedKey(
            _TENANT, key_id, purpose, masters.wrap(new_secret(), _TENANT, key_id, purpose), "bench", True
        )
        for key_id, purpose in names
    ]
    return Keyring(_TENANT, keys, masters, Sealed())


def _row(size: int) -> tuple[str, ...]:
    text, nonce, context = os.urandom(size), os.urandom(12), os.urandom(60)
    cipher, keyring = AESGCM(new_secret()), _keyring()
    encrypted = cipher.encrypt(nonce, text, context)
    sealed = keyring.seal("event_details", "sealed", _ROW, text)
    plain = (
        _microseconds(lambda: cipher.encrypt(nonce, text, context)),
        _microseconds(lambda: cipher.decrypt(nonce, encrypted, context)),
    )
    ours = (
        _microseconds(lambda: keyring.seal("event_details", "sealed", _ROW, text)),
        _microseconds(lambda: keyring.unseal("event_details", "sealed", _ROW, sealed)),
    )
    fingerprint = _microseconds(lambda: keyring.fingerprint(text))
    cells = [f"{value:.2f} ({value / alone:.1f} x)" for value, alone in zip(ours, plain, strict=True)]
    return (f"{size:,}", f"{plain[0]:.2f}", cells[0], f"{plain[1]:.2f}", cells[1], f"{fingerprint:.2f}")


def main() -> None:
    table = Table(
        "bytes", "encrypt", "seal", "decrypt", "unseal", "fingerprint", title="microseconds a value"
    )
    for size in _SIZES:
        table.add_row(*_row(size))
    opening = _microseconds(lambda: _keyring().seal("event_details", "sealed", _ROW, b"text"))
    Console().print(table)
    Console().print(f"a keyring made anew, with its first seal: {opening:.1f} us")


if __name__ == "__main__":
    main()
