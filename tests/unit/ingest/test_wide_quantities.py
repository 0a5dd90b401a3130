"""A quantity has at most 18 digits at the scale of its type, in rows and in columns."""

from __future__ import annotations

import struct
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from meterline import decimals
from meterline_ingest.capture.parse import columns as translate
from meterline_ingest.capture.parse import wire
from meterline_ingest.capture.parse.rows import RowReader
from meterline_ingest.capture.rules.validation import Check
from meterline_ingest.event.columns import Columns
from meterline_ingest.event_types.rules.book import TypeBook
from meterline_ingest.event_types.rules.types import EventType, Quantity
from meterline_protos.ingest.v1 import capture_pb2

from tests.support.capture import Sample, columns, rows
from tests.unit.ingest.registered import LIMITS, NOW_US, TENANTS

pytestmark = pytest.mark.req("T6.1", "T8.3")

SCALES = range(10)
TYPES = TypeBook(
    {
        f"at{scale}": EventType(f"at{scale}", (Quantity("q", scale, False, True),), (), False)
        for scale in SCALES
    }
)
BOUND = 10**18
scales = st.sampled_from(SCALES)
# Values around each power of ten, and arbitrary values.
wide = st.builds(
    lambda power, near, sign: sign * (10**power + near),
    st.integers(0, 18),
    st.integers(-3, 3),
    st.sampled_from([1, -1]),
) | st.integers(1 - (1 << 63), (1 << 63) - 1)


def verdict(parsed: Columns) -> tuple[str, str] | int:
    """The reason and rule of a refusal, or the stored units."""
    checked = Check(parsed, TENANTS, TYPES).verdict(LIMITS, NOW_US)
    problem = checked.problems.by_row.get(0)
    if problem is not None:
        return problem.reason, problem.message
    (slot, *_) = checked.slots
    assert slot is not None
    return int(slot.units[0])


def by_text(sample: Sample) -> Columns:
    parsed = wire.ReportRequest.FromString(rows(sample).SerializeToString())
    reader = RowReader(frozenset())
    reader.add(parsed.rows.events, "acme", "test")
    return reader.finish()


def by_column(sample: Sample, units: int, scale: int) -> Columns:
    request: capture_pb2.ReportRequest = columns(sample)
    (column,) = request.columns.quantities
    column.scale, column.units = scale, struct.pack("<q", units)
    parsed = wire.ReportRequest.FromString(request.SerializeToString())
    return translate.from_columns(parsed.columns, "acme", "test")


@given(wide, scales, scales)
def test_quantity_within_64_bit_units_is_accepted_else_refused_with_the_bound(
    units: int, sent_scale: int, scale: int
) -> None:
    sample = Sample(f"at{scale}", dimensions={}, time_us=NOW_US, quantities={"q": "0"})
    text = decimals.units_in_full(units, sent_scale)
    sample.quantities = {"q": text}
    found = verdict(by_text(sample))
    sample.quantities = {"q": "0"}
    assert verdict(by_column(sample, units, sent_scale)) == found

    value = Fraction(units, 10**sent_scale) * 10**scale
    if value.denominator > 1:
        assert found[0] in ("QUANTITY_TOO_PRECISE", "QUANTITY_OUT_OF_RANGE")  # type: ignore[index]
    elif abs(value) < BOUND:
        assert found == value
    else:
        assert found[0] == "QUANTITY_OUT_OF_RANGE"  # type: ignore[index]


@pytest.mark.parametrize("scale", SCALES)
def test_refusal_states_the_allowed_integer_digits(scale: int) -> None:
    def refusal_of(text: str) -> tuple[str, str] | int:
        return verdict(by_text(Sample(f"at{scale}", dimensions={}, time_us=NOW_US, quantities={"q": text})))

    most = "9" * (18 - scale) + ("." + "9" * scale if scale else "")
    assert (refusal_of(most), refusal_of(f"-{most}")) == (BOUND - 1, 1 - BOUND)
    rule = f"at most {18 - scale} digits before the point"
    if scale:
        assert refusal_of("1" + "0" * (18 - scale)) == ("QUANTITY_OUT_OF_RANGE", rule)
    # A value that no type could hold is refused without a lookup of its type.
    rule = "at most 18 digits, those behind the point too"
    assert refusal_of("1" + "0" * 18) == ("QUANTITY_OUT_OF_RANGE", rule)


@pytest.mark.parametrize("text", ["1000000000", "1e9", "1000000000.000000", "+0001000000000.0"])
def test_billion_at_six_decimals_is_accepted(text: str) -> None:
    sample = Sample("at6", dimensions={}, time_us=NOW_US, quantities={"q": text})
    assert verdict(by_text(sample)) == 10**15
