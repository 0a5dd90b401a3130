"""Profile of a service: the program under cProfile, by CPU time and without its imports.

`python -m tests.bench.profiling SERVICE FILE` runs the service and writes its figures when it stops.
"""

from __future__ import annotations

import cProfile
import importlib
import io
import pstats
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

_TOP = 40


def _file(directory: Path) -> Path:
    return directory / "profile.pstats"


def programs(service: str | None, directory: Path) -> Mapping[str, Sequence[str]]:
    """The command line that profiles `service`, for the mesh."""
    if service is None:
        return {}
    command = [sys.executable, "-m", "tests.bench.profiling", service, str(_file(directory))]
    return {service: command}


def report(directory: Path) -> str:
    """The functions with the most own time, and those with the most cumulative time.

    Times are CPU time of the main thread. Profiling slows down some calls more than others: compare the
    figures with each other, not with wall time.
    """
    text = io.StringIO()
    stats = pstats.Stats(str(_file(directory)), stream=text)
    stats.sort_stats(pstats.SortKey.TIME).print_stats(_TOP)
    stats.sort_stats(pstats.SortKey.CUMULATIVE).print_stats(_TOP)
    return text.getvalue()


def _main(service: str, file: str) -> None:
    main = importlib.import_module(f"meterline_{service}.main").main
    profile = cProfile.Profile(time.thread_time)
    try:
        profile.runcall(main)
    finally:
        profile.dump_stats(file)


if __name__ == "__main__":
    _main(*sys.argv[1:])
