"""The one rule for names of plans, meters, event types, dimensions and everything else with a name."""

from __future__ import annotations

import re
from typing import Final

from meterline.errors import InvalidArgumentError

NAME_RULE: Final = "a letter or digit, then letters, digits, '.', '_' or '-', at most 64 characters"

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)


def is_name(text: str) -> bool:
    """Whether something can have this name: no blanks, so that no two look the same and are not."""
    return _NAME.fullmatch(text) is not None


def check_name(field: str, text: str) -> None:
    """Raises InvalidArgumentError with the reason NAME_INVALID unless something can have this name."""
    if not is_name(text):
        raise InvalidArgumentError(field, NAME_RULE, "NAME_INVALID")
