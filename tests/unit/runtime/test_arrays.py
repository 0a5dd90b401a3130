"""Binary arrays equal the driver's own encoding of lists, byte for byte."""

from __future__ import annotations

import datetime
import uuid
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from meterline.clock import to_datetime
from meterline.db import arrays
from psycopg.adapt import PyFormat, Transformer
from psycopg.types.numeric import Int2, Int4, Int8

pytestmark = pytest.mark.req("T2.1")

INT2 = st.integers(-(2**15), 2**15 - 1)
INT4 = st.integers(-(2**31), 2**31 - 1)
INT8 = st.integers(-(2**63), 2**63 - 1)
TEXT = st.characters(exclude_characters="\0", exclude_categories=["Cs"])
# The range of datetime, which is smaller than that of Postgres.
MICROSECONDS = st.integers(-62_135_596_800_000_000, 253_402_300_799_999_999)


def by_the_driver(values: list[Any]) -> bytes:
    dumped = Transformer().get_dumper(values, PyFormat.BINARY).dump(values)
    assert dumped is not None
    return bytes(dumped)


@given(st.lists(INT2, min_size=1))
def test_int2_columns_equal_the_drivers(values: list[int]) -> None:
    assert arrays.int2_array(np.array(values)).data == by_the_driver([Int2(value) for value in values])


@given(st.lists(INT4, min_size=1))
def test_int4_columns_equal_the_drivers(values: list[int]) -> None:
    assert arrays.int4_array(np.array(values)).data == by_the_driver([Int4(value) for value in values])


@given(st.lists(INT8, min_size=1))
def test_int8_columns_equal_the_drivers(values: list[int]) -> None:
    column = np.array(values, dtype=np.int64)
    assert arrays.int8_array(column).data == by_the_driver([Int8(value) for value in values])


@given(st.lists(st.one_of(st.none(), INT8), min_size=1))
def test_int8_columns_with_nulls_equal_the_drivers(values: list[int | None]) -> None:
    if all(value is None for value in values):
        values = [*values, 0]  # the driver cannot infer the type of an empty list
    column = np.array([value or 0 for value in values], dtype=np.int64)
    present = np.array([value is not None for value in values])
    expected = by_the_driver([None if value is None else Int8(value) for value in values])
    assert arrays.int8_array_or_null(column, present).data == expected


@given(st.lists(INT8, min_size=1))
def test_column_without_a_mask_has_no_nulls(values: list[int]) -> None:
    column = np.array(values, dtype=np.int64)
    assert arrays.int8_array_or_null(column, None).data == arrays.int8_array(column).data


@given(st.lists(st.uuids(), min_size=1))
def test_uuid_columns_equal_the_drivers(values: list[uuid.UUID]) -> None:
    column = np.frombuffer(b"".join(value.bytes for value in values), dtype="V16")
    assert arrays.uuid_array(column).data == by_the_driver(list(values))


@given(st.lists(MICROSECONDS, min_size=1))
def test_timestamp_columns_equal_the_drivers(values: list[int]) -> None:
    column = np.array(values, dtype=np.int64)
    moments: list[datetime.datetime] = [to_datetime(value) for value in values]
    assert arrays.timestamptz_array(column).data == by_the_driver(moments)


@given(st.lists(st.none() | st.text(TEXT), min_size=1))
def test_text_columns_equal_the_drivers(values: list[str | None]) -> None:
    if all(value is None for value in values):
        values = [*values, ""]  # the driver cannot infer the type of an empty list
    assert arrays.text_array(values).data == by_the_driver(values)


@given(st.lists(st.none() | st.binary(), min_size=1))
def test_bytea_columns_equal_the_drivers(values: list[bytes | None]) -> None:
    if all(value is None for value in values):
        values = [*values, b""]
    assert arrays.bytea_array(values).data == by_the_driver(values)
