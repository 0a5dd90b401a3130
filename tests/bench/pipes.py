"""Worker processes of the benchmark: each prepares, waits for the start signal, runs, and answers with JSON.

This module has both ends: `Worker` starts such a process and talks to it, `serve` runs in it.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import uvloop

ROOT = Path(__file__).resolve().parents[2]
# The timeout of an answer, in addition to the seconds of sending: every run is bounded in events and time.
PREPARE_SECONDS = 120.0
RUN_SECONDS = 300.0

Answer = dict[str, Any]
Run = Callable[[], Awaitable[Answer]]
Prepare = Callable[[Answer], Awaitable[Run]]


class WorkerError(RuntimeError):
    """The worker process failed, or did not answer in time."""


class Worker:
    """Use it as `async with Worker("tests.bench.load", order) as worker`, which waits until it is ready."""

    def __init__(self, module: str, order: Answer) -> None:
        self._module = module
        self._order = order
        self._process: asyncio.subprocess.Process

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            self._module,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            cwd=ROOT,
            # An answer is one line of tens of kilobytes.
            limit=1 << 26,
            # Only the parent handles Ctrl-C.
            start_new_session=True,
        )
        try:
            await self._say(json.dumps(self._order))
            await self._answer(PREPARE_SECONDS)
        except BaseException:
            await self._end()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._end()

    async def run(self, seconds: float = 0.0) -> Answer:
        """Starts a run of `seconds`; returns its result. Raises WorkerError."""
        await self._say("go")
        return await self._answer(RUN_SECONDS + seconds)

    async def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")
        await self._process.stdin.drain()

    async def _answer(self, seconds: float) -> Answer:
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(seconds):
                line = await self._process.stdout.readline()
        except TimeoutError:
            raise WorkerError(f"{self._module} did not answer in {seconds} s") from None
        if not line:
            raise WorkerError(f"{self._module} ended with code {await self._process.wait()}")
        answer: Answer = json.loads(line)
        if "error" in answer:
            raise WorkerError(f"{self._module}: {answer['error']}")
        return answer

    async def _end(self) -> None:
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()


def serve(prepare: Prepare) -> None:
    """The worker's end: reads the order, prepares, reports ready, waits for the signal, runs, answers."""
    order = json.loads(sys.stdin.readline())

    async def main() -> None:
        run = await prepare(order)
        print("{}", flush=True)
        # End of input without the start signal: the parent has ended.
        if await asyncio.to_thread(sys.stdin.readline):
            print(json.dumps(await run()), flush=True)

    try:
        uvloop.run(main())
    except Exception as error:  # noqa: BLE001 - the parent raises it
        cause = first_cause(error)
        print(json.dumps({"error": f"{type(cause).__name__}: {cause}"}), flush=True)
        sys.exit(1)


def first_cause(error: BaseException) -> BaseException:
    """The first error in a group of errors of tasks."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
