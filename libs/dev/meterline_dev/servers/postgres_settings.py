"""Settings that Postgres is started with, fitted to the machine."""

import shutil
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from meterline_dev import procstat

_MB = 1024 * 1024
_CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))

# What the server itself decides: changing these would break the promises of `PostgresServer`.
RESERVED = frozenset({"port", "listen_addresses", "unix_socket_directories", "data_directory"})

# For servers that hold little and of which many run at once: tests. Small buffers make copying and dropping
# databases quick, since both walk through all of them.
SMALL: Mapping[str, str] = {
    "shared_buffers": "64MB",
    "max_wal_size": "1GB",
    "min_wal_size": "80MB",
    # Their passwords are no secrets, and clients of tests connect often.
    "scram_iterations": "1",
}
# For databases that need not survive a crash of the machine either.
THROWAWAY: Mapping[str, str] = {
    **SMALL,
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
}


def default_settings(bin_dir: Path, data_dir: Path) -> dict[str, str]:
    """Settings for a durable server that is fast on one machine.

    `data_dir` must exist, for the free space of its disk bounds the size of the WAL. WAL that is there counts
    as free, so that the bound does not shrink from one start to the next.
    """
    max_wal = _max_wal_mb((shutil.disk_usage(data_dir).free + _wal_bytes(data_dir)) // _MB)
    return {
        "fsync": "on",
        "synchronous_commit": "on",
        "full_page_writes": "on",
        "shared_buffers": f"{_shared_buffers_mb(_memory_mb())}MB",
        "max_wal_size": f"{max_wal}MB",
        # Keeps all segments for reuse: to fill a new one with zeros costs as much as to write it. None is
        # made before it is needed, so a server that writes little takes little.
        "min_wal_size": f"{max_wal}MB",
        "wal_compression": "lz4" if _has_lz4(bin_dir) else "off",
        "checkpoint_timeout": "15min",
        "max_connections": "200",
        "jit": "off",
        "timezone": "UTC",
        "log_timezone": "UTC",
        "log_line_prefix": "%m [%p] %q%u@%d ",
        "random_page_cost": "1.1",
    }


def merged(defaults: Mapping[str, str], overrides: Mapping[str, str]) -> dict[str, str]:
    """Defaults with overrides. Raises ValueError for a setting that the server itself decides."""
    if taken := sorted(RESERVED & overrides.keys()):
        raise ValueError(f"settings that the server decides itself: {', '.join(taken)}")
    return {**defaults, **overrides}


def _shared_buffers_mb(memory_mb: int) -> int:
    """An eighth of the memory, which services and the broker share: at least 32 MB, at most 4 GB.

    Keys of events take 50 bytes each. Where they outgrow the buffers and do not come in order, insertions
    evict pages and read others.
    """
    return max(32, min(4096, memory_mb // 8))


def _max_wal_mb(free_disk_mb: int) -> int:
    """8 GB, or a quarter of what a small disk has free, but never less than 256 MB."""
    return max(256, min(8 * 1024, free_disk_mb // 4))


def _wal_bytes(data_dir: Path) -> int:
    """What segments take; they come and go while a server runs."""
    total = 0
    for segment in (data_dir / "pg_wal").glob("*"):
        with suppress(FileNotFoundError):
            total += segment.stat().st_size
    return total


def _memory_mb() -> int:
    """Memory that this process may use: the machine's, or less where a container limits it."""
    limits = [procstat.memory_bytes()]
    for path in _CGROUP_LIMITS:
        text = path.read_text().strip() if path.exists() else ""
        if text.isdigit():
            limits.append(int(text))
    return min(limits) // _MB


def _has_lz4(bin_dir: Path) -> bool:
    configured = subprocess.run(
        [bin_dir / "pg_config", "--configure"], capture_output=True, text=True, check=False, timeout=10
    )
    return "--with-lz4" in configured.stdout
