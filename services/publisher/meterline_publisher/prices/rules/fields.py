"""Reads the fields of a price body; errors name the field and the rule that it breaks."""

from collections.abc import Mapping
from decimal import Decimal
from enum import StrEnum
from typing import TypeVar

from meterline.decimals import parse, to_text

from meterline_publisher.billing.money import MAX_DIGITS, check_size

_Choice = TypeVar("_Choice", bound=StrEnum)


class Rule(StrEnum):
    """The rules that a body can break; clients may depend on these values."""

    OBJECT = "object"
    REQUIRED = "required"
    UNKNOWN_FIELD = "unknown_field"
    CHOICE = "choice"
    CURRENCY = "currency"
    DECIMAL = "decimal"
    SIZE = "size"
    POSITIVE = "positive"
    NOT_NEGATIVE = "not_negative"
    BOOLEAN = "boolean"
    TIER_LIST = "tier_list"
    TIER_ORDER = "tier_order"
    LAST_TIER_OPEN = "last_tier_open"


_MESSAGES = {
    Rule.OBJECT: "must be a JSON object",
    Rule.REQUIRED: "is required",
    Rule.UNKNOWN_FIELD: "is not a field of this model",
    Rule.CHOICE: "is not one of the allowed values",
    Rule.CURRENCY: "must be a currency code of ISO 4217 that has a minor unit",
    Rule.DECIMAL: "must be a decimal in a string, in plain notation",
    Rule.SIZE: f"must have at most {MAX_DIGITS} digits before and after the point",
    Rule.POSITIVE: "must be greater than 0",
    Rule.NOT_NEGATIVE: "must not be negative",
    Rule.BOOLEAN: "must be true or false",
    Rule.TIER_LIST: "must be a list of at least one tier",
    Rule.TIER_ORDER: "must be greater than in the tier before",
    Rule.LAST_TIER_OPEN: "must be null in the last tier, and in no other",
}


class PriceError(ValueError):
    """A price body breaks a rule.

    `field` is the path of the wrong value (`tiers.1.up_to`; empty for the body itself), `rule` the broken
    rule.
    """

    def __init__(self, field: str, rule: Rule) -> None:
        super().__init__(f"{field or 'price'} {_MESSAGES[rule]}")
        self.field = field
        self.rule = rule


class Fields:
    """The fields of one JSON object. Each is read once; `finish` refuses the unread ones.

    A null field counts as absent.
    """

    def __init__(self, body: object, path: str) -> None:
        if not isinstance(body, Mapping):
            raise PriceError(path.rstrip("."), Rule.OBJECT)
        self._left: dict[object, object] = dict(body)
        self._path = path

    def take(self, name: str) -> object:
        return self._left.pop(name, None)

    def text(self, name: str, rule: Rule) -> str:
        value = self.take(name)
        if value is None:
            raise PriceError(self._path + name, Rule.REQUIRED)
        if not isinstance(value, str):
            raise PriceError(self._path + name, rule)
        return value

    def optional_decimal(self, name: str) -> Decimal | None:
        value = self.take(name)
        return None if value is None else _decimal(value, self._path + name)

    def decimal(self, name: str, default: Decimal | None = None) -> Decimal:
        value = self.optional_decimal(name)
        if value is not None:
            return value
        if default is None:
            raise PriceError(self._path + name, Rule.REQUIRED)
        return default

    def positive(self, name: str) -> Decimal:
        value = self.decimal(name)
        if value <= 0:
            raise PriceError(self._path + name, Rule.POSITIVE)
        return value

    def not_negative(self, name: str) -> Decimal:
        value = self.decimal(name, Decimal(0))
        if value < 0:
            raise PriceError(self._path + name, Rule.NOT_NEGATIVE)
        return value

    def choice(self, name: str, default: _Choice) -> _Choice:
        value = self.take(name)
        if value is None:
            return default
        if not isinstance(value, str) or value not in set(type(default)):
            raise PriceError(self._path + name, Rule.CHOICE)
        return type(default)(value)

    def flag(self, name: str, *, default: bool) -> bool:
        value = self.take(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise PriceError(self._path + name, Rule.BOOLEAN)
        return value

    def finish(self) -> None:
        for name, value in self._left.items():
            if value is not None:
                raise PriceError(f"{self._path}{name}", Rule.UNKNOWN_FIELD)


def _decimal(value: object, field: str) -> Decimal:
    # An integer's text always parses; that of a bool, which is an int too, never does.
    text = str(value) if isinstance(value, str | int) else ""
    try:
        number = parse(text)
    except ValueError as error:
        raise PriceError(field, Rule.DECIMAL) from error
    try:
        check_size(number)
    except ValueError as error:
        raise PriceError(field, Rule.SIZE) from error
    return Decimal(to_text(number))
