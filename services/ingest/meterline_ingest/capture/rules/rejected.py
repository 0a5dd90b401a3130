"""How much of rejected events is kept, and how long their texts may be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MAX_NAME: Final = 64

MAX_FIELD: Final = 128

# Bytes of one event. What can be accepted is smaller, but for many properties of the longest texts at once.
MAX_PAYLOAD: Final = 64 << 10

# Bytes of all events of one call, which has 4 MiB itself at most. Columns say once what many rows share.
MAX_KEPT_OF_CALL: Final = 8 << 20

# Bytes of one tenant's in one flush: by so much a flush under way may exceed what the tenant may keep.
MAX_KEPT_OF_FLUSH: Final = 16 << 20

# What an entry counts beside its payload, for its row and its places in the indexes; SQL says the same
# (`quarantine_bytes`).
ENTRY_BYTES: Final = 512


@dataclass(frozen=True, slots=True)
class Held:
    """What is kept of a tenant's: entries that wait, and bytes of all, settled ones too."""

    waiting: int = 0
    bytes: int = 0

    def __sub__(self, other: Held) -> Held:
        return Held(self.waiting - other.waiting, self.bytes - other.bytes)

    def fits(self, more: Held) -> bool:
        """Whether there is room for `more` where this much is left."""
        return more.waiting <= self.waiting and more.bytes <= self.bytes


def cut(text: str, most: int) -> str:
    """What fits a column of texts: it holds no NUL, and is for finding, not for reading back."""
    return text[:most].replace("\0", "\N{REPLACEMENT CHARACTER}")
