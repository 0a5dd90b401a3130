"""The keys of one tenant, read a moment ago: seal, unseal and compare its sensitive values."""

from __future__ import annotations

import hmac
from collections import Counter
from collections.abc import Iterable
from typing import Final

from meterline.crypto import envelope
from meterline.crypto.envelope import DataKey
from meterline.crypto.master_keys import MasterKeys
from meterline.errors import FailedPreconditionError, ShreddedError, TamperedError
from meterline.telemetry import metrics

from meterline_ingest.keys.rules import FINGERPRINT_KEY, Purpose, WrappedKey, sealing_key

FINGERPRINT_BYTES: Final = 16
_SUBJECT: Final = "sensitive data"

Sealed = Counter[tuple[int, int]]
"""How many values were sealed by (tenant, key) and not yet counted in the database."""


class Keyring:
    """For one transaction: kept for longer, it would hide that a key was rotated or destroyed.

    Keys are unwrapped when they are first needed. No method waits.
    """

    __slots__ = (
        "_data_keys",
        "_fingerprint_key",
        "_masters",
        "_places",
        "_sealed",
        "_sealing",
        "_wrapped",
        "tenant_id",
    )

    def __init__(
        self, tenant_id: int, keys: Iterable[WrappedKey], masters: MasterKeys, sealed: Sealed
    ) -> None:
        self.tenant_id = tenant_id
        self._masters = masters
        self._sealed = sealed
        self._wrapped = {key.key_id: key for key in keys}
        self._sealing = sealing_key(self._wrapped.values())
        self._data_keys: dict[int, DataKey] = {}
        self._fingerprint_key = b""
        self._places: dict[tuple[str, str], bytes] = {}

    @property
    def exists(self) -> bool:
        """Whether the tenant ever had keys."""
        return bool(self._wrapped)

    @property
    def shredded(self) -> bool:
        return self.exists and self._sealing is None

    @property
    def sealed_before(self) -> bytes:
        """Values less than these bytes need to be resealed. Empty when none does."""
        return b"" if self._sealing is None else envelope.first_of(self._sealing)

    def seal(self, table: str, column: str, row: bytes, plaintext: bytes) -> bytes:
        """Seals a value for this column of this row; it cannot be unsealed for another.

        Raises ShreddedError when the tenant's keys are destroyed.
        """
        key = self._data_key(self._usable())
        self._sealed[self.tenant_id, key.key_id] += 1
        return key.seal(self._place(table, column), row, plaintext)

    def unseal(self, table: str, column: str, row: bytes, sealed: bytes) -> bytes:
        """Opens a sealed value.

        Raises TamperedError when it was sealed for another place, ShreddedError when the keys are destroyed.
        """
        if self.exists:
            self._usable()
        try:
            return self._data_key(envelope.key_id_of(sealed)).unseal(self._place(table, column), row, sealed)
        except TamperedError as error:
            metrics.TAMPERED_VALUES.labels(table).inc()
            raise TamperedError(f"{table}.{column}: {error}") from error

    def needs_reseal(self, sealed: bytes) -> bool:
        """Whether a value was sealed under a key before the present one."""
        return sealed < self.sealed_before

    def fingerprint(self, data: bytes) -> bytes:
        """16 bytes that are the same for the same data of the tenant under any sealing key, and reveal
        nothing of the data without the key. Raises ShreddedError when the tenant's keys are destroyed."""
        self._usable()
        if not self._fingerprint_key:
            self._fingerprint_key = self._unwrapped(FINGERPRINT_KEY, Purpose.FINGERPRINTS)
        return hmac.digest(self._fingerprint_key, data, "sha256")[:FINGERPRINT_BYTES]

    def _usable(self) -> int:
        """The number of the key that seals."""
        if self._sealing is None:
            if self.exists:
                raise ShreddedError(_SUBJECT, "the tenant's keys were destroyed")
            raise FailedPreconditionError(_SUBJECT, "the tenant has no keys yet")
        return self._sealing

    def _place(self, table: str, column: str) -> bytes:
        where = self._places.get((table, column))
        if where is None:
            where = self._places[table, column] = envelope.place(self.tenant_id, table, column)
        return where

    def _data_key(self, key_id: int) -> DataKey:
        key = self._data_keys.get(key_id)
        if key is None:
            key = self._data_keys[key_id] = DataKey(key_id, self._unwrapped(key_id, Purpose.SEALING))
        return key

    def _unwrapped(self, key_id: int, purpose: Purpose) -> bytes:
        key = self._wrapped.get(key_id)
        if key is None or key.wrapped is None or key.purpose is not purpose:
            raise TamperedError("the tenant has no such key")
        return self._masters.unwrap(key.wrapped, key.master_key_id, self.tenant_id, key_id, purpose)
