"""Rules for each field of a tenant. Every function returns the value, or raises InvalidArgumentError."""

from __future__ import annotations

import unicodedata
from functools import cache
from typing import Final
from zoneinfo import available_timezones

import iso4217
from meterline.errors import InvalidArgumentError
from meterline.names import NAME_RULE, is_name
from meterline.slugs import SLUG_RULE, check_slug, is_slug

MAX_TEXT: Final = 255
MAX_CLOSE_LEAD_SECONDS: Final = 72 * 3600
DEFAULT_CLOSE_LEAD_SECONDS: Final = 600

# Names that a machine's own database may have, but that mean something else on another machine.
_NOT_PLACES = frozenset({"Factory", "localtime", "posixrules"})


def slug(field: str, value: str) -> str:
    """The tenant's name in every API."""
    check_slug(field, value)
    return value


def text(field: str, value: str, *, required: bool = True, longest: int = MAX_TEXT) -> str:
    """A name of something: at most 255 characters, or `longest`, none of them a control character."""
    if required and not value.strip():
        raise InvalidArgumentError(field, "must not be empty")
    if len(value) > longest:
        raise InvalidArgumentError(field, f"must have at most {longest} characters")
    if any(unicodedata.category(character) == "Cc" for character in value):
        raise InvalidArgumentError(field, "must not contain control characters")
    return value


def external_id(field: str, value: str) -> str:
    """The billing provider's id of an object; empty for none."""
    if value != value.strip():
        raise InvalidArgumentError(field, "must be empty, or neither begin nor end with a blank")
    return text(field, value, required=False)


def plan(field: str, value: str) -> str:
    """The name of a plan as the publisher's catalogue has it; empty for none."""
    if value and not is_name(value):
        raise InvalidArgumentError(field, f"must be empty, or {NAME_RULE}", "NAME_INVALID")
    return value


def billing_provider(field: str, value: str) -> str:
    """The name of a billing provider as the publisher's settings have it; empty for the one that bills every
    tenant that names none."""
    if value and not is_slug(value):
        raise InvalidArgumentError(
            field, f"must be empty, or {SLUG_RULE.removeprefix('must be ')}", "NAME_INVALID"
        )
    return value


def time_zone(field: str, value: str) -> str:
    """The IANA name of a zone that exists, such as `America/New_York`."""
    if value not in _zones():
        raise InvalidArgumentError(field, "must be the name of an IANA time zone")
    return value


def currency(field: str, value: str) -> str:
    """The ISO 4217 code of a currency with a minor unit; metals and test codes have none."""
    try:
        exponent = iso4217.Currency(value).exponent
    except ValueError:
        exponent = None
    if exponent is None:
        raise InvalidArgumentError(field, "must be the ISO 4217 code of a currency, in three capital letters")
    return value


def close_lead_seconds(field: str, value: int) -> int:
    """How long before the end of a period its usage is sent."""
    if not 0 <= value <= MAX_CLOSE_LEAD_SECONDS:
        raise InvalidArgumentError(field, f"must be 0 to {MAX_CLOSE_LEAD_SECONDS} seconds")
    return value


def expected_version(field: str, value: int) -> int:
    """The version that the caller has seen; 0 means any."""
    if value < 0:
        raise InvalidArgumentError(field, "must not be negative")
    return value


@cache
def _zones() -> frozenset[str]:
    return frozenset(available_timezones()) - _NOT_PLACES
