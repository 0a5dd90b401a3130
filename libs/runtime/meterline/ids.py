"""Identifiers: UUIDv7, so that keys that are made together are stored together."""

from __future__ import annotations

import uuid

import uuid_utils


def new_id() -> uuid.UUID:
    """A new UUIDv7."""
    return uuid.UUID(int=uuid_utils.uuid7().int)


def made_at_ms(message_id: uuid.UUID) -> int:
    """When a UUIDv7 was made, in milliseconds since the Unix epoch."""
    return message_id.int >> 80


def new_id_bytes() -> bytes:
    """A new UUIDv7 as 16 bytes."""
    value: bytes = uuid_utils.uuid7().bytes
    return value
