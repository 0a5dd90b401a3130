"""A digest of an event's content as it was sent: two events with one id are the same if these are equal."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from typing import Protocol

from meterline_ingest.event.columns import Pairs


class Fingerprints(Protocol):
    """Digests under a key of the tenant, so that nobody can guess a sensitive value from its digest."""

    def fingerprint(self, data: bytes) -> bytes: ...


def body_digest(
    event_type: str,
    subject: str,
    sent_us: int,
    dimensions: Pairs,
    quantities: Mapping[str, int],
    properties: Iterable[tuple[str, str | None, str]] = (),
) -> bytes:
    """A digest of 128 bits of the canonical form.

    sent_us: the time as it was sent, in microseconds, without corrections
    quantities: units at the scales of the type
    properties: as `disguised` returns them
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
    """(name, value, fingerprint) of each property: the fingerprint if it is sensitive, else the value."""
    shown: list[tuple[str, str | None, str]] = []
    for name, value in properties:
        if name in sensitive:
            assert key is not None, "sensitive properties need the tenant's key"
            shown.append((name, None, key.fingerprint(f"{name}\0{value}".encode()).hex()))
        else:
            shown.append((name, value, ""))
    return shown
