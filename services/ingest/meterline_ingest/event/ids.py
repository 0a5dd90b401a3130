"""Event ids are 16 bytes: a UUID unchanged, any other string hashed together with its source.

Only the form of RFC 9562 counts as a UUID: 8-4-4-4-12 hexadecimal digits of ASCII, in either case. Python and
others also read 32 digits without dashes, braces, `urn:uuid:` and dashes in any place; but an id of such a
form, a date and time for instance, may be unique only in its source, and would be lost as a duplicate of
another source's event. So every other form is a text.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Final

import numpy as np

from meterline_ingest.event.columns import UUID_DTYPE, Ids

_UUID: Final = re.compile("[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


def digest(source: str, text: str) -> bytes:
    """The stored form of an id that is no UUID. A length prefix keeps (source, text) unambiguous.

    It is a UUIDv8, so that it is never read as a UUIDv7, which contains the time of its making.
    """
    prefix = source.encode()
    hashed = hashlib.blake2b(
        len(prefix).to_bytes(4, "big") + prefix + text.encode(), digest_size=16, person=b"meterline.event"
    ).digest()
    return hashed[:6] + bytes([hashed[6] & 0x0F | 0x80, hashed[7], hashed[8] & 0x3F | 0x80]) + hashed[9:]


def parse_one(source: str, text: str) -> tuple[bytes, bool]:
    """The 16 bytes of an id, and whether it is a UUID."""
    if _UUID.fullmatch(text):
        return bytes.fromhex(text.replace("-", "")), True
    return digest(source, text), False


def hint(source: str, *, is_uuid: bool) -> str:
    """A further cause when no event has an id: a text identifies an event only together with its source."""
    if is_uuid or source:
        return ""
    return "source is needed for an id that is no UUID"


def parse(source: str, texts: Sequence[str]) -> tuple[Ids, list[str | None] | None]:
    """The ids of a batch, and the texts of those that are no UUIDs (None when all are)."""
    canonical = _parse_canonical(texts)
    if canonical is not None:
        return canonical, None
    parsed = [parse_one(source, text) for text in texts]
    ids = np.frombuffer(b"".join(raw for raw, _ in parsed), UUID_DTYPE)
    kept = [None if is_uuid else text for text, (_, is_uuid) in zip(texts, parsed, strict=True)]
    return ids, kept if any(text is not None for text in kept) else None


def _parse_canonical(texts: Sequence[str]) -> Ids | None:
    """All ids in one pass, if every one is a UUID in its usual form (8-4-4-4-12)."""
    joined = "".join(texts)
    if len(joined) != 36 * len(texts) or not joined.isascii():
        return None
    characters = np.frombuffer(joined.encode(), np.uint8).reshape(-1, 36)
    if not (characters[:, (8, 13, 18, 23)] == ord("-")).all():
        return None
    try:
        raw = bytes.fromhex(joined.replace("-", ""))
    except ValueError:
        return None
    # A dash elsewhere, or a text of another length, would have changed the number of digits. So would blanks,
    # which `fromhex` skips.
    if len(raw) != 16 * len(texts) or any(len(text) != 36 for text in texts):
        return None
    return np.frombuffer(raw, UUID_DTYPE)
