"""Fields of requests that every service has, each read by one rule: times, ranges of time, ids, choices.

A violation is an InvalidArgumentError that names the field and a reason.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Sequence
from datetime import UTC, date, datetime
from enum import IntEnum
from typing import Final, TypeVar

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from meterline_protos.common.v1 import types_pb2

from meterline.calendar import parse_day
from meterline.clock import to_datetime, to_us
from meterline.errors import InvalidArgumentError
from meterline.names import check_name
from meterline.slugs import check_slug

E = TypeVar("E", bound=IntEnum)

# A year within what `datetime` can hold: the day, month or hour around any of these instants can be computed
# in every time zone.
EARLIEST: Final = datetime(2, 1, 1, tzinfo=UTC)
LATEST: Final = datetime(9999, 1, 1, tzinfo=UTC)

# What google.protobuf.Timestamp allows: the years 1 to 9999.
_LEAST_SECONDS: Final = -62_135_596_800
_MOST_SECONDS: Final = 253_402_300_799
_SECOND_NANOS: Final = 1_000_000_000

_UUID: Final = re.compile(
    r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|[0-9a-f]{32}", re.ASCII | re.IGNORECASE
)


def instant(field: str, stamp: Timestamp) -> datetime:
    """A time of the years 2 to 9998, to the microsecond; what is finer is cut off.

    Raises InvalidArgumentError with the reason TIME_INVALID for what is no Timestamp, and TIME_OUT_OF_RANGE
    for another year.
    """
    _require_timestamp(field, stamp)
    moment = to_datetime(stamp.seconds * 1_000_000 + stamp.nanos // 1_000)
    if not EARLIEST <= moment < LATEST:
        raise InvalidArgumentError(field, "must be a time of the years 2 to 9998", "TIME_OUT_OF_RANGE")
    return moment


def required_instant(message: Message, name: str, field: str = "") -> datetime:
    """As `instant`, of the field `name` of `message`, which must be set. `field` is its path, where that is
    more than the name. Raises InvalidArgumentError."""
    if not message.HasField(name):
        raise InvalidArgumentError(field or name, "is required", "TIME_MISSING")
    return instant(field or name, getattr(message, name))


def name(field: str, text: str) -> str:
    """The name of a plan, a meter, an event type or the like, as `meterline.names` rules.

    Raises InvalidArgumentError with the reason NAME_INVALID.
    """
    check_name(field, text)
    return text


def tenant(field: str, text: str) -> str:
    """The name of a tenant, as `meterline.slugs` rules.

    Raises InvalidArgumentError with the reason NAME_INVALID.
    """
    check_slug(field, text)
    return text


def text(field: str, value: str, most: int) -> str:
    """Free text of at most `most` characters."""
    if len(value) > most:
        raise InvalidArgumentError(field, f"must have at most {most} characters")
    return value


def day(field: str, text: str) -> date:
    """A calendar day of the years 1970 to 9998, as `YYYY-MM-DD`.

    Raises InvalidArgumentError with the reason DAY_INVALID.
    """
    try:
        return parse_day(text)
    except ValueError:
        rule = "must be a day of the years 1970 to 9998 as YYYY-MM-DD"
        raise InvalidArgumentError(field, rule, "DAY_INVALID") from None


def time_range(field: str, given: types_pb2.TimeRange | None) -> tuple[datetime | None, datetime | None]:
    """The half-open range [start, end), None where it is open.

    Both ends may be any Timestamp. They are rounded up to whole microseconds, so that of events, whose times
    are whole microseconds, none is lost or added. Ends before `EARLIEST` and after `LATEST` become these:
    nothing happens beyond them. Raises InvalidArgumentError with the reason TIME_INVALID for what is no
    Timestamp, and RANGE_EMPTY unless the start is before the end.
    """
    if given is None:
        return None, None
    start = _end(f"{field}.start_time", given.start_time) if given.HasField("start_time") else None
    end = _end(f"{field}.end_time", given.end_time) if given.HasField("end_time") else None
    if start is not None and end is not None and start >= end:
        raise InvalidArgumentError(field, "start_time must be before end_time", "RANGE_EMPTY")
    return _clamped(start), _clamped(end)


def closed_range(field: str, given: types_pb2.TimeRange) -> tuple[datetime, datetime]:
    """As `time_range`, with both ends set. Raises InvalidArgumentError."""
    for name in ("start_time", "end_time"):
        if not given.HasField(name):
            raise InvalidArgumentError(f"{field}.{name}", "must be set", "TIME_MISSING")
    start, end = time_range(field, given)
    assert start is not None
    assert end is not None
    return start, end


def identifier(field: str, text: str) -> uuid.UUID:
    """A UUID: 32 hexadecimal digits, in groups of 8-4-4-4-12 or without dashes.

    Raises InvalidArgumentError with the reason UUID_INVALID.
    """
    if not _UUID.fullmatch(text):
        raise InvalidArgumentError(field, "must be a UUID", "UUID_INVALID")
    return uuid.UUID(text)


def identifiers(field: str, texts: Sequence[str], *, most: int, least: int = 1) -> list[uuid.UUID]:
    """`least` to `most` UUIDs, each as `identifier` takes it. Raises InvalidArgumentError."""
    if not least <= len(texts) <= most:
        raise InvalidArgumentError(field, f"must be {least} to {most} UUIDs", "WRONG_COUNT")
    return [identifier(field, text) for text in texts]


def choice(field: str, kind: type[E], number: int) -> E:
    """The member of an enum. Raises InvalidArgumentError with the reason CHOICE_UNKNOWN."""
    try:
        return kind(number)
    except ValueError:
        names = ", ".join(each.name for each in kind)
        raise InvalidArgumentError(field, f"must be one of {names}", "CHOICE_UNKNOWN") from None


def _require_timestamp(field: str, stamp: Timestamp) -> None:
    if not (_LEAST_SECONDS <= stamp.seconds <= _MOST_SECONDS and 0 <= stamp.nanos < _SECOND_NANOS):
        raise InvalidArgumentError(
            field, "must be a time of the years 1 to 9999, with nanos from 0 to 999,999,999", "TIME_INVALID"
        )


def _end(field: str, stamp: Timestamp) -> int:
    """Microseconds since the Unix epoch."""
    _require_timestamp(field, stamp)
    return stamp.seconds * 1_000_000 - (-stamp.nanos // 1_000)


def _clamped(us: int | None) -> datetime | None:
    return None if us is None else to_datetime(min(max(us, _EARLIEST_US), _LATEST_US))


_EARLIEST_US: Final = to_us(EARLIEST)
_LATEST_US: Final = to_us(LATEST)
