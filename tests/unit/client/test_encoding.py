"""Encoding keeps all recorded events unchanged, also when a batch is split."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from meterline_client.batches import Batch, cut, split
from meterline_client.columns import encode
from meterline_client.events import EPOCH, MICROSECOND, Event, Row, to_event
from meterline_client.packing import pack_int64, pack_uint32, unpack_int64, unpack_uint32
from meterline_client.reading import decode
from meterline_client.recording import Recorder
from meterline_client.transport import sent_at
from meterline_protos.ingest.v1 import capture_pb2

from tests.support.client import ManualClock, rows

names = st.sampled_from(["miles", "air_minutes", "größe", "a b"])
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
quantity = st.one_of(
    st.integers(-(10**18) + 1, 10**18 - 1),
    st.builds(
        lambda units, scale: Decimal(f"{units}E-{scale}"),
        st.integers(-(10**18) + 1, 10**18 - 1),
        st.integers(0, 9),
    ),
)
recorded = st.fixed_dictionaries(
    {
        "event_type": st.sampled_from(["flight.departed", "api.called", "x"]),
        "subject": st.one_of(st.sampled_from(["", "N14228"]), texts),
        "time": st.datetimes(timezones=st.just(UTC)),
        "dimensions": st.dictionaries(texts.filter(bool), texts, max_size=3),
        "quantities": st.dictionaries(names, quantity, max_size=3),
        "event_id": st.one_of(st.none(), st.uuids(), texts.filter(bool)),
        "tenant_id": st.sampled_from(["acme", "b-2"]),
        "properties": st.none() | st.dictionaries(texts.filter(bool), texts, max_size=2),
    }
)


def to_row(given_event: dict[str, Any]) -> Row:
    return Recorder("", ManualClock(), None).row(**given_event)[1]


def count(events: list[Event]) -> Counter[str]:
    # Events contain mappings, which are not hashable.
    return Counter(map(text, events))


def text(event: Event) -> str:
    amounts = sorted((name, value.normalize()) for name, value in event.quantities.items())
    fixed = (event.id, event.tenant_id, event.type, event.subject, event.time)
    return repr((fixed, sorted(event.dimensions.items()), amounts, sorted(event.properties.items())))


@pytest.mark.req("T1.1", "T1.3")
@settings(deadline=None)
@given(st.lists(recorded, min_size=1, max_size=12), st.integers(200, 2_000))
def test_encoded_events_round_trip_once_and_unchanged(
    given_events: list[dict[str, Any]], max_bytes: int
) -> None:
    given_rows = [to_row(one) for one in given_events]

    batches = list(cut(given_rows, "gw/1", max_bytes))

    assert count([event for batch in batches for event in batch.events()]) == count(
        [to_event(row) for row in given_rows]
    )
    for batch in batches:
        assert batch.count == len(batch.events())
        assert len(batch.payload) <= max_bytes or batch.count == 1
        request = capture_pb2.ReportRequest.FromString(batch.payload)
        assert bool(request.columns.event_ids) != bool(request.columns.text_ids)
        for column in request.columns.quantities:
            assert all(abs(units) < 10**18 for units in unpack_int64(column.units))


@pytest.mark.req("T1.1")
@settings(deadline=None)
@given(st.lists(recorded, min_size=1, max_size=12), st.integers(2, 9))
def test_splitting_keeps_all_events(given_events: list[dict[str, Any]], parts: int) -> None:
    for batch in cut([to_row(one) for one in given_events], "gw/1"):
        smaller = split(batch, parts)

        assert count([event for part in smaller for event in part.events()]) == count(batch.events())
        assert batch.count == 1 or all(part.count < batch.count for part in smaller)
        assert {decode(part.payload)[0] for part in smaller} == {"gw/1"}


@pytest.mark.req("T1.1")
@settings(deadline=None)
@given(st.lists(recorded, min_size=1, max_size=12))
def test_order_is_kept_within_a_request(given_events: list[dict[str, Any]]) -> None:
    given_rows = [to_row(one | {"event_id": None, "quantities": {}}) for one in given_events]

    _, back = decode(encode(given_rows, "gw/1"))

    assert back == given_rows


@pytest.mark.req("T1.3")
def test_wire_format_is_pinned() -> None:
    recorder = Recorder("acme", ManualClock(), None)
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    made = [
        recorder.row("a", "x", moment, {"o": "JFK"}, {"miles": 5}, "0" * 31 + "z", None)[1],
        recorder.row("b", "x", moment + MICROSECOND, None, {"fee": Decimal("1.50")}, "other", "b-2")[1],
        recorder.row("a", "x", moment, {"o": "JFK"}, {"fee": 2, "miles": -1}, "third", None)[1],
    ]

    request = capture_pb2.ReportRequest.FromString(encode(made, "gw/1"))

    start = (moment - EPOCH) // MICROSECOND
    columns = capture_pb2.EventColumns(
        tenants=["acme", "b-2"],
        tenant_index=bytes([0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]),
        types=["a", "b"],
        type_index=bytes([0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]),
        subjects=["x"],
        dimension_sets=[capture_pb2.DimensionSet(values={"o": "JFK"}), capture_pb2.DimensionSet()],
        dimension_set_index=bytes([0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]),
        text_ids=["0" * 31 + "z", "other", "third"],
        times_us=b"".join((start + n).to_bytes(8, "little") for n in (0, 1, 0)),
        quantities=[
            capture_pb2.QuantityColumn(
                name="miles",
                units=b"\5" + b"\0" * 7 + b"\0" * 8 + b"\xff" * 8,
                present=b"\1\0\1",
            ),
            capture_pb2.QuantityColumn(
                name="fee",
                scale=1,
                units=b"\0" * 8 + b"\x0f" + b"\0" * 7 + b"\x14" + b"\0" * 7,
                present=b"\0\1\1",
            ),
        ],
    )
    assert request == capture_pb2.ReportRequest(source="gw/1", columns=columns)


@pytest.mark.req("T1.3")
def test_equal_values_of_all_rows_are_encoded_once() -> None:
    request = capture_pb2.ReportRequest.FromString(encode(rows(3, subject="x"), "gw/1"))

    assert request.tenant_id == "acme"
    assert not request.columns.tenants
    assert not request.columns.tenant_index + request.columns.type_index
    assert not request.columns.dimension_sets
    assert len(request.columns.event_ids) == 48


@pytest.mark.req("T1.1")
def test_send_time_is_appended_to_the_encoded_batch() -> None:
    payload = encode(rows(2), "gw/1")
    now = ManualClock().now_us() + 7

    sent = capture_pb2.ReportRequest.FromString(payload + sent_at(now))

    assert sent.sent_at.ToMicroseconds() == now
    assert sent.sent_at.ToDatetime(UTC) - datetime(2026, 3, 1, 12, tzinfo=UTC) == timedelta(microseconds=7)
    sent.ClearField("sent_at")
    assert sent == capture_pb2.ReportRequest.FromString(payload)


@pytest.mark.req("T1.3")
def test_values_without_a_common_scale_use_separate_requests() -> None:
    made = rows(2, quantities={"q": 10**18 - 1}) + rows(1, quantities={"q": Decimal("0.000000001")})

    assert sorted(batch.count for batch in cut(made, "gw/1")) == [1, 2]


@pytest.mark.req("T1.1")
@pytest.mark.parametrize("payload", [b"\xff\xff", b"\x2a\x05\x0a\x03"])
def test_bytes_that_are_no_request_are_refused(payload: bytes) -> None:
    with pytest.raises(ValueError, match="not a request"):
        Batch(payload, 1).events()


@pytest.mark.req("T1.1")
@settings(deadline=None)
@given(st.lists(st.integers(0, 2**32 - 1)), st.lists(st.integers(-(2**63), 2**63 - 1)))
def test_packed_arrays_are_little_endian(small: list[int], large: list[int]) -> None:
    assert pack_uint32(small) == b"".join(value.to_bytes(4, "little") for value in small)
    assert pack_int64(large) == b"".join(value.to_bytes(8, "little", signed=True) for value in large)
    assert list(unpack_uint32(pack_uint32(small))) == small
    assert list(unpack_int64(pack_int64(large))) == large
