"""Properties: values that are stored with an event but not counted by. Texts on the wire, of any kind."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import IntEnum
from functools import cached_property
from typing import Final

from meterline import decimals
from meterline.errors import InvalidArgumentError
from meterline.names import check_name

from meterline_ingest.event.names import listed, shown

MAX_PROPERTIES: Final = 32
MAX_LENGTH: Final = 4_096
DEFAULT_LENGTH: Final = 1_024
MAX_VALUES: Final = 1_000
_INTEGER = re.compile(r"-?[0-9]{1,18}")
_TIMESTAMP = re.compile(r"\d{4}-\d{2}-\d{2}[Tt]\d{2}:\d{2}:\d{2}(\.\d{1,9})?([Zz]|[+-]\d{2}:\d{2})", re.ASCII)


class Kind(IntEnum):
    """Numbers as in the API."""

    TEXT = 1
    INTEGER = 2
    DECIMAL = 3
    BOOLEAN = 4
    TIMESTAMP = 5


@dataclass(frozen=True)
class Property:
    """The definition of one property. Bounds are decimals as texts; empty: none."""

    name: str
    kind: Kind
    required: bool = False
    minimum: str = ""
    maximum: str = ""
    values: tuple[str, ...] = ()
    max_length: int = DEFAULT_LENGTH
    sensitive: bool = False

    @cached_property
    def allowed(self) -> frozenset[str]:
        """As `values`, for a fast lookup with each event."""
        return frozenset(self.values)

    def check(self) -> None:
        """Raises InvalidArgumentError when the definition itself is wrong."""
        field = f"event_type.properties[{self.name[:64]}]"
        check_name("event_type.properties.name", self.name)
        if not 0 < self.max_length <= MAX_LENGTH:
            raise InvalidArgumentError(f"{field}.max_length", f"from 1 to {MAX_LENGTH}")
        if len(self.values) > MAX_VALUES or len(set(self.values)) != len(self.values):
            raise InvalidArgumentError(f"{field}.values", f"at most {MAX_VALUES}, all different")
        for name, bound in (("minimum", self.minimum), ("maximum", self.maximum)):
            if bound and self.kind not in (Kind.INTEGER, Kind.DECIMAL):
                raise InvalidArgumentError(f"{field}.{name}", "only of numbers")
            if bound and _number(bound) is None:
                raise InvalidArgumentError(f"{field}.{name}", "a decimal number")
        if self.minimum and self.maximum and Decimal(self.minimum) > Decimal(self.maximum):
            raise InvalidArgumentError(f"{field}.minimum", "at most the maximum")
        if any(self.problem(value) is not None for value in self.values):
            raise InvalidArgumentError(f"{field}.values", "values that the rest of the definition allows")

    def problem(self, text: str) -> tuple[str, str] | None:
        """(reason, rule) when `text` is not a value of this property.

        The rule never repeats the value, which may be sensitive.
        """
        if len(text) > self.max_length:
            return "PROPERTY_TOO_LONG", f"at most {self.max_length} characters"
        if "\0" in text:
            return "TEXT_INVALID", "no NUL characters"
        rule = _RULES[self.kind]
        if rule is not None and not rule[0](text):
            return "PROPERTY_WRONG_KIND", rule[1]
        if self.minimum and Decimal(text) < Decimal(self.minimum):
            return "PROPERTY_BELOW_MINIMUM", f"at least {self.minimum}"
        if self.maximum and Decimal(text) > Decimal(self.maximum):
            return "PROPERTY_ABOVE_MAXIMUM", f"at most {self.maximum}"
        if self.values and text not in self.allowed:
            return "PROPERTY_NOT_ALLOWED", f"one of {listed(self.values)}"
        return None


def first_problem(
    given: Mapping[str, str], declared: Mapping[str, Property], event_type: str
) -> tuple[str, str, str] | None:
    """(reason, field, rule) of the first problem of an event's properties."""
    for name, value in given.items():
        definition = declared.get(name)
        if definition is None:
            return "PROPERTY_UNKNOWN", f"properties.{shown(name)}", f"a property of {event_type}"
        found = definition.problem(value)
        if found is not None:
            return found[0], f"properties.{name}", found[1]
    for name, definition in declared.items():
        if definition.required and not given.get(name):
            rule = f"required by {event_type}, and not empty"
            return "PROPERTY_REQUIRED", f"properties.{name}", rule
    return None


def _number(text: str) -> Decimal | None:
    try:
        units, scale = decimals.parse_units(text)
    except decimals.DecimalError:
        return None
    return decimals.of_units(units, scale)


def _is_timestamp(text: str) -> bool:
    if not _TIMESTAMP.fullmatch(text):
        return False
    try:
        # Fractions finer than microseconds are allowed, but the standard library does not read them.
        datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", text.upper()))
    except ValueError:
        return False
    return True


_RULES: Final[Mapping[Kind, tuple[Callable[[str], bool], str] | None]] = {
    Kind.TEXT: None,
    Kind.INTEGER: (lambda text: _INTEGER.fullmatch(text) is not None, "a whole number of at most 18 digits"),
    Kind.DECIMAL: (
        lambda text: _number(text) is not None,
        "a decimal of at most 18 digits",
    ),
    Kind.BOOLEAN: (lambda text: text in ("true", "false"), "true or false"),
    Kind.TIMESTAMP: (_is_timestamp, "a time as RFC 3339 has it, with an offset"),
}
