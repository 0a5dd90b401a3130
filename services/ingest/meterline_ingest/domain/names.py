"""What names of types, dimensions, quantities, properties and catalogue entries may look like."""

from __future__ import annotations

from collections.abc import Iterable

from meterline.errors import InvalidArgumentError
from meterline.names import NAME_RULE, is_name


def check_name(field: str, name: str) -> None:
    """Raises InvalidArgumentError."""
    if not is_name(name):
        raise InvalidArgumentError(field, NAME_RULE)


def shown(name: str) -> str:
    """A name that somebody made up, as answers have it: cut, and without NUL, which no column takes."""
    return name[:64].replace("\0", "\N{REPLACEMENT CHARACTER}")


def check_distinct(field: str, names: Iterable[str]) -> None:
    """Raises InvalidArgumentError."""
    found = list(names)
    if len(set(found)) != len(found):
        raise InvalidArgumentError(field, "names must differ")
