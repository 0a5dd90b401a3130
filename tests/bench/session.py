"""A whole run: all cases, on one mesh or on one for each case."""

from __future__ import annotations

import asyncio
import json
import os
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from meterline_dev.processes import ChildSpec, Supervisor

from tests.bench import measure, profiling, spans
from tests.bench.cases import Case, turn_about
from tests.bench.options import Options
from tests.bench.pipes import ROOT, first_cause
from tests.bench.report import Report
from tests.bench.rows import Row, greatest, median
from tests.bench.runner import Runner
from tests.bench.stage import Stage, on_stage

_COLLECTOR = "collector"
Tell = Callable[[str], None]


class Session:
    """Runs the selected cases in `directory`; `tell` receives a line at each step."""

    def __init__(self, options: Options, directory: Path, tell: Tell) -> None:
        self._options = options
        self._directory = directory
        self._tell = tell
        self._report = Report(
            options.workload, machine=_machine(), settings=_settings(options), show_disk=options.disk
        )

    async def run(self) -> Report:
        """Runs all cases; returns the report. A failed case is the last one in it."""
        async with AsyncExitStack() as stack:
            environment: Mapping[str, str] = {}
            if self._options.trace:
                supervisor = await stack.enter_async_context(Supervisor())
                environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": await self._start_collector(supervisor)}
            await self._measure(environment)
            if self._options.trace:
                self._report.spans = await self._collected(supervisor)
        return self._report

    async def _measure(self, environment: Mapping[str, str]) -> None:
        alone = [case for case in self._options.cases if case.alone or self._options.fresh]
        together = [case for case in self._options.cases if case not in alone]
        if together and not await self._on_one_stage(environment, "all", together):
            return
        for at, case in enumerate(alone):
            if not await self._on_stages_of_its_own(environment, f"{at}", case):
                return

    async def _on_one_stage(self, environment: Mapping[str, str], name: str, cases: Sequence[Case]) -> bool:
        """Whether to continue."""
        async with self._stage(environment, name) as stage:
            runner = Runner(stage, self._options)
            for group in turn_about(cases):
                runs: list[list[Row]] = [[] for _ in group]
                for _ in range(self._options.repeat):
                    for case, done in zip(group, runs, strict=True):
                        done.append(await self._one(runner, stage, case))
                went_well = [self._add(done) for done in runs]
                if not all(went_well):
                    return False
            await self._close(stage, "all cases")
        return True

    async def _on_stages_of_its_own(self, environment: Mapping[str, str], name: str, case: Case) -> bool:
        runs = []
        for turn in range(self._options.repeat):
            async with self._stage(environment, f"{name}-{turn}") as stage:
                runs.append(await self._one(Runner(stage, self._options), stage, case))
                if runs[-1].accepted:
                    await self._close(stage, case.name)
        return self._add(runs)

    @asynccontextmanager
    async def _stage(self, environment: Mapping[str, str], name: str) -> AsyncIterator[Stage]:
        self._tell(f"starting Postgres, NATS, {', '.join(self._options.services)}")
        directory = _make_directory(self._directory, name)
        try:
            async with on_stage(self._options, directory, environment) as stage:
                yield stage
            if self._options.profile is not None:
                self._report.profiles.append(profiling.report(directory))
        finally:
            # Keeping a mesh for each case would fill the disk.
            shutil.rmtree(directory, ignore_errors=True)

    async def _one(self, runner: Runner, stage: Stage, case: Case) -> Row:
        self._tell(case.title)
        try:
            row = await runner.run(case, greatest(self._report.rows))
        except Exception as error:  # noqa: BLE001 - the earlier results are still reported
            cause = first_cause(error)
            row = Row.failed(case.name, case.title, f"{case.name}: {type(cause).__name__}: {cause}")
            for name in self._options.services:
                self._tell(f"--- the end of the log of {name}\n{stage.mesh.supervisor.log_tail(name)}")
        self._tell(f"  {row.rate:,.0f} events/s, {'exact' if row.exact else 'NOT EXACT'}")
        return row

    def _add(self, runs: Sequence[Row]) -> bool:
        """Whether to continue: after a failed case the events in flight are unknown."""
        self._report.rows.append(median(runs))
        return all(row.accepted for row in runs)

    async def _close(self, stage: Stage, name: str) -> None:
        self._report.memory = stage.meter.memory()
        self._report.disk[name] = await asyncio.to_thread(stage.disk)
        self._tell("checking raw events and usage by region")
        self._report.differences = [*self._report.differences, *await stage.verify()]

    async def _start_collector(self, supervisor: Supervisor) -> str:
        await supervisor.start(
            ChildSpec(
                name=_COLLECTOR,
                argv=[sys.executable, "-m", "tests.bench.spans"],
                log_file=self._directory / "collector.log",
                cwd=ROOT,
                ready=re.compile(spans.READY),
            )
        )
        return "http://" + supervisor.log_tail(_COLLECTOR, 1).strip().removeprefix(spans.READY)

    async def _collected(self, supervisor: Supervisor) -> Mapping[str, Any]:
        """Called after the mesh has stopped, since services send their last spans at shutdown."""
        cpu = supervisor.cpu_seconds(_COLLECTOR)
        await supervisor.stop(_COLLECTOR)
        counted: dict[str, Any] = json.loads(supervisor.log_tail(_COLLECTOR, 1))
        return counted | {"collector_cpu_seconds": round(cpu, 2)}


def _make_directory(parent: Path, name: str) -> Path:
    parent.mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=parent))
    # Postgres may run under its own account, which needs to traverse the directory.
    directory.chmod(0o711)
    return directory


def _machine() -> dict[str, Any]:
    return {
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "busy_before": round(measure.machine_share(), 2),
        "python": platform.python_version(),
        "platform": platform.platform(terse=True),
    }


def _settings(options: Options) -> dict[str, Any]:
    return {
        "seconds_a_case": options.seconds,
        "runs_a_case": options.repeat,
        "services": " ".join(options.services),
        "mesh": "fresh for each run" if options.fresh else "one for all cases",
        "spans": "all recorded and collected" if options.trace else "not recorded",
        "postgres": " ".join(f"{name}={value}" for name, value in options.postgres.items()) or "as usual",
        "warm_wal_mb": options.warm_wal_mb,
    }


async def run(options: Options, directory: Path, tell: Tell) -> Report:
    """Runs everything and stops all processes at the end. Cancel it to end it early."""
    return await Session(options, directory, tell).run()
