"""Figures of the fault tests: measured results, and the peak memory of a process."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

MIB = 1 << 20


def report_figures(figures: str) -> None:
    """Prints figures, which `pytest -s` or `-rP` shows."""
    sys.stdout.write(f"\n{figures}\n")


@dataclass
class Peak:
    """The growth of a process's peak memory. `grown` is in bytes, and set at the end."""

    grown: int = 0

    def __str__(self) -> str:
        return f"{self.grown / MIB:.1f} MiB more"


@contextmanager
def peak_of(pid: int) -> Iterator[Peak]:
    """Reads the peak resident set from the kernel, which misses no moment."""
    peak = Peak()
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    before = _status(pid, "VmRSS")
    yield peak
    peak.grown = max(0, _status(pid, "VmHWM") - before)


def _status(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) << 10
    raise LookupError(name)
