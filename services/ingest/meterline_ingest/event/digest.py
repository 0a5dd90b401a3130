"""A digest of what an event says, as it was sent: two events with one id are the same if these are equal."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from typing import Protocol

from meterline_ingest.event.columns import Pairs


class Fingerprints(Protocol):
    """Digests under a key of the tenant, so that a sensitive value cannot be guessed from one."""

    def fingerprint(self, data: bytes) -> bytes: ...


def body_digest(
    event_type: str,
    subject: str,
    sent_us: int,
    dimensions: Pairs,
    quantities: Mapping[str, int],
    properties: Iterable[tuple[str, str | None, str]] = (),
) -> bytes:
    """128 bits over the canonical form.

    sent_us: the time as it was sent, in microseconds; whatever was made of it later is not the sender's
    quantities: units at the scales of the type
    properties: as `disguised` has them
    """
    canonical = json.dumps(
        [event_type, subject, sent_us, sorted(dimensions), sorted(quantities.items()), sorted(properties)],
        ensure_ascii=False,
        separators=(",", ":"),
    )
    return hashlib.blake2b(canonical.encode(), digest_size=16, person=b"meterline.body").digest()


def disguised(
    properties: Pairs, sensitive: Collection[str], key: Fingerprints | None
) -> list[tuple[str, str | None, str]]:
    """(name, value, fingerprint) of each property: one of the last two, by whether it is sensitive."""
    shown: list[tuple[str, str | None, str]] = []
    for name, value in properties:
        if name in sensitive:
            assert key is not None, "sensitive properties need the tenant's key"
            shown.append((name, None, key.fingerprint(f"{name}\0{value}".encode()).hex()))
        else:
            shown.append((name, value, ""))
    return shown
