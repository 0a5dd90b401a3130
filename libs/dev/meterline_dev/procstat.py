"""What the operating system says about processes: who is alive, and what a process tree has used."""

import contextlib
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import psutil  # type: ignore[import-untyped,unused-ignore]

_POLL_SECONDS = 0.005


def tree(pid: int) -> "list[psutil.Process]":
    """The process and all its living descendants; empty when it is gone."""
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def cpu_seconds(pid: int) -> float:
    """CPU seconds (user and system) of the process, its living descendants and those it has reaped.

    Raises ProcessLookupError when the process is gone.
    """
    members = tree(pid)
    if not members:
        raise ProcessLookupError(f"no process {pid}")
    total = 0.0
    for member in members:
        try:
            times = member.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return total


def rss_bytes(pid: int) -> int:
    """Resident memory of the process and its living descendants, in bytes.

    Pages that several of them share are counted for each, so that for Postgres this is an upper bound.
    Raises ProcessLookupError when the process is gone.
    """
    members = tree(pid)
    if not members:
        raise ProcessLookupError(f"no process {pid}")
    total = 0
    for member in members:
        try:
            total += member.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


def memory_bytes() -> int:
    """The machine's memory, in bytes."""
    return int(psutil.virtual_memory().total)


def is_alive(pid: int) -> bool:
    """Whether a process of this number runs; a zombie, dead but not yet reaped, does not."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def working_in(directory: Path, name: str) -> "Iterator[psutil.Process]":
    """Living processes of program `name` whose working directory is `directory`.

    Processes of other users, whose directory we may not read, are skipped.
    """
    place = directory.resolve()
    for process in psutil.process_iter():
        try:
            if process.name() == name and Path(process.cwd()) == place:
                yield process
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue


def kill(processes: "Iterable[psutil.Process]") -> None:
    """SIGKILL each of the processes that still lives."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def wait_gone(processes: "Iterable[psutil.Process]", seconds: float) -> "list[psutil.Process]":
    """Wait until the processes have ended; answers those that still live after `seconds`.

    A zombie has ended: orphans stay zombies for as long as the system's first process likes.
    """
    deadline = time.monotonic() + seconds
    alive = list(processes)
    while alive := [process for process in alive if process.is_running() and is_alive(process.pid)]:
        if time.monotonic() > deadline:
            break
        time.sleep(_POLL_SECONDS)
    return alive


def running_with(pid: int, argument: str) -> "list[psutil.Process]":
    """The process of this number, if its command line contains `argument`; else an empty list."""
    try:
        process = psutil.Process(pid)
        return [process] if argument in process.cmdline() else []
    except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
        return []
