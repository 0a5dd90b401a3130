"""Keys of tenants: what they are for, what becomes of them, and which of them seals."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final

# One tenant's numbers: a key that never changes, and those that rotate, counted up.
FINGERPRINT_KEY: Final = 0
FIRST_KEY: Final = 1


class Purpose(StrEnum):
    FINGERPRINTS = "fingerprints"
    SEALING = "sealing"


class State(StrEnum):
    CURRENT = "current"
    RETIRED = "retired"
    """Seals nothing new, and opens what it sealed."""
    SHREDDED = "shredded"
    """There was such a key."""


@dataclass(frozen=True, slots=True)
class WrappedKey:
    """A key as it is stored; `wrapped` is None once it was shredded.

    settled: it has been there for long enough that every replica knows of it
    """

    tenant_id: int
    key_id: int
    purpose: Purpose
    wrapped: bytes | None = field(repr=False)
    master_key_id: str
    settled: bool


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """What may be told of a key.

    sealed: about how many values it has sealed
    resealed_at: since when no value that is known of needs it any more
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
    """The number of the key that seals; None when there is none.

    The newest that is settled: a value that was sealed under a newer one could reach a replica that has not
    heard of that key, and would seem to be tampered with. The first key has nobody to wait for, since no
    replica remembers that a tenant has no key.
    """
    sealing = [key for key in keys if key.purpose is Purpose.SEALING and key.wrapped is not None]
    settled = [key.key_id for key in sealing if key.settled]
    return max(settled) if settled else min((key.key_id for key in sealing), default=None)


@dataclass(frozen=True, slots=True)
class Resealed:
    """A value of the row as it was found, and what takes its place."""

    row: bytes
    before: bytes
    after: bytes
