"""One owner at a time for a server's directory.

Holding the claim means that no other living process manages the directory. A server found running in
it is then what a dead owner left behind, and may be ended.
"""

import fcntl
import os
from pathlib import Path
from typing import Self


class DirectoryInUseError(RuntimeError):
    """Another process manages this directory."""


class DirectoryClaim:
    """An exclusive lock on `<parent>/.<name>.lock`, not inside the directory because Postgres needs that to
    be empty at first. The kernel drops the lock when the process dies."""

    def __init__(self, directory: Path) -> None:
        self._path = directory.parent / f".{directory.name}.lock"
        self._directory = directory
        self._fd: int | None = None

    def take(self) -> Self:
        """Take the claim; harmless when it is held already. Raises DirectoryInUseError."""
        if self._fd is not None:
            return self
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(fd, 32).decode(errors="replace").strip() or "unknown"
            os.close(fd)
            raise DirectoryInUseError(f"{self._directory} is in use by process {owner}") from None
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        self._fd = fd
        return self

    def drop(self) -> None:
        """Give the claim up; harmless when it is not held."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def __enter__(self) -> Self:
        return self.take()

    def __exit__(self, *_: object) -> None:
        self.drop()
