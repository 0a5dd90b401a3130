"""`meterline dev`: a mesh from start to stop, with the demo in between, and signals answered all the time."""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum, auto
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from meterline_dev.addresses import addresses
from meterline_dev.demo.errors import DemoError
from meterline_dev.demo.report import Report
from meterline_dev.demo.story import Demo
from meterline_dev.mesh import Mesh, MeshOptions
from meterline_dev.processes import ChildFailedError
from meterline_dev.servers.base import ServerError
from meterline_dev.servers.claim import DirectoryInUseError


@dataclass(frozen=True, slots=True)
class DevOptions:
    """What `meterline dev` was asked for; see its help."""

    once: bool = False
    as_json: bool = False
    data: Path | None = None
    demo: bool = True
    limit: int = 0


class Ending(Enum):
    """How it ended."""

    GOOD = auto()
    BAD = auto()
    INTERRUPTED = auto()


@dataclass(slots=True)
class _Run:
    """One run. `ending` is how it would end if it ended now."""

    options: DevOptions
    console: Console
    directory: Path
    started: float = field(default_factory=time.perf_counter)
    ending: Ending = Ending.INTERRUPTED
    summary: dict[str, Any] = field(default_factory=dict)

    async def live(self) -> None:
        """Runs the mesh and the demo, and then waits until it is stopped, unless `--once` was given."""
        report = Report(self.console)
        demo: Demo | None = None
        mesh = Mesh(self.directory)
        if self.options.demo:
            demo = Demo(self.directory, self.options.limit, report, uses_double=mesh.uses_double)
            mesh = Mesh(self.directory, MeshOptions(environment=demo.environment()))
        try:
            await self._watched(mesh, report, demo)
        finally:
            with report.step("Stopping"):
                await mesh.stop()

    async def _watched(self, mesh: Mesh, report: Report, demo: Demo | None) -> None:
        """Until the work is done, a signal comes, or a part of the mesh dies."""
        work = asyncio.create_task(self._work(mesh, report, demo))
        # Catches signals from here until the mesh is stopped: a second one hurries that up.
        stop = asyncio.create_task(mesh.supervisor.run())
        try:
            await asyncio.wait({work, stop}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (work, stop):
                task.cancel()
            await asyncio.gather(work, stop, return_exceptions=True)
        for task in (work, stop):
            if not task.cancelled():
                task.result()

    async def _work(self, mesh: Mesh, report: Report, demo: Demo | None) -> None:
        with report.step("Meterline on this machine") as progress:
            reading = [demo.read()] if demo else []
            await asyncio.gather(mesh.start(progress), *reading)
        self.ending = Ending.GOOD if demo is None else Ending.INTERRUPTED
        if demo is not None:
            outcome = await demo.run(mesh)
            self.ending = Ending.GOOD if outcome.verdict.holds else Ending.BAD
            self.summary = outcome.summary() | {"seconds": self._seconds()}
            if not self.options.once:
                self.print_json(self.summary)
        if not self.options.once:
            report.show(addresses(mesh))
            report.show(Text("Ctrl-C ends all of it.", style="dim"))
            await asyncio.Event().wait()

    def print_json(self, body: dict[str, Any]) -> None:
        """The last line, if JSON was asked for."""
        if self.options.as_json:
            print(json.dumps({"seconds": self._seconds()} | body), flush=True)

    def _seconds(self) -> float:
        return round(time.perf_counter() - self.started, 2)


async def run(options: DevOptions, console: Console) -> Ending:
    """Runs until it is done, or until SIGINT or SIGTERM; whatever happens, no process is left behind."""
    with _directory(options.data) as directory:
        this = _Run(options, console, directory)
        try:
            await this.live()
        except (DemoError, ServerError, DirectoryInUseError, ChildFailedError, OSError) as error:
            console.print(Text(f"✗ {error}", style="bold red"))
            this.print_json({"error": str(error)})
            if options.data is None:
                console.print(Text("With --data DIR the logs are kept.", style="dim"))
            return Ending.BAD
        if options.once and this.summary:
            this.print_json(this.summary)  # the last output, so that nothing follows the JSON
        return this.ending


@contextmanager
def _directory(given: Path | None) -> Iterator[Path]:
    """The directory for all data: a given one stays, a temporary one goes."""
    if given is not None:
        given = given.absolute()
        given.mkdir(parents=True, exist_ok=True)
        yield given
        return
    place = Path(tempfile.mkdtemp(prefix="meterline-"))
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)
