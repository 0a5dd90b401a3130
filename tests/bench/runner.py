"""Runs one case on a prepared mesh."""

from __future__ import annotations

import asyncio
import re
import sys
from dataclasses import replace
from typing import Any

from meterline_dev.processes import ChildSpec
from meterline_dev.servers.ports import reserve_port

from tests.bench import ceiling, textbook
from tests.bench.cases import COPY, FRESHNESS, TEXTBOOK, Case
from tests.bench.freshness import Freshness, Probe
from tests.bench.measure import Cost
from tests.bench.options import Options
from tests.bench.orders import LoadOrder
from tests.bench.pipes import ROOT, Worker
from tests.bench.rows import Row
from tests.bench.stage import PROBE, Stage
from tests.bench.usage import Visible
from tests.bench.workload import Tally

# The textbook pipeline processes some hundreds of events a second.
_TEXTBOOK_DRAIN_SECONDS = 120.0


class Runner:
    """Runs cases sequentially, each with its own requests."""

    def __init__(self, stage: Stage, options: Options) -> None:
        self._stage = stage
        self._options = options
        self._seed = 0

    async def run(self, case: Case, greatest: float) -> Row:
        """Runs a case. `greatest` is the highest rate so far; the freshness case offers half of it."""
        self._seed += 1
        await self._stage.guards.put(on=not case.bare)
        if case.name == COPY:
            return await self._copy(case)
        if case.name == TEXTBOOK:
            return await self._textbook(case)
        if case.name == FRESHNESS:
            return await self._freshness(replace(case, rate=self._options.rate or greatest / 2))
        return await self._load(case)

    async def _copy(self, case: Case) -> Row:
        dsn = self._stage.mesh.admin_dsn()
        events, seconds = self._options.bound(case)
        order = ceiling.CopyOrder(
            dsn,
            case.workload(self._options.workload),
            case.batch,
            case.concurrency,
            events,
            seconds,
            self._seed,
        )
        await asyncio.to_thread(ceiling.create_table, dsn)
        async with Worker("tests.bench.ceiling", order.as_dict()) as worker:
            await asyncio.to_thread(self._stage.meter.checkpoint)
            before = self._stage.meter.snapshot()
            answer = await worker.run()
        cost = Cost.between(before, self._stage.meter.snapshot(), answer["cpu_seconds"])
        stored = await asyncio.to_thread(ceiling.stored, dsn)
        await asyncio.to_thread(ceiling.drop_table, dsn)
        wanted = (answer["accepted"], answer["units"])
        differences = [] if stored == wanted else [f"copy: stored {stored}, not {wanted}"]
        return _row(case, answer, cost, Visible(answer["finished"], differences))

    async def _textbook(self, case: Case) -> Row:
        mesh = self._stage.mesh
        address = f"127.0.0.1:{(lease := reserve_port()).port}"
        await textbook.set_up(mesh.admin_dsn(), mesh.nats.url)
        names = []
        try:
            for role in textbook.ROLES:
                names.append(f"textbook-{role}")
                place = address if role == "capture" else mesh.nats.url
                await mesh.supervisor.start(_textbook_role(self._stage, role, place))
            async with Worker("tests.bench.load", self._order(case, address).as_dict()) as worker:
                await asyncio.to_thread(self._stage.meter.checkpoint)
                before = self._stage.meter.snapshot()
                answer = await worker.run()
            tally = Tally.parse(answer["tally"])
            visible = await textbook.totals(mesh.admin_dsn(), tally, _TEXTBOOK_DRAIN_SECONDS)
            cost = Cost.between(before, self._stage.meter.snapshot(), answer["cpu_seconds"])
        finally:
            for name in names:
                await mesh.supervisor.stop(name)
            lease.release()
        return _row(case, answer, cost, visible)

    async def _load(self, case: Case) -> Row:
        order = self._order(case, self._stage.mesh.address("ingest"))
        async with Worker("tests.bench.load", order.as_dict()) as worker:
            await asyncio.to_thread(self._stage.meter.checkpoint)
            before = self._stage.meter.snapshot()
            answer = await worker.run(order.seconds)
        return await self._settled(case, answer, before)

    async def _freshness(self, case: Case) -> Row:
        if self._options.capture_only or not case.rate:
            return Row.failed(case.name, case.title, "needs aggregate, and a load that was measured or given")
        order = self._order(case, self._stage.mesh.address("ingest"))
        stopped = asyncio.Event()
        probe = Probe(self._stage.ingest, self._stage.usage, PROBE)
        async with Worker("tests.bench.load", order.as_dict()) as worker:
            await asyncio.to_thread(self._stage.meter.checkpoint)
            before = self._stage.meter.snapshot()
            async with asyncio.TaskGroup() as group:
                probing = group.create_task(probe.run(stopped, order.seconds))
                try:
                    answer = await worker.run(order.seconds)
                finally:
                    stopped.set()
        return _with_freshness(await self._settled(case, answer, before), probing.result())

    async def _settled(self, case: Case, answer: dict[str, Any], before: Any) -> Row:
        tally = Tally.parse(answer["tally"])
        visible = await self._stage.settle(tally, answer["last_tenant"])
        cost = Cost.between(before, self._stage.meter.snapshot(), answer["cpu_seconds"])
        row = _row(case, answer, cost, visible)
        sent = answer["accepted"] + answer["duplicate"]
        wrong = []
        if answer["accepted"] != tally.total or sent != answer["sent"]:
            wrong = [
                f"{answer['sent']} sent, {tally.total} of them new, but acknowledged:"
                f" {answer['accepted']} accepted, {answer['duplicate']} duplicate"
            ]
        row = replace(row, exact=row.exact and not wrong, differences=[*wrong, *row.differences])
        return replace(row, events_per_s=None, drain_s=None) if self._options.capture_only else row

    def _order(self, case: Case, address: str) -> LoadOrder:
        events, seconds = self._options.bound(case)
        return LoadOrder(
            address=address,
            token=self._stage.mesh.token(),
            workload=case.workload(self._options.workload),
            form=case.form,
            batch=case.batch,
            concurrency=self._options.concurrency or case.concurrency,
            # An open loop sends at most at its rate.
            events=min(events, int(case.rate * seconds) or events),
            seconds=seconds,
            duplicates=case.duplicates,
            rate=case.rate,
            seed=self._seed,
            slice_seconds=case.slice_seconds,
        )


def _textbook_role(stage: Stage, role: str, place: str) -> ChildSpec:
    dsn = stage.mesh.admin_dsn()
    return ChildSpec(
        name=f"textbook-{role}",
        argv=[sys.executable, "-m", "tests.bench.textbook", role, dsn, place],
        log_file=stage.mesh.directory / "logs" / f"textbook-{role}.log",
        cwd=ROOT,
        ready=re.compile(textbook.READY),
        stop_grace=3.0,
    )


def _row(case: Case, answer: dict[str, Any], cost: Cost, visible: Visible) -> Row:
    started, finished, accepted = answer["started"], answer["finished"], answer["accepted"]
    seen = max(visible.at, finished)
    return Row(
        name=case.name,
        title=case.title,
        capture_per_s=accepted / max(finished - started, 1e-9),
        events_per_s=accepted / max(seen - started, 1e-9),
        exact=not visible.differences,
        p50_ms=answer.get("p50_ms"),
        p99_ms=answer.get("p99_ms"),
        max_ms=answer.get("max_ms"),
        ack_p50_ms=answer.get("p50_ms"),
        ack_p99_ms=answer.get("p99_ms"),
        samples=answer.get("calls", 0),
        accepted=accepted,
        duplicate=answer.get("duplicate", 0),
        retries=answer.get("retries", 0),
        seconds=finished - started,
        drain_s=seen - finished,
        exhausted=answer["exhausted"],
        offered_per_s=case.rate or None,
        cpu_us=cost.cpu_us(accepted),
        wal_bytes=cost.wal_bytes(accepted),
        reference=case.reference,
        slices=answer.get("slices", ()),
        differences=visible.differences,
    )


def _with_freshness(row: Row, freshness: Freshness) -> Row:
    wrong = [f"probe: {freshness.gap} events sent and not seen"] if freshness.gap else []
    return replace(
        row,
        measures="freshness",
        p50_ms=freshness.p50_ms,
        p99_ms=freshness.p99_ms,
        max_ms=freshness.max_ms,
        samples=freshness.samples,
        exact=row.exact and not wrong,
        differences=[*row.differences, *wrong],
    )
