"""The names of tenants."""

from __future__ import annotations

import re

_SLUG = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)


def is_slug(text: str) -> bool:
    """Whether a tenant can have this name: 1 to 63 lower-case letters, digits and dashes, and a dash neither
    first nor last. Any other need not be looked for."""
    return _SLUG.fullmatch(text) is not None
