"""Handwritten requests in protobuf encoding, which message classes cannot produce."""

from __future__ import annotations


def part(field: int, content: bytes) -> bytes:
    """A length-delimited field: a message, a text or bytes."""
    return varint(field << 3 | 2) + varint(len(content)) + content


def varint(value: int) -> bytes:
    """An integer as a varint, the least significant seven bits first."""
    written = bytearray()
    while value > 0x7F:
        written.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*written, value])
