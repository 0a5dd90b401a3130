"""What the application hands over becomes a row, or an error that names the field and the rule.

All checks are made here, where the caller still gets the error: what passes can be encoded. This is the
part of the client that the application waits for, so it looks at each value once, and only once at names
and dimension sets that come again and again.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

import uuid_utils

from meterline_client.clock import Clock
from meterline_client.events import EPOCH, MICROSECOND, Dimensions, Properties, Quantities, Row
from meterline_client.limits import (
    MAX_DIMENSION_VALUE_LENGTH,
    MAX_DIMENSIONS,
    MAX_ID_LENGTH,
    MAX_NAME_LENGTH,
    MAX_PROPERTIES,
    MAX_PROPERTY_VALUE_LENGTH,
    MAX_QUANTITIES,
    MAX_SUBJECT_LENGTH,
    UNITS_BOUND,
)
from meterline_client.quantities import fixed_point

# Memory that a row takes besides its texts and dimensions: the tuple, the id, the time, one quantity.
_ROW_BYTES = 420
_QUANTITY_BYTES = 48
_PAIR_BYTES = 180

_TYPE = re.compile(r"[A-Za-z0-9._-]{1,%d}" % MAX_NAME_LENGTH)  # noqa: UP031
_TENANT = re.compile(r"[a-z0-9-]{1,63}")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)

_CACHE_ENTRIES = 4_096
_NO_DIMENSIONS: tuple[Dimensions, int] = ((), 0)

uuid7 = uuid_utils.uuid7


class Recorder:
    """Makes rows. `trace` answers with the caller's trace, or is None when nothing traces."""

    def __init__(self, tenant_id: str, clock: Clock, trace: Callable[[], object] | None) -> None:
        if tenant_id:
            check_tenant(tenant_id)
        self._tenant_id = tenant_id
        self._now_us = clock.now_us
        self._trace = trace
        # What passed its check before. Bounded: emptied when full, which costs the checks once more.
        self._types: set[str] = set()
        self._tenants: set[str] = set()
        self._names: set[str] = set()
        self._dimension_sets: dict[tuple[tuple[str, str], ...], tuple[Dimensions, int]] = {}

    def row(
        self,
        event_type: str,
        subject: str,
        time: datetime | None,
        dimensions: Mapping[str, str] | None,
        quantities: Mapping[str, int | Decimal] | None,
        event_id: str | uuid.UUID | None,
        tenant_id: str | None,
        properties: Mapping[str, str] | None = None,
    ) -> tuple[str, Row, int]:
        """The event's id, its row, and about how many bytes of memory the row takes."""
        if not _is_in(self._types, event_type):
            _check_type(event_type)
            _remember(self._types, event_type)
        tenant = self._tenant_id if tenant_id is None else tenant_id
        if not _is_in(self._tenants, tenant):
            check_tenant(tenant)
            _remember(self._tenants, tenant)
        weight = _ROW_BYTES + _check_text("subject", subject, MAX_SUBJECT_LENGTH)
        identity: bytes | str
        if event_id is None:
            made = uuid7()
            text, identity = str(made), made.bytes
        else:
            text, identity = _identity(event_id)
            weight += len(text)
        held, held_weight = self._dimensions(dimensions) if dimensions else _NO_DIMENSIONS
        values: Quantities = {}
        if quantities:
            weight += self._quantities(quantities, values)
        kept: Properties = ()
        if properties:
            kept, kept_weight = _checked_properties(properties)
            weight += kept_weight
        row = (
            identity,
            tenant,
            event_type,
            subject,
            held,
            self._now_us() if time is None else _micros(time),
            values,
            self._trace() if self._trace is not None else None,
            kept,
        )
        return text, row, weight + held_weight

    def _dimensions(self, given: Mapping[str, str]) -> tuple[Dimensions, int]:
        try:
            key = tuple(given.items())
            return self._dimension_sets[key]
        except (KeyError, TypeError, AttributeError):
            checked = _checked_dimensions(given)
        if len(self._dimension_sets) >= _CACHE_ENTRIES:
            self._dimension_sets.clear()
        self._dimension_sets[key] = checked
        return checked

    def _quantities(self, given: Mapping[str, int | Decimal], into: Quantities) -> int:
        _check_mapping("quantities", given, MAX_QUANTITIES)
        for name, value in given.items():
            if name not in self._names:
                _check_name("quantities", name)
                _remember(self._names, name)
            if type(value) is int and -UNITS_BOUND < value < UNITS_BOUND:
                into[name] = value
                continue
            try:
                into[name] = fixed_point(value)
            except (TypeError, ValueError) as error:
                raise type(error)(f"quantities.{name}: {error}") from None
        return _QUANTITY_BYTES * len(into)


def check_tenant(value: object) -> None:
    if not isinstance(value, str):
        raise TypeError(f"tenant_id: must be a string, not {type(value).__name__}")
    if not value:
        raise ValueError("tenant_id: needed, here or as the client's")
    if not _TENANT.fullmatch(value):
        raise ValueError("tenant_id: must be 1 to 63 lower-case letters, digits and dashes")


def check_source(value: object, longest: int) -> None:
    if not _check_text("source", value, longest):
        raise ValueError("source: needed (it names what sends the events, for example gateway/eu-1)")


def _check_type(value: object) -> None:
    if not isinstance(value, str):
        raise TypeError(f"type: must be a string, not {type(value).__name__}")
    if not _TYPE.fullmatch(value):
        raise ValueError(f"type: must be 1 to {MAX_NAME_LENGTH} letters, digits, '.', '_' and '-'")


def _check_name(field: str, name: object) -> None:
    if not _check_text(f"{field}: a name", name, MAX_NAME_LENGTH):
        raise ValueError(f"{field}: a name must not be empty")


def _check_text(field: str, value: object, longest: int) -> int:
    """Raises unless `value` is text that the protocol can carry; answers with its bytes at the most."""
    if not isinstance(value, str):
        raise TypeError(f"{field}: must be a string, not {type(value).__name__}")
    if len(value) > longest:
        raise ValueError(f"{field}: must have at most {longest} characters")
    if "\0" in value:
        raise ValueError(f"{field}: must not contain the character NUL")
    if value.isascii():
        return len(value)
    try:
        return len(value.encode())
    except UnicodeEncodeError:
        raise ValueError(f"{field}: must be valid Unicode, without lone surrogates") from None


def _identity(event_id: object) -> tuple[str, bytes | str]:
    if isinstance(event_id, uuid.UUID):
        return str(event_id), event_id.bytes
    if not _check_text("event_id", event_id, MAX_ID_LENGTH):
        raise ValueError("event_id: must not be empty")
    text = str(event_id)
    if _UUID.fullmatch(text):
        value = uuid.UUID(text)
        return str(value), value.bytes
    return text, text


def _micros(time: object) -> int:
    if not isinstance(time, datetime):
        raise TypeError(f"time: must be a datetime, not {type(time).__name__}")
    if time.utcoffset() is None:
        raise ValueError("time: must be aware (carry a time zone), for example datetime.now(UTC)")
    return (time - EPOCH) // MICROSECOND


def _checked_dimensions(given: object) -> tuple[Dimensions, int]:
    checked = _check_mapping("dimensions", given, MAX_DIMENSIONS)
    weight = 0
    for name, value in checked.items():
        _check_name("dimensions", name)
        weight += 4 * len(name) + _check_text(f"dimensions.{name}", value, MAX_DIMENSION_VALUE_LENGTH)
    return tuple(sorted(checked.items())), weight + _PAIR_BYTES * len(checked)


def _checked_properties(given: object) -> tuple[Properties, int]:
    # Most are different on every event, so nothing is gained by remembering those that passed.
    checked = _check_mapping("properties", given, MAX_PROPERTIES)
    weight = 0
    for name, value in checked.items():
        _check_name("properties", name)
        weight += len(name) + _check_text(f"properties.{name}", value, MAX_PROPERTY_VALUE_LENGTH)
    return tuple(sorted(checked.items())), weight + _PAIR_BYTES * len(checked)


def _check_mapping(field: str, given: object, most: int) -> Mapping[Any, Any]:
    # A dict is one of them, and by far the quicker question.
    if not isinstance(given, dict) and not isinstance(given, Mapping):
        raise TypeError(f"{field}: must be a mapping, not {type(given).__name__}")
    if len(given) > most:
        raise ValueError(f"{field}: at most {most} on one event")
    return given


def _is_in(known: set[str], value: object) -> bool:
    try:
        return value in known
    except TypeError:  # not hashable, so no string; the check that follows says so
        return False


def _remember(known: set[str], value: str) -> None:
    if len(known) >= _CACHE_ENTRIES:
        known.clear()
    known.add(value)
