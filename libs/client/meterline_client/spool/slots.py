"""Slots: each process has a folder of its own below the spool's.

Several processes of one application are given the same `spool_dir`, and must not write to the same files. A
process takes the first folder that no process has locked, and takes over what ended processes left in others.
The lock goes with the process, however it ends.
"""

from __future__ import annotations

import os
import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from meterline_client.spool.segment import sync_directory

_MAX_SLOTS = 1_024
_LOCK = "lock"
_SEGMENT = re.compile(r"(\d{16})\.seg")
JOURNAL_SUFFIX = ".journal"


class Slot:
    """A folder that this process alone uses until `release`."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock = lock

    def release(self) -> None:
        """Gives the folder up. In a child after fork it only closes the child's copy of the lock."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def claim(directory: Path) -> Slot:
    """A free slot. OSError when there is none."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    for number in range(_MAX_SLOTS):
        slot = _try_to_claim(directory / str(number))
        if slot is not None:
            return slot
    raise OSError(f"all {_MAX_SLOTS} slots of {directory} are in use")


def adopt(directory: Path, own: Slot) -> None:
    """Moves what ended processes left in their slots into one's own. OSError when that fails."""
    for other in _others(directory, own.path):
        _adopt(other, own.path)


class Claim:
    """A slot that is claimed when it is first needed, once: the journal and the spool share it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        # Reentrant: a signal handler that records may interrupt its own thread in here.
        self._lock = threading.RLock()
        self._slot: Slot | None = None
        self._error: OSError | None = None

    @property
    def failed(self) -> bool:
        """Whether there is no slot to be had."""
        return self._error is not None

    def slot(self) -> Slot:
        """OSError when there is none, and from then on."""
        with self._lock:
            if self._error is not None:
                raise self._error
            if self._slot is None:
                try:
                    self._slot = claim(self.directory)
                except OSError as error:
                    self._error = error
                    raise
            return self._slot

    def release(self) -> None:
        """Gives the slot up. In a child after fork, where another thread of the parent may have held the
        lock, it only closes the child's copy."""
        if self._slot is not None:
            self._slot.release()


def journal_paths(slot: Path) -> list[Path]:
    """The files of journals in a slot."""
    return sorted(path for path in slot.iterdir() if path.suffix == JOURNAL_SUFFIX)


def segment_paths(slot: Path) -> list[tuple[int, Path]]:
    """The segments in a slot with their numbers, oldest first."""
    found = ((_SEGMENT.fullmatch(path.name), path) for path in slot.iterdir())
    return sorted((int(match[1]), path) for match, path in found if match)


def segment_path(slot: Path, number: int) -> Path:
    return slot / f"{number:016d}.seg"


def _others(directory: Path, own: Path) -> Iterator[Path]:
    for path in sorted(directory.iterdir()):
        if path == own or not path.name.isdigit() or not path.is_dir():
            continue
        if segment_paths(path) or journal_paths(path):
            yield path


def _adopt(abandoned: Path, own: Path) -> None:
    slot = _try_to_claim(abandoned)
    if slot is None:
        return
    try:
        held = segment_paths(own)
        number = held[-1][0] if held else 0
        for _, path in segment_paths(abandoned):
            number += 1
            path.rename(segment_path(own, number))
        for path in journal_paths(abandoned):
            path.rename(own / path.name)
        sync_directory(own)
    finally:
        slot.release()


def _try_to_claim(path: Path) -> Slot | None:
    path.mkdir(exist_ok=True, mode=0o700)
    lock = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    if _locked(lock):
        return Slot(path, lock)
    os.close(lock)
    return None


if sys.platform == "win32":
    import msvcrt

    def _locked(file: int) -> bool:
        try:
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

else:
    import fcntl

    def _locked(file: int) -> bool:
        # Only a lock that another process holds is False; a file system without locks raises.
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
