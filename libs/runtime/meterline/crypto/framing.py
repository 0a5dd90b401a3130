"""Several byte strings as one, from which they could be read again: no two lists of parts look the same."""

from __future__ import annotations

import struct

_LENGTH = struct.Struct(">I")


def part(data: bytes) -> bytes:
    """`data` with its length before it. Parts are put one after another."""
    return _LENGTH.pack(len(data)) + data
