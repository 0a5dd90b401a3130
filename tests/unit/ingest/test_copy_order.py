"""The order in which the rows of a flush are copied: that of the key, so that flushes never deadlock."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from meterline_ingest.capture.store.events import Rows, _order
from meterline_ingest.event.columns import UUID_DTYPE

pytestmark = pytest.mark.req("T1.2", "T1.6")

# Halves that are often equal, and that differ in their last byte alone.
halves = st.integers(0, 3) | st.integers(0, 2**64 - 1)
keys = st.lists(st.tuples(halves, halves, st.integers(1, 2)), min_size=1, max_size=20, unique=True)


@given(keys)
def test_rows_are_copied_in_the_order_of_their_keys(given_keys: list[tuple[int, int, int]]) -> None:
    raw = b"".join(((front << 64) | back).to_bytes(16, "big") for front, back, _ in given_keys)
    zeros = np.zeros(len(given_keys), np.int64)
    tenants = np.array([tenant for _, _, tenant in given_keys], np.int64)
    ids = np.frombuffer(raw, UUID_DTYPE)
    order = _order(Rows(ids, tenants, zeros, zeros, zeros, zeros, [None] * 4, None))
    copied = given_keys if order is None else [given_keys[at] for at in order.tolist()]
    assert copied == sorted(given_keys)
