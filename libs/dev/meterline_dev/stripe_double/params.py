"""Typed reading of a request's parameters: every value checked, every unknown name refused."""

import re
from collections.abc import Iterable, Sequence
from decimal import Decimal

from .errors import invalid_parameter, missing_parameter, unknown_parameter
from .forms import Form

_INTEGER = re.compile(r"-?\d{1,18}", re.ASCII)
_DECIMAL = re.compile(r"\d{1,15}(?:\.\d{1,12})?", re.ASCII)
METADATA_KEYS, METADATA_NAME, METADATA_VALUE = 50, 40, 500
DEFAULT_LENGTH = 5_000


class Params:
    """One level of a form. Getters consume names; `finish` refuses those that were not consumed."""

    def __init__(self, form: Form, path: str = "") -> None:
        self._form = form
        self._path = path
        self._seen: set[str] = set()
        self._children: list[Params] = []

    def name(self, key: str) -> str:
        """The full name of `key` as the caller wrote it: `items[0][price]`."""
        return f"{self._path}[{key}]" if self._path else key

    def has(self, key: str) -> bool:
        return key in self._form

    def string(self, key: str, *, max_length: int = DEFAULT_LENGTH) -> str | None:
        """The value, or None if it is absent; 400 for a hash and for one that is too long."""
        self._seen.add(key)
        value = self._form.get(key)
        if isinstance(value, dict):
            raise invalid_parameter(self.name(key), f"Invalid string: {self.name(key)} is a hash.")
        if value is not None and len(value) > max_length:
            message = f"{self.name(key)} must be at most {max_length} characters."
            raise invalid_parameter(self.name(key), message, "parameter_too_long")
        return value

    def require_string(self, key: str, *, max_length: int = DEFAULT_LENGTH) -> str:
        value = self.string(key, max_length=max_length)
        if not value:
            raise missing_parameter(self.name(key))
        return value

    def integer(self, key: str) -> int | None:
        value = self.string(key)
        if value is None:
            return None
        if not _INTEGER.fullmatch(value):
            message = f"Invalid integer: {value}"
            raise invalid_parameter(self.name(key), message, "parameter_invalid_integer")
        return int(value)

    def require_integer(self, key: str) -> int:
        value = self.integer(key)
        if value is None:
            raise missing_parameter(self.name(key))
        return value

    def decimal(self, key: str) -> Decimal | None:
        """A plain non-negative decimal with at most 12 decimal places (no exponent)."""
        value = self.string(key)
        if value is None:
            return None
        if not _DECIMAL.fullmatch(value):
            message = f"Invalid decimal: {value}; at most 12 decimal places, no sign, no exponent."
            raise invalid_parameter(self.name(key), message)
        return Decimal(value)

    def choice(self, key: str, allowed: Sequence[str], *, default: str | None = None) -> str:
        """One of `allowed`; without a default the parameter is required."""
        value = self.string(key)
        if value is None:
            value = default
        if value is None:
            raise missing_parameter(self.name(key))
        if value not in allowed:
            message = f"Invalid {self.name(key)}: must be one of {', '.join(allowed)}"
            raise invalid_parameter(self.name(key), message)
        return value

    def boolean(self, key: str, *, default: bool) -> bool:
        return self.choice(key, ("true", "false"), default=str(default).lower()) == "true"

    def mapping(self, key: str) -> "Params":
        """The nested hash under `key`, empty if it is absent."""
        self._seen.add(key)
        value = self._form.get(key, {})
        if isinstance(value, str):
            raise invalid_parameter(self.name(key), f"Invalid object: {self.name(key)} must be a hash.")
        child = Params(value, self.name(key))
        self._children.append(child)
        return child

    def items(self, key: str) -> list["Params"]:
        """The hashes of a list, in the order of their indices."""
        entries = self.mapping(key)
        return [entries.mapping(index) for index in entries.indices()]

    def strings(self, key: str) -> list[str]:
        entries = self.mapping(key)
        return [entries.require_string(index) for index in entries.indices()]

    def indices(self) -> list[str]:
        if not all(index.isdecimal() for index in self._form):
            raise invalid_parameter(self._path, f"Invalid array: {self._path}")
        return sorted(self._form, key=int)

    def string_map(self, key: str) -> dict[str, str]:
        """A flat hash of strings."""
        entries = self.mapping(key)
        return {name: entries.string(name) or "" for name in entries._form}

    def metadata(self) -> dict[str, str]:
        """`metadata` within Stripe's limits: 50 keys of 40 characters, values of 500."""
        found = self.string_map("metadata")
        if len(found) > METADATA_KEYS:
            raise invalid_parameter("metadata", f"Metadata can have at most {METADATA_KEYS} keys.")
        for name, value in found.items():
            if len(name) > METADATA_NAME or len(value) > METADATA_VALUE:
                limits = f"{METADATA_NAME} characters a key, {METADATA_VALUE} a value"
                raise invalid_parameter(f"metadata[{name}]", f"Metadata is too long: at most {limits}.")
        return found

    def finish(self, ignore: Iterable[str] = ()) -> None:
        """Refuse names that were never read, at this level and below."""
        unknown = set(self._form) - self._seen - set(ignore)
        if unknown:
            raise unknown_parameter(self.name(min(unknown)))
        for child in self._children:
            child.finish()
