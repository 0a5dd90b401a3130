"""The names of tenants."""

from __future__ import annotations

import re
from typing import Final

from meterline.errors import InvalidArgumentError

SLUG_RULE: Final = (
    "must be 1 to 63 lower-case letters, digits and dashes, and neither begin nor end with a dash"
)

_SLUG: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)


def is_slug(text: str) -> bool:
    """Whether a tenant can have this name: 1 to 63 lower-case letters, digits and dashes, and a dash neither
    first nor last. Any other need not be looked for."""
    return _SLUG.fullmatch(text) is not None


def check_slug(field: str, text: str) -> None:
    """Raises InvalidArgumentError with the reason NAME_INVALID unless a tenant can have this name."""
    if not is_slug(text):
        raise InvalidArgumentError(field, SLUG_RULE, "NAME_INVALID")
