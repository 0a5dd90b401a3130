"""Keys of tenants: their purposes and states, and which of them seals."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final

# Key numbers of one tenant: of the fingerprint key, which never changes, and of the first key that rotates.
FINGERPRINT_KEY: Final = 0
FIRST_KEY: Final = 1


class Purpose(StrEnum):
    FINGERPRINTS = "fingerprints"
    SEALING = "sealing"


class State(StrEnum):
    CURRENT = "current"
    RETIRED = "retired"
    """Seals no new values, and opens those that it sealed."""
    SHREDDED = "shredded"
    """The key existed and was destroyed."""


@dataclass(frozen=True, slots=True)
class WrappedKey:
    """A key as stored; `wrapped` is None after it was shredded.

    settled: it has existed for long enough that every replica knows it
    """

    tenant_id: int
    key_id: int
    purpose: Purpose
    wrapped: bytes | None = field(repr=False)
    master_key_id: str
    settled: bool


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """What the API may show of a key.

    sealed: about how many values it has sealed
    resealed_at: since when no known value needs it any more
    """

    key_id: int
    purpose: Purpose
    state: State
    master_key_id: str
    sealed: int
    created_at: datetime
    retired_at: datetime | None
    resealed_at: datetime | None


def sealing_key(keys: Iterable[WrappedKey]) -> int | None:
    """The number of the key that seals; None if there is none.

    It is the newest settled one: a value sealed under a newer key could reach a replica that does not know
    that key yet, and would seem tampered with. The first key need not settle, since no replica remembers
    that a tenant has no key.
    """
    sealing = [key for key in keys if key.purpose is Purpose.SEALING and key.wrapped is not None]
    settled = [key.key_id for key in sealing if key.settled]
    return max(settled) if settled else min((key.key_id for key in sealing), default=None)


@dataclass(frozen=True, slots=True)
class Resealed:
    """A value as it was read, and its replacement."""

    row: bytes
    before: bytes
    after: bytes
