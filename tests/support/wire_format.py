"""Requests by hand, as protobuf writes them: what no message class would make."""

from __future__ import annotations


def part(field: int, content: bytes) -> bytes:
    """A message, a text or bytes in the field of this number."""
    return varint(field << 3 | 2) + varint(len(content)) + content


def varint(value: int) -> bytes:
    """A whole number, the least significant seven bits first."""
    written = bytearray()
    while value > 0x7F:
        written.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*written, value])
