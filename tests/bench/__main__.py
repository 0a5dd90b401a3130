"""`make bench`: see `python -m tests.bench --help`."""

from __future__ import annotations

import asyncio
import signal
import sys
from contextlib import ExitStack
from pathlib import Path

from meterline_dev.testing import scratch_directory
from rich.console import Console

from tests.bench import session
from tests.bench.options import Options, parse
from tests.bench.report import Report, as_json, show

# Wide enough for the table if the output is no terminal.
_WIDTH = 180


async def _run(options: Options, directory: Path, progress: Console) -> Report:
    task = asyncio.current_task()
    assert task is not None
    # Like Ctrl-C: stops all started processes.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await session.run(options, directory, lambda line: progress.print(line, highlight=False))


def main() -> int:
    """Exit code: 0 when every sum is exact, 1 when one is not, 130 when it was stopped."""
    options = parse()
    progress = Console(stderr=True)
    with ExitStack() as stack:
        directory = options.directory
        if directory is None:
            directory = stack.enter_context(scratch_directory())
        try:
            report = asyncio.run(_run(options, directory, progress))
        except (KeyboardInterrupt, asyncio.CancelledError):
            progress.print("stopped")
            return 130
        console = Console()
        if not console.is_terminal:
            console = Console(width=_WIDTH)
        show(report, console)
    if options.json:
        print(as_json(report))
    return 0 if report.exact else 1


if __name__ == "__main__":
    sys.exit(main())
