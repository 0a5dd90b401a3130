"""How much of rejected events is kept, and how long their texts may be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MAX_NAME: Final = 64

MAX_FIELD: Final = 128

# Bytes of one event. Acceptable events are smaller, except with many properties of the longest texts.
MAX_PAYLOAD: Final = 64 << 10

# Bytes of all events of one call. It has 4 MiB at most, but columns hold once what many rows share.
MAX_KEPT_OF_CALL: Final = 8 << 20

# Bytes of one tenant in one flush: a flush may exceed the tenant's limit by this much.
MAX_KEPT_OF_FLUSH: Final = 16 << 20

# Bytes that an entry counts in addition to its payload, for its row and index entries; SQL counts the same
# (`quarantine_bytes`).
ENTRY_BYTES: Final = 512


@dataclass(frozen=True, slots=True)
class Held:
    """What the quarantine holds of a tenant: entries that wait, and bytes of all, also of settled ones."""

    waiting: int = 0
    bytes: int = 0

    def __sub__(self, other: Held) -> Held:
        return Held(self.waiting - other.waiting, self.bytes - other.bytes)

    def fits(self, more: Held) -> bool:
        """Whether `more` fits where this much room is left."""
        return more.waiting <= self.waiting and more.bytes <= self.bytes


def cut(text: str, most: int) -> str:
    """The text cut for a column that holds no NUL, and is for searching, not for reading back."""
    return text[:most].replace("\0", "\N{REPLACEMENT CHARACTER}")
