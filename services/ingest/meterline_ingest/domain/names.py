"""What names of types, dimensions, quantities, properties and catalogue entries may look like."""

from __future__ import annotations

import re
from collections.abc import Iterable

from meterline.errors import InvalidArgumentError

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,63}")


def check_name(field: str, name: str) -> None:
    """Raises InvalidArgumentError."""
    if not _NAME.fullmatch(name):
        raise InvalidArgumentError(field, "a letter, then letters, digits, '.', '_' or '-', at most 64")


def shown(name: str) -> str:
    """A name that somebody made up, as answers have it: cut, and without NUL, which no column takes."""
    return name[:64].replace("\0", "\N{REPLACEMENT CHARACTER}")


def check_distinct(field: str, names: Iterable[str]) -> None:
    """Raises InvalidArgumentError."""
    found = list(names)
    if len(set(found)) != len(found):
        raise InvalidArgumentError(field, "names must differ")
