"""The load generator, a separate process: requests are encoded before the clock starts."""

from __future__ import annotations

import asyncio
import gc
import os
import time
from collections.abc import AsyncIterable
from functools import partial
from typing import Any

import grpc
import numpy as np
from grpc import aio
from meterline_dev import channels as dev_channels
from meterline_protos.ingest.v1 import capture_pb2

from tests.bench import pace, pipes
from tests.bench.orders import Lane, LoadOrder, lanes
from tests.bench.workload import Tally

_REPORT = "/meterline.ingest.v1.CaptureService/Report"
_STREAM = "/meterline.ingest.v1.CaptureService/Stream"
_CHANNELS = 4
# The pause of a caller after an overload.
_BACK_OFF_SECONDS = 0.05


class Generator:
    """Sends the lanes and records the answers."""

    def __init__(self, order: LoadOrder) -> None:
        self._order = order
        self._lanes = lanes(order, time.time_ns() // 1_000_000)
        self._accepted = self._duplicate = self._retries = 0
        self._latencies: list[float] = []
        self._answers: list[tuple[float, int]] = []

    async def run(self) -> dict[str, Any]:
        """Runs once; returns its figures. Times are of the monotonic clock, which all processes share."""
        channels = [_channel(self._order.address) for _ in range(_CHANNELS)]
        try:
            await asyncio.gather(*(channel.channel_ready() for channel in channels))
            gc.collect()
            gc.freeze()
            cpu, started = _cpu_seconds(), time.monotonic()
            await self._send(channels, started)
            finished = time.monotonic()
        finally:
            await asyncio.gather(*(channel.close() for channel in channels))
        return self._answer(started, finished, _cpu_seconds() - cpu)

    async def _send(self, channels: list[aio.Channel], started: float) -> None:
        order = self._order
        deadline = started + order.seconds
        lane = self._lanes[0]
        if order.form == "stream":
            work = [
                self._stream(channels[at % _CHANNELS], each, deadline) for at, each in enumerate(self._lanes)
            ]
        elif order.rate:
            work = [self._paced(channels, lane, started)]
        else:
            work = [
                self._closed(self._report(channels[at % _CHANNELS]), lane, deadline)
                for at in range(order.concurrency)
            ]
        async with asyncio.TaskGroup() as group:
            for each in work:
                group.create_task(each)

    def _report(self, channel: aio.Channel) -> Any:
        """The call with raw bytes on both sides, so that no request is serialised while the clock runs."""
        return partial(channel.unary_unary(_REPORT), metadata=_metadata(self._order))

    async def _closed(self, report: Any, lane: Lane, deadline: float) -> None:
        while (now := time.monotonic()) < deadline and (at := lane.take()) is not None:
            await self._call(report, lane.payloads[at], now)

    async def _paced(self, channels: list[aio.Channel], lane: Lane, started: float) -> None:
        reports = [self._report(channel) for channel in channels]
        step = lane.batch / self._order.rate
        async with asyncio.TaskGroup() as group:
            while (at := lane.take()) is not None:
                due = started + at * step
                await pace.until(due)
                group.create_task(self._call(reports[at % _CHANNELS], lane.payloads[at], due))
                if due - started >= self._order.seconds:
                    return

    async def _call(self, report: Any, payload: bytes, since: float) -> None:
        while True:
            try:
                answer = capture_pb2.ReportResponse.FromString(await report(payload))
                break
            except aio.AioRpcError as error:
                if error.code() != grpc.StatusCode.RESOURCE_EXHAUSTED:
                    raise
                self._retries += 1
                await pace.until(time.monotonic() + _BACK_OFF_SECONDS)
        now = time.monotonic()
        self._latencies.append(now - since)
        self._answers.append((now, answer.accepted))
        self._accepted += answer.accepted
        self._duplicate += answer.duplicate
        if answer.conflict or answer.rejected:
            raise ValueError(f"unexpected outcomes: {answer.outcomes[:3]}")

    async def _stream(self, channel: aio.Channel, lane: Lane, deadline: float) -> None:
        call: aio.StreamStreamCall[bytes, bytes] = channel.stream_stream(_STREAM)(
            metadata=_metadata(self._order)
        )
        room = asyncio.Semaphore(self._order.window)
        written: list[float] = []

        async def write() -> None:
            while time.monotonic() < deadline and (at := lane.take()) is not None:
                await room.acquire()
                written.append(time.monotonic())
                await call.write(lane.payloads[at])
            await call.done_writing()

        async with asyncio.TaskGroup() as group:
            group.create_task(write())
            await self._read(call, written, room)
        if len(written) != lane.sent:
            raise ValueError("a stream ended before its messages were sent")

    async def _read(
        self, answers: AsyncIterable[bytes], written: list[float], room: asyncio.Semaphore
    ) -> None:
        answered = 0
        async for data in answers:
            answer = capture_pb2.StreamResponse.FromString(data)
            now = time.monotonic()
            for at in range(answered, answer.acknowledged):
                self._latencies.append(now - written[at])
                room.release()
            answered = answer.acknowledged
            self._answers.append((now, answer.accepted))
            self._accepted += answer.accepted
            self._duplicate += answer.duplicate
            if answer.outcomes and not answer.duplicate:
                raise ValueError(f"unexpected outcomes: {answer.outcomes[:3]}")

    def _answer(self, started: float, finished: float, cpu: float) -> dict[str, Any]:
        tally = Tally.empty(self._order.workload.tenants)
        for lane in self._lanes:
            tally += lane.tally()
        sent = sum(lane.sent * lane.batch for lane in self._lanes)
        milliseconds = np.array(self._latencies or [0.0]) * 1000
        p50, p99, most = (float(np.quantile(milliseconds, at)) for at in (0.5, 0.99, 1.0))
        return {
            "started": started,
            "finished": finished,
            "sent": sent,
            "accepted": self._accepted,
            "duplicate": self._duplicate,
            "retries": self._retries,
            "tally": tally.as_dict(),
            "p50_ms": p50,
            "p99_ms": p99,
            "max_ms": most,
            "calls": len(self._latencies),
            "cpu_seconds": cpu,
            "exhausted": all(lane.sent == len(lane.payloads) for lane in self._lanes),
            "last_tenant": self._lanes[0].last_tenant(),
            "slices": self._slices(started, finished),
        }

    def _slices(self, started: float, finished: float) -> list[float]:
        """Events a second by time slice, without a slice in which sending ended early."""
        width = self._order.slice_seconds
        if not width:
            return []
        return pace.rates(self._answers, started, min(self._order.seconds, finished - started), width)


def _channel(address: str) -> aio.Channel:
    # Otherwise channels to one address share a connection.
    return aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])


def _metadata(order: LoadOrder) -> tuple[tuple[str, str], ...]:
    return dev_channels.metadata(order.token) if order.token else ()


def _cpu_seconds() -> float:
    used = os.times()
    return used.user + used.system


async def _prepare(order: dict[str, Any]) -> pipes.Run:
    return Generator(LoadOrder.parse(order)).run


if __name__ == "__main__":
    pipes.serve(_prepare)
