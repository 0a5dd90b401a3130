"""Rules for names of types, dimensions, quantities, properties and catalogue entries."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from meterline.errors import InvalidArgumentError

# Characters of a list of values in a response, which may repeat it for each of thousands of events.
_LONGEST_LIST: Final = 160


def shown(name: str) -> str:
    """A caller's name as responses contain it: cut, and without NUL, which no text column accepts."""
    return name[:64].replace("\0", "\N{REPLACEMENT CHARACTER}")


def listed(values: Sequence[str]) -> str:
    """Allowed values for the rule of a refusal: the first ones, as many as there is room for."""
    fitting: list[str] = []
    left = _LONGEST_LIST
    for value in values:
        left -= len(value) + 4
        if left < 0:
            break
        fitting.append(repr(value))
    rest = len(values) - len(fitting)
    if not fitting:
        return f"the {rest} allowed values"
    return ", ".join(fitting) + (f" and {rest} more" if rest else "")


def check_distinct(field: str, names: Iterable[str]) -> None:
    """Raises InvalidArgumentError."""
    found = list(names)
    if len(set(found)) != len(found):
        raise InvalidArgumentError(field, "names must differ")


NOBODY: Final = 0
