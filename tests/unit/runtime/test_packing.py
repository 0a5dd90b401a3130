"""Packed columns round-trip, in as few bytes as their values need."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from meterline.packing import pack_signed, pack_unsigned, unpack_signed, unpack_unsigned

pytestmark = pytest.mark.req("T2.1")

# Values around the edge of every width, where a too narrow column would overflow.
_EDGES = [(1 << bits) + near for bits in (7, 8, 15, 16, 31, 32, 63) for near in (-1, 0)]
UNSIGNED = st.one_of(st.integers(0, 2**32 - 1), st.sampled_from([edge for edge in _EDGES if edge < 2**32]))
SIGNED = st.one_of(
    st.integers(-(2**63), 2**63 - 1),
    st.sampled_from([sign * edge for edge in _EDGES if edge < 2**63 for sign in (1, -1)]),
)


@given(st.lists(UNSIGNED))
def test_unsigned_columns_round_trip(values: list[int]) -> None:
    packed = pack_unsigned(np.array(values, np.int64))
    assert unpack_unsigned(packed, len(values)).tolist() == values


@given(st.lists(SIGNED))
def test_signed_columns_round_trip(values: list[int]) -> None:
    packed = pack_signed(np.array(values, np.int64))
    assert unpack_signed(packed, len(values)).tolist() == values


@pytest.mark.parametrize(
    ("most", "width"), [(0, 1), (255, 1), (256, 2), (65_535, 2), (65_536, 4), (2**32 - 1, 4)]
)
def test_unsigned_columns_are_as_narrow_as_their_greatest_value(most: int, width: int) -> None:
    assert len(pack_unsigned(np.array([0, most, 0]))) == 3 * width


@pytest.mark.parametrize(
    ("value", "width"), [(-128, 1), (-129, 2), (127, 1), (128, 2), (2**31, 8), (-(2**31), 4), (-(2**63), 8)]
)
def test_signed_columns_are_as_narrow_as_their_values(value: int, width: int) -> None:
    assert len(pack_signed(np.array([0, value]))) == 2 * width


@pytest.mark.parametrize("unpack", [unpack_unsigned, unpack_signed])
@pytest.mark.parametrize(("size", "rows"), [(1, 0), (3, 2), (0, 1), (9, 3), (32, 2)])
def test_length_of_no_valid_width_is_refused(unpack: object, size: int, rows: int) -> None:
    with pytest.raises(ValueError, match=f"{size} bytes are not {rows} values"):
        unpack(bytes(size), rows)  # type: ignore[operator]
