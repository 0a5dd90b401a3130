"""Identifiers of what is sent to the billing provider: the same usage always has the same one."""

import hashlib
import json
import re

from meterline.calendar import Period

_DIGEST_LENGTH = 32
_NAME_LENGTH = 20
_UNSAFE = re.compile(r"[^A-Za-z0-9]+")


def event_identifier(tenant_id: str, meter: str, period: Period, revision: int, longest: int) -> str:
    """Return the identifier under which one revision of a tenant's meter for a period is sent.

    At most `longest` ASCII characters, which must be more than 33: a part for people to read, in which names
    are shortened, and 128 bits of a digest over all inputs in full, which alone makes it unique. Empty names,
    and revisions below 0, are a `ValueError`.
    """
    if not tenant_id or not meter:
        raise ValueError("an identifier needs a tenant and a meter")
    if revision < 0:
        raise ValueError(f"revision {revision} is negative")
    inputs = [tenant_id, meter, period.start.isoformat(), period.end.isoformat(), revision]
    # A JSON list, not a joined string: ("a", "bc") and ("ab", "c") must differ.
    digest = hashlib.sha256(json.dumps(inputs).encode("ascii")).hexdigest()[:_DIGEST_LENGTH]
    readable = f"{_short(tenant_id)}_{_short(meter)}_{period.start:%Y%m%dT%H%M}_r{revision}"
    return f"{readable[: longest - _DIGEST_LENGTH - 1]}_{digest}"


def _short(name: str) -> str:
    return _UNSAFE.sub("-", name)[:_NAME_LENGTH]
