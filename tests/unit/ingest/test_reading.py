"""Equal events in rows and in columns are parsed to equal values."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from meterline.bounds import LATEST_US
from meterline.errors import InvalidArgumentError
from meterline_ingest.capture.parse import columns as translate
from meterline_ingest.capture.parse import wire
from meterline_ingest.capture.parse.rows import RowReader
from meterline_ingest.capture.rules.validation import Checked
from meterline_ingest.event.bounds import MAX_QUANTITY_COLUMNS
from meterline_ingest.event.columns import Columns, QuantityColumn, concatenate
from meterline_protos.ingest.v1 import capture_pb2

from tests.support.capture import Sample, columns, rows
from tests.unit.ingest.registered import NOW_US, check

INT64 = 1 << 63
texts = st.text(max_size=5) | st.sampled_from(["\0", "a\0", "s" * 300])
# At one scale, as in a column; values just within and just beyond the limit of each rule.
whole = st.integers(-(10**16), 10**16) | st.integers(-INT64, INT64 - 1)
samples = st.builds(
    Sample,
    type=st.sampled_from(["plain", "two", "strict", "bounded", "rich", "unknown", "", "pl\0ain"]),
    subject=st.one_of(st.sampled_from(["", "a", "b", "s" * 256, "s" * 257, "\0"]), st.text(max_size=4)),
    time_us=st.integers(NOW_US - 40 * 86_400_000_000, NOW_US + 600_000_000)
    | st.integers(-INT64, INT64 - 1)
    | st.sampled_from([-1, 0, 1, LATEST_US - 1, LATEST_US, -INT64, INT64 - 1]),
    dimensions=st.dictionaries(st.sampled_from(["region", "tier", "other"]), texts, max_size=3)
    | st.integers(15, 18).map(lambda size: {f"d{at}": "v" for at in range(size)}),
    quantities=st.dictionaries(
        st.sampled_from(["units", "bytes", "x"]), whole.map(str) | st.integers(-2, 12).map(str), max_size=3
    ),
    properties=st.just({})
    | st.dictionaries(
        st.sampled_from(["product", "title", "age", "secret"]),
        st.sampled_from(["p1", "p2", "p3", "30", "-1", "much too long", ""]),
        max_size=3,
    ),
    id=st.uuids().map(str)
    | st.sampled_from(["", "\0", "x" * 128, "x" * 129, "\0" * 36, "20261129-083900-1234-5678-9012345678"]),
    tenant_id=st.sampled_from(["", "acme", "bolt", "nobody", "asleep"]),
)
batches = st.lists(samples, min_size=1, max_size=12)


def read_rows(request: capture_pb2.ReportRequest) -> Checked:
    parsed = wire.ReportRequest.FromString(request.SerializeToString())
    reader = RowReader(frozenset())
    reader.add(parsed.rows.events, parsed.tenant_id, parsed.source)
    return check(reader.finish())


def read_columns(request: capture_pb2.ReportRequest) -> Columns:
    parsed = wire.ReportRequest.FromString(request.SerializeToString())
    return translate.from_columns(parsed.columns, parsed.tenant_id, parsed.source)


def plain(checked: Checked) -> list[tuple[object, ...]]:
    """For each row: the values to store, or the reason for its refusal."""
    found: list[tuple[object, ...]] = []
    columns_ = checked.columns
    for row in range(len(columns_)):
        if row in checked.problems.by_row:
            problem = checked.problems.by_row[row]
            found.append((problem.kind, problem.reason, problem.field, problem.message))
            continue
        units = tuple(
            None
            if slot is None or (slot.present is not None and not slot.present[row])
            else int(slot.units[row])
            for slot in checked.slots
        )
        found.append(
            (
                columns_.ids[row].tobytes(),
                checked.series[checked.series_index[row]],
                columns_.subjects[columns_.subject_index[row]],
                int(columns_.times_us[row]),
                units,
                _details(checked, row),
            )
        )
    return found


def _details(checked: Checked, row: int) -> tuple[object, ...] | None:
    variant = checked.fields.variants.get(int(checked.fields.index[row]))
    if variant is None:
        return None
    return variant.sent_dimensions, variant.sent_properties, variant.properties, variant.sources


@given(batches)
@settings(max_examples=100, deadline=None)
@pytest.mark.req("T1.2", "T1.6")
def test_rows_and_columns_are_parsed_equally(batch: list[Sample]) -> None:
    by_columns = check(read_columns(columns(*batch)))
    assert plain(read_rows(rows(*batch))) == plain(by_columns)


@given(batches)
@settings(max_examples=50, deadline=None)
@pytest.mark.req("T1.6", "T4.2")
def test_event_is_validated_independently_of_its_batch(batch: list[Sample]) -> None:
    alone = [plain(check(read_columns(columns(each))))[0] for each in batch]
    assert plain(check(read_columns(columns(*batch)))) == alone


many_quantities = st.lists(
    st.builds(
        Sample,
        type=st.sampled_from(["plain", "two", "bounded", "unknown"]),
        time_us=st.just(NOW_US),
        dimensions=st.just({}),
        quantities=st.dictionaries(
            st.sampled_from(["units", "bytes", "x", *(f"q{at}" for at in range(12))]),
            st.integers(-600, 1_000).map(str),
            max_size=2,
        ),
        id=st.uuids().map(str),
    ),
    min_size=16,
    max_size=40,
)


@given(many_quantities, st.integers(1, 15))
@settings(max_examples=100, deadline=None)
@pytest.mark.req("T1.6", "T4.2")
def test_sparse_quantities_are_validated_like_dense_ones(batch: list[Sample], first: int) -> None:
    """Quantities of few rows have a sparse form, both after parsing and after calls are merged."""
    alone = [plain(check(read_columns(columns(each))))[0] for each in batch]
    assert plain(read_rows(rows(*batch))) == alone
    calls = [read_columns(columns(*some)) for some in (batch[:first], batch[first:])]
    assert plain(check(concatenate(calls, frozenset()))) == alone


@given(st.lists(batches, min_size=1, max_size=4))
@settings(max_examples=50, deadline=None)
@pytest.mark.req("T1.6", "T2.1")
def test_calls_in_a_shared_commit_keep_their_outcomes(calls: list[list[Sample]]) -> None:
    apart = [plain(check(read_columns(columns(*call)))) for call in calls]
    together = concatenate([read_columns(columns(*call)) for call in calls], frozenset())
    assert plain(check(together)) == [row for call in apart for row in call]


@given(st.dictionaries(st.text(max_size=200), st.text(max_size=200), max_size=5))
@pytest.mark.req("O2")
def test_map_parser_agrees_with_protobuf(values: dict[str, str]) -> None:
    event = capture_pb2.ReportRequest(
        rows=capture_pb2.EventRows(events=[capture_pb2.Event(dimensions=values)])
    )
    (read,) = wire.ReportRequest.FromString(event.SerializeToString()).rows.events
    assert wire.read_map(list(read.dimensions)) == values  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "entry",
    [
        b"",
        b"\x12\x01v",
        b"\x0a\x01k",
        b"\x12\x01v\x0a\x01k",
        b"\x0a\x01k\x12\x01v\x1a\x01z",
        b"\x0a\x01k\x0a\x01j\x12\x01v",
    ],
)
@pytest.mark.req("O2")
def test_unusual_map_entries_are_parsed_like_protobuf(entry: bytes) -> None:
    whole = b"\x0a" + bytes([len(entry)]) + entry
    assert wire.read_map([entry]) == dict(capture_pb2.DimensionSet.FromString(whole).values)


@pytest.mark.req("T2.4")
def test_duplicate_quantity_column_is_refused() -> None:
    request = columns(Sample())
    request.columns.quantities.append(request.columns.quantities[0])
    with pytest.raises(InvalidArgumentError, match="one column a quantity"):
        read_columns(request)


@pytest.mark.req("T1.5")
def test_time_before_1970_or_after_9999_is_out_of_range() -> None:
    early, late = Sample().to_row(), Sample().to_row()
    early.time.seconds = -5
    late.time.seconds = 10**13
    reader = RowReader(frozenset())
    request = capture_pb2.ReportRequest(rows=capture_pb2.EventRows(events=[early, late]))
    reader.add(wire.ReportRequest.FromString(request.SerializeToString()).rows.events, "acme", "s")
    found = check(reader.finish()).problems.by_row
    assert [problem.reason for problem in found.values()] == ["TIME_OUT_OF_RANGE"] * 2
    assert datetime.fromtimestamp(NOW_US / 1e6, UTC).year == 2026


def rows_of(column: QuantityColumn) -> list[int]:
    """The rows in which the quantity has values."""
    having = column.having()
    found: list[int] = (having if column.rows is None else column.rows[having]).tolist()
    return sorted(found)


def made_up(rows_of: int, names: int) -> list[Sample]:
    """Events with unique made-up quantities each, and one quantity of the type."""
    return [
        Sample(quantities={"units": "1", **{f"q{row}-{at}": "1" for at in range(names)}})
        for row in range(rows_of)
    ]


@pytest.mark.req("T2.4", "T8.3")
def test_made_up_quantity_names_use_few_columns_and_affect_no_others() -> None:
    bad, good = made_up(50, 20), [Sample(quantities={"units": "2", "more": "3"}) for _ in range(5)]
    known = frozenset({"units", "more"})
    reader = RowReader(known)
    request = wire.ReportRequest.FromString(rows(*bad, *good).SerializeToString())
    reader.add(request.rows.events, "acme", "test")
    from_rows = reader.finish()
    from_columns = concatenate(
        [read_columns(columns(sample)) for sample in bad] + [read_columns(columns(*good))], known
    )
    for found in (from_rows, from_columns):
        assert len(found.quantities) <= MAX_QUANTITY_COLUMNS + 3
        by_name = {column.name: column for column in found.quantities}
        more = by_name["more"]
        assert rows_of(more) == list(range(50, 55))
        assert set(more.units[more.having()].tolist()) == {3}
        # Every row with made-up names still has at least one unknown name.
        strange = np.zeros(len(found), np.bool_)
        for name, column in by_name.items():
            if name not in known:
                strange[rows_of(column)] = True
        assert strange.tolist() == [True] * 50 + [False] * 5
