"""Parsing of times, ranges, ids and enums of requests; refusals name the field."""

from __future__ import annotations

import uuid
from contextlib import suppress
from datetime import datetime, timedelta
from enum import IntEnum
from zoneinfo import ZoneInfo

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st
from meterline.calendar import month_before, month_of
from meterline.clock import to_datetime
from meterline.errors import InvalidArgumentError
from meterline.rpc import fields
from meterline_aggregate.windows.calendar import Grain, end_of, windows_at
from meterline_protos.common.v1 import types_pb2

pytestmark = pytest.mark.req("T8.3")

INT8 = st.integers(-(2**63), 2**63 - 1)
INT4 = st.integers(-(2**31), 2**31 - 1)
STAMPS = st.builds(Timestamp, seconds=INT8, nanos=INT4) | st.builds(
    Timestamp,
    seconds=st.integers(-62_135_600_000, 253_402_400_000),
    nanos=st.integers(-1, 1_000_000_000),
)
YEAR_9999 = 253_402_300_799
ZONES = ("Pacific/Kiritimati", "Etc/GMT+12", "America/New_York", "Asia/Kathmandu", "UTC")


def reason_of(stamp: Timestamp) -> str:
    try:
        fields.instant("at", stamp)
    except InvalidArgumentError as error:
        return error.reason
    return ""


@pytest.mark.parametrize(
    ("seconds", "nanos", "reason"),
    [
        (0, 0, ""),
        (-1, 999_999_999, ""),
        (0, 1_000_000_000, "TIME_INVALID"),
        (0, -1, "TIME_INVALID"),
        (0, 2_000_000_000, "TIME_INVALID"),
        (YEAR_9999 + 1, 0, "TIME_INVALID"),
        (-62_135_596_801, 0, "TIME_INVALID"),
        (2**63 - 1, 0, "TIME_INVALID"),
        (-(2**63), 0, "TIME_INVALID"),
        (YEAR_9999, 999_999_999, "TIME_OUT_OF_RANGE"),
        (-62_135_596_800, 0, "TIME_OUT_OF_RANGE"),
    ],
)
def test_time_must_lie_within_the_calendar(seconds: int, nanos: int, reason: str) -> None:
    assert reason_of(Timestamp(seconds=seconds, nanos=nanos)) == reason


@given(STAMPS)
def test_any_time_is_parsed_or_refused(stamp: Timestamp) -> None:
    assert reason_of(stamp) in ("", "TIME_INVALID", "TIME_OUT_OF_RANGE")


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("moment", [fields.EARLIEST, fields.LATEST - timedelta(microseconds=1)])
def test_calendar_of_every_zone_exists_at_the_range_limits(zone: str, moment: datetime) -> None:
    period = month_of(moment, ZoneInfo(zone))
    assert month_before(period, ZoneInfo(zone)).end == period.start
    us = (moment - to_datetime(0)) // timedelta(microseconds=1)
    starts = windows_at(zone, us)
    for grain, start in zip(Grain, starts, strict=True):
        assert start <= us < end_of(grain, zone, start)


def time_range(start: Timestamp | None, end: Timestamp | None) -> types_pb2.TimeRange:
    return types_pb2.TimeRange(start_time=start, end_time=end)


@given(STAMPS, STAMPS)
def test_any_range_is_parsed_or_refused(start: Timestamp, end: Timestamp) -> None:
    with suppress(InvalidArgumentError):
        first, last = fields.closed_range("range", time_range(start, end))
        assert fields.EARLIEST <= first <= last <= fields.LATEST


def test_range_with_nanoseconds_is_rounded_to_disjoint_microseconds() -> None:
    given_ = time_range(Timestamp(nanos=1_001), Timestamp(nanos=3_000))
    start, end = fields.closed_range("range", given_)
    assert (start, end) == (to_datetime(2), to_datetime(3))


def test_range_until_the_latest_time_is_accepted() -> None:
    ever = time_range(Timestamp(seconds=-62_135_596_800), Timestamp(seconds=YEAR_9999, nanos=999_999_999))
    assert fields.time_range("range", ever) == (fields.EARLIEST, fields.LATEST)


@pytest.mark.parametrize(("start", "end"), [(5, 5), (5, 4)])
def test_empty_range_is_refused(start: int, end: int) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        fields.time_range("time", time_range(Timestamp(seconds=start), Timestamp(seconds=end)))
    assert (caught.value.field, caught.value.reason) == ("time", "RANGE_EMPTY")


def test_range_may_be_open_ended() -> None:
    assert (
        fields.time_range("time", None) == fields.time_range("time", time_range(None, None)) == (None, None)
    )
    with pytest.raises(InvalidArgumentError) as caught:
        fields.closed_range("range", time_range(Timestamp(), None))
    assert caught.value.field == "range.end_time"


@given(st.uuids())
def test_id_is_a_uuid_with_or_without_dashes(name: uuid.UUID) -> None:
    for text in (str(name), name.hex, str(name).upper()):
        assert fields.identifier("id", text) == name


@pytest.mark.parametrize(
    "text",
    [
        "",
        "7",
        "20261129-083900-1234-5678-9012345678",
        "2026112-9083900-1234-5678-9012345678",
        "{00000000-0000-0000-0000-000000000000}",
        "urn:uuid:00000000-0000-0000-0000-000000000000",
        "٣" * 32,
        "0" * 31 + "_",
        "0" * 32 + "\n",
        "+" + "0" * 31,
    ],
)
def test_other_text_is_refused_as_id(text: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        fields.identifiers("ids", ["0" * 32, text], most=2)
    assert (caught.value.field, caught.value.reason) == ("ids", "UUID_INVALID")


@pytest.mark.parametrize("count", [0, 3])
def test_number_of_ids_is_checked_before_parsing(count: int) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        fields.identifiers("ids", ["?"] * count, most=2)
    assert (caught.value.field, caught.value.reason) == ("ids", "WRONG_COUNT")


class Colour(IntEnum):
    RED = 1
    BLUE = 2


def test_refusal_of_an_enum_value_lists_the_valid_ones() -> None:
    assert fields.choice("colour", Colour, 2) is Colour.BLUE
    with pytest.raises(InvalidArgumentError, match="RED, BLUE"):
        fields.choice("colour", Colour, 77)
