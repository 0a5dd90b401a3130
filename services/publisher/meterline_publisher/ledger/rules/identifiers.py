"""Identifiers of events at the billing provider: the same usage always has the same identifier."""

import hashlib
import json
import re

from meterline.calendar import Period

_DIGEST_LENGTH = 32
_NAME_LENGTH = 20
_UNSAFE = re.compile(r"[^A-Za-z0-9]+")


def event_identifier(tenant_id: str, meter: str, period: Period, revision: int, longest: int) -> str:
    """Return the identifier under which one revision of a tenant's meter for a period is sent.

    It has at most `longest` ASCII characters (`longest` must exceed 33): a readable part with shortened
    names, and 128 bits of a digest of all unshortened inputs, which makes it unique. Empty names, and
    revisions below 0, are a `ValueError`.
    """
    if not tenant_id or not meter:
        raise ValueError("an identifier needs a tenant and a meter")
    if revision < 0:
        raise ValueError(f"revision {revision} is negative")
    inputs = [tenant_id, meter, period.start.isoformat(), period.end.isoformat(), revision]
    # A JSON list, not a joined string, so that ("a", "bc") and ("ab", "c") differ.
    digest = hashlib.sha256(json.dumps(inputs).encode("ascii")).hexdigest()[:_DIGEST_LENGTH]
    readable = f"{_short(tenant_id)}_{_short(meter)}_{period.start:%Y%m%dT%H%M}_r{revision}"
    return f"{readable[: longest - _DIGEST_LENGTH - 1]}_{digest}"


def _short(name: str) -> str:
    return _UNSAFE.sub("-", name)[:_NAME_LENGTH]
