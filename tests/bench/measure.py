"""Costs of a case: CPU by process, WAL, memory."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import psycopg
from meterline_dev import procstat
from meterline_dev.mesh import STRIPE_DOUBLE, Mesh

POSTGRES = "postgres"
NATS = "nats"


def machine_share(seconds: float = 0.5) -> float:
    """The share of all cores that was busy over `seconds`, by any process."""
    return float(psutil.cpu_percent(interval=seconds)) / 100


@dataclass(frozen=True, slots=True)
class Snapshot:
    """cpu: seconds by process since its start; wal: bytes written since the server was created"""

    cpu: Mapping[str, float]
    wal: int
    at: float


@dataclass(frozen=True, slots=True)
class Cost:
    """cpu: seconds by process; wal: bytes"""

    cpu: Mapping[str, float]
    wal: int

    @classmethod
    def between(cls, before: Snapshot, after: Snapshot, load_cpu: float) -> Cost:
        cpu = {name: spent - before.cpu.get(name, 0.0) for name, spent in after.cpu.items()}
        return cls(cpu | {"load": load_cpu}, after.wal - before.wal)

    def cpu_us(self, events: int) -> dict[str, float]:
        """Microseconds of CPU an event, by process."""
        return {name: spent / max(1, events) * 1e6 for name, spent in self.cpu.items()}

    def wal_bytes(self, events: int) -> float:
        """Bytes of WAL an event."""
        return self.wal / max(1, events)


class Meter:
    """Measures the processes of a mesh; `bench` is this process, which queries usage."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh

    def snapshot(self) -> Snapshot:
        cpu = {name: procstat.cpu_seconds(pid) for name, pid in self._pids().items()}
        own = os.times()
        cpu["bench"] = own.user + own.system
        return Snapshot(cpu, self._wal(), time.monotonic())

    def memory(self) -> dict[str, dict[str, float]]:
        """Megabytes by process: `rss`, and `pss`, which divides shared pages among their users.

        Both are sums over the process and its children; for Postgres only `pss` is meaningful.
        """
        return {
            name: {key: round(value / 1e6, 1) for key, value in _memory(pid).items()}
            for name, pid in self._pids().items()
        }

    def checkpoint(self) -> None:
        """Runs a checkpoint, so that no case pays for the writes of the previous one."""
        with psycopg.connect(self._mesh.admin_dsn(), autocommit=True) as connection:
            connection.execute("CHECKPOINT")

    def warm_wal(self, megabytes: int) -> None:
        """Fills WAL segments, which the server then reuses, like a server that has run for a while."""
        with psycopg.connect(self._mesh.admin_dsn(), autocommit=True) as connection:
            for _ in range(megabytes // 8):
                connection.execute("SELECT pg_logical_emit_message(false, 'bench', repeat('x', 8 << 20))")
            connection.execute("CHECKPOINT")

    def _pids(self) -> dict[str, int]:
        supervisor = self._mesh.supervisor
        named = {name: supervisor.pid(name) for name in supervisor.names() if supervisor.running(name)}
        named.pop(STRIPE_DOUBLE, None)
        return named | {POSTGRES: self._mesh.postgres.pid, NATS: self._mesh.nats.pid}

    def _wal(self) -> int:
        with psycopg.connect(self._mesh.admin_dsn(), autocommit=True) as connection:
            found = connection.execute("SELECT (pg_current_wal_lsn() - '0/0')::bigint").fetchone()
            assert found is not None
            return int(found[0])


def _memory(pid: int) -> dict[str, float]:
    members = procstat.tree(pid)
    total = {"rss": 0.0, "pss": 0.0}
    for member in members:
        try:
            total["rss"] += member.memory_info().rss
            total["pss"] += _pss(member)
        except psutil.NoSuchProcess:
            continue
    return total


def _pss(process: psutil.Process) -> int:
    """Proportional set size in bytes; resident set size where the system does not provide it."""
    try:
        text = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
    except (FileNotFoundError, PermissionError, ProcessLookupError):
        return int(process.memory_info().rss)
    lines: Sequence[str] = [line for line in text.splitlines() if line.startswith("Pss:")]
    return int(lines[0].split()[1]) * 1024
