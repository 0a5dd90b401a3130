"""Figures of the fault tests: what they found out, and how much memory a process took at most."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

MIB = 1 << 20


def tell(figures: str) -> None:
    """Shown with `pytest -s` or `-rP`."""
    sys.stdout.write(f"\n{figures}\n")


@dataclass
class Peak:
    """`grown` is known at the end, in bytes."""

    grown: int = 0

    def __str__(self) -> str:
        return f"{self.grown / MIB:.1f} MiB more"


@contextmanager
def peak_of(pid: int) -> Iterator[Peak]:
    """The kernel itself keeps the greatest resident set, so that no moment is missed."""
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
