"""Requests generated in parts have the same totals as requests generated at once."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from meterline_protos.ingest.v1 import capture_pb2

from tests.bench.orders import Lane, LoadOrder, lanes
from tests.bench.usage import units
from tests.bench.workload import QUANTITY, Tally, Workload, tenant_name

pytestmark = pytest.mark.req("T8.3")

NOW_MS = 1_750_000_000_000
ORDER = LoadOrder(
    address="", workload=Workload(tenants=3), form="columns", batch=20, concurrency=1, events=400, seconds=1.0
)


def only(order: LoadOrder, part_events: int) -> Lane:
    (lane,) = lanes(order, NOW_MS, part_events)
    return lane


def columns(lane: Lane, sent: int) -> list[capture_pb2.ReportRequest]:
    return [capture_pb2.ReportRequest.FromString(payload) for payload in lane.payloads[:sent]]


@given(
    st.integers(1, 500),
    st.integers(0, 20),
    st.sampled_from([0.0, 0.1, 0.5]),
    st.booleans(),
)
def test_tally_covers_exactly_the_sent_requests(
    part_events: int, sent: int, duplicates: float, mixed: bool
) -> None:
    workload = replace(ORDER.workload, mixed=mixed)
    lane = only(replace(ORDER, duplicates=duplicates, workload=workload), part_events)
    for _ in range(sent):
        assert lane.take() is not None
    by_id: dict[bytes, tuple[str, int]] = {}
    tenants: list[str] = []
    for request in columns(lane, sent):
        amounts = np.frombuffer(request.columns.quantities[0].units, "<i8").tolist()
        tenants = [request.tenant_id] * len(amounts)
        if mixed:
            indexes = np.frombuffer(request.columns.tenant_index, "<u4").tolist()
            tenants = [request.columns.tenants[at] for at in indexes]
        ids = request.columns.event_ids
        for at, (tenant, amount) in enumerate(zip(tenants, amounts, strict=True)):
            by_id[ids[16 * at : 16 * at + 16]] = (tenant, amount)
    tally = lane.tally()
    for number in range(3):
        mine = [amount for tenant, amount in by_id.values() if tenant == tenant_name(number)]
        assert tally.of_tenant(number) == (len(mine), sum(mine))
    assert tenant_name(lane.last_tenant()) == (tenants[-1] if tenants else tenant_name(0))


@given(st.integers(1, 15_000))
def test_parts_continue_ids_and_times(part_events: int) -> None:
    # 40 ms of events.
    order = replace(ORDER, batch=600, events=12_000)
    lane = only(order, part_events)
    times = [np.frombuffer(each.columns.times_us, "<i8") for each in columns(lane, 20)]
    whole = [np.frombuffer(each.columns.times_us, "<i8") for each in columns(only(order, 12_000), 20)]
    # A part begins at a whole millisecond.
    assert np.abs(np.concatenate(times) - np.concatenate(whole)).max() <= 1_000
    data = b"".join(each.columns.event_ids for each in columns(lane, 20))
    assert len({data[at : at + 16] for at in range(0, len(data), 16)}) == 12_000
    assert times[-1][-1] <= NOW_MS * 1000


def test_random_ids_differ_between_parts_and_seeds() -> None:
    order = replace(ORDER, workload=Workload(tenants=3, random_ids=True))
    made: set[bytes] = set()
    for seed in (0, 1, 2):
        for request in columns(only(replace(order, seed=seed), 40), 20):
            ids = request.columns.event_ids
            made |= {ids[at : at + 16] for at in range(0, len(ids), 16)}
    assert len(made) == 1_200


def test_old_events_precede_all_others() -> None:
    old = columns(only(replace(ORDER, age_seconds=600), 400), 20)
    assert old[-1].columns.event_ids[-16:] < columns(only(ORDER, 400), 20)[0].columns.event_ids[:16]
    last_us = np.frombuffer(old[-1].columns.times_us, "<i8")[-1]
    assert NOW_MS * 1000 - last_us == pytest.approx(600_000_000, abs=2_000)


def test_unused_lane_has_an_empty_tally() -> None:
    lane = only(replace(ORDER, form="rows"), 100)
    assert lane.tally().total == lane.last_tenant() == 0
    while lane.take() is not None:
        pass
    assert lane.sent == 20
    assert lane.tally().total == 400


def test_tally_covers_streams() -> None:
    made = lanes(replace(ORDER, form="stream", events=4_000, concurrency=2), NOW_MS)
    found, summed = Tally.empty(3), 0
    for lane in made:
        while (at := lane.take()) is not None:
            event = capture_pb2.StreamRequest.FromString(lane.payloads[at]).event
            summed += units(Decimal(event.quantities[QUANTITY]))
        found += lane.tally()
    assert (found.total, int(found.units.sum())) == (4_000, summed)
