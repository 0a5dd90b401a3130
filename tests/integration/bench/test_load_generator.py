"""The load generator's report equals the events stored by a fake capture service."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from decimal import Decimal
from typing import Any

import grpc
import numpy as np
import pytest
from grpc import aio
from meterline_protos.ingest.v1 import capture_pb2, capture_pb2_grpc

from tests.bench.load import Generator
from tests.bench.orders import LoadOrder
from tests.bench.pipes import Worker, WorkerError
from tests.bench.usage import units
from tests.bench.workload import QUANTITY, Tally, Workload, tenant_name

pytestmark = pytest.mark.req("T8.3")

TENANTS = 4


class FakeCapture(capture_pb2_grpc.CaptureServiceServicer):
    """A fake capture service that stores (tenant, units) by event id.

    The first `refuse` calls are refused; no call is answered before `together` calls have arrived.
    """

    def __init__(self, *, refuse: int = 0, reject: bool = False, together: int = 0) -> None:
        self.kept: dict[str, tuple[str, int]] = {}
        self.refuse = refuse
        self.reject = reject
        self.together = together
        self.complete = asyncio.Event()
        self.calls = 0

    async def Report(
        self, request: capture_pb2.ReportRequest, context: aio.ServicerContext[Any, Any]
    ) -> capture_pb2.ReportResponse:
        self.calls += 1
        if self.refuse:
            self.refuse -= 1
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "later")
        if self.calls >= self.together:
            self.complete.set()
        await self.complete.wait()
        if self.reject:
            return capture_pb2.ReportResponse(rejected=1)
        events = list(_rows(request) if request.HasField("rows") else _columns(request))
        accepted = sum(self._keep(*event) for event in events)
        return capture_pb2.ReportResponse(accepted=accepted, duplicate=len(events) - accepted)

    async def ReportSigned(
        self, request: capture_pb2.ReportSignedRequest, context: aio.ServicerContext[Any, Any]
    ) -> capture_pb2.ReportSignedResponse:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "no load is signed")
        raise AssertionError("abort returned")

    async def Stream(
        self, requests: AsyncIterator[capture_pb2.StreamRequest], context: aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[capture_pb2.StreamResponse]:
        acknowledged = accepted = 0
        async for request in requests:
            amount = units(Decimal(request.event.quantities[QUANTITY]))
            accepted += self._keep(request.event.id, request.tenant_id, amount)
            acknowledged += 1
            # One answer for several messages, as after a group commit.
            if acknowledged % 7 == 0:
                yield capture_pb2.StreamResponse(acknowledged=acknowledged, accepted=accepted)
                accepted = 0
        yield capture_pb2.StreamResponse(acknowledged=acknowledged, accepted=accepted)

    def _keep(self, event_id: str, tenant: str, amount: int) -> bool:
        if event_id in self.kept:
            assert self.kept[event_id] == (tenant, amount)
            return False
        self.kept[event_id] = (tenant, amount)
        return True

    def of_tenants(self) -> list[tuple[int, int]]:
        """(events, units) by tenant."""
        return [
            (sum(name == mine for name, _ in kept), sum(amount for name, amount in kept if name == mine))
            for kept in [list(self.kept.values())]
            for mine in map(tenant_name, range(TENANTS))
        ]


def _rows(request: capture_pb2.ReportRequest) -> list[tuple[str, str, int]]:
    return [
        (event.id, event.tenant_id or request.tenant_id, units(Decimal(event.quantities[QUANTITY])))
        for event in request.rows.events
    ]


def _columns(request: capture_pb2.ReportRequest) -> list[tuple[str, str, int]]:
    columns = request.columns
    amounts = np.frombuffer(columns.quantities[0].units, "<i8").tolist()
    tenants = [request.tenant_id] * len(amounts)
    if columns.tenants:
        tenants = [columns.tenants[at] for at in np.frombuffer(columns.tenant_index, "<u4").tolist()]
    ids = [columns.event_ids[at : at + 16].hex() for at in range(0, len(columns.event_ids), 16)]
    return list(zip(ids, tenants, amounts, strict=True))


@asynccontextmanager
async def serving(capture: FakeCapture) -> AsyncIterator[LoadOrder]:
    """An ordinary load order for `capture`."""
    server = aio.server()
    capture_pb2_grpc.add_CaptureServiceServicer_to_server(capture, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield LoadOrder(
            address=f"127.0.0.1:{port}",
            workload=Workload(tenants=TENANTS, subjects=3),
            form="rows",
            batch=50,
            concurrency=3,
            events=1_000,
            seconds=20.0,
        )
    finally:
        await server.stop(None)


def assert_kept(answer: dict[str, Any], capture: FakeCapture) -> None:
    tally = Tally.parse(answer["tally"])
    assert capture.of_tenants() == [tally.of_tenant(tenant) for tenant in range(TENANTS)]
    assert answer["accepted"] == len(capture.kept) == tally.total
    assert answer["accepted"] + answer["duplicate"] == answer["sent"]


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("form", ["rows", "columns"])
async def test_batches_arrive_with_reported_sums(form: str, mixed: bool) -> None:
    capture = FakeCapture()
    async with serving(capture) as order:
        workload = replace(order.workload, mixed=mixed)
        answer = await Generator(replace(order, form=form, workload=workload)).run()
    assert_kept(answer, capture)
    assert answer["sent"] == 1_000
    assert answer["exhausted"]
    assert 0 < answer["p50_ms"] <= answer["p99_ms"] <= answer["max_ms"]


async def test_slices_count_events_accepted_in_them() -> None:
    capture = FakeCapture()
    async with serving(capture) as order:
        order = replace(order, batch=10, events=30_000, seconds=0.25, slice_seconds=0.05)
        answer = await Generator(order).run()
    assert_kept(answer, capture)
    assert not answer["exhausted"]
    assert len(answer["slices"]) == 5
    # Calls in progress at the end are in no slice.
    assert answer["accepted"] - 30 <= sum(answer["slices"]) * 0.05 <= answer["accepted"]


async def test_duplicates_are_sent_and_counted_once() -> None:
    capture = FakeCapture()
    async with serving(capture) as order:
        answer = await Generator(replace(order, form="columns", duplicates=0.1)).run()
    assert_kept(answer, capture)
    assert answer["duplicate"] == 100


async def test_streams_arrive_with_reported_sums() -> None:
    capture = FakeCapture()
    async with serving(capture) as order:
        order = replace(order, form="stream", concurrency=2, events=4_000, window=32)
        answer = await Generator(order).run()
    assert_kept(answer, capture)
    assert answer["sent"] == answer["calls"] == 4_000


@pytest.mark.parametrize("form", ["rows", "stream"])
async def test_events_not_sent_in_time_are_not_counted(form: str) -> None:
    capture = FakeCapture()
    async with serving(capture) as order:
        # Far more than can be sent in this time.
        order = replace(order, form=form, batch=1, events=30_000, seconds=0.1, concurrency=2)
        answer = await Generator(order).run()
    assert_kept(answer, capture)
    assert 0 < answer["sent"] < 30_000
    assert not answer["exhausted"]


async def test_refused_call_is_retried() -> None:
    capture = FakeCapture(refuse=3)
    async with serving(capture) as order:
        answer = await Generator(order).run()
    assert_kept(answer, capture)
    assert answer["retries"] == 3
    assert capture.calls == 23


async def test_open_loop_latency_includes_the_wait_since_the_due_time() -> None:
    """Calls do not wait for answers to others, and each latency counts from the call's due time."""
    capture = FakeCapture(together=20)
    async with serving(capture) as order:
        # One call every 10 ms, and no answer before the last of 20 calls.
        answer = await Generator(replace(order, rate=5_000.0)).run()
    assert_kept(answer, capture)
    assert answer["max_ms"] > 185
    assert answer["p50_ms"] > 85


async def test_unexpected_outcome_fails_the_run() -> None:
    async with serving(FakeCapture(reject=True)) as order:
        with pytest.raises(ExceptionGroup) as raised:
            await Generator(order).run()
    assert raised.group_contains(ValueError, match="unexpected outcomes")


async def test_load_process_returns_its_result() -> None:
    capture = FakeCapture()
    async with (
        serving(capture) as order,
        Worker("tests.bench.load", replace(order, events=500).as_dict()) as worker,
    ):
        assert capture.calls == 0, "nothing is sent before the start command"
        answer = await worker.run()
    assert_kept(answer, capture)


async def test_load_process_reports_its_failure() -> None:
    async with (
        serving(FakeCapture(reject=True)) as order,
        Worker("tests.bench.load", replace(order, events=500).as_dict()) as worker,
    ):
        with pytest.raises(WorkerError, match="unexpected outcomes"):
            await worker.run()
