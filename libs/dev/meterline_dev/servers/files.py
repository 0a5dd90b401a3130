"""Private files and directories that servers need."""

import contextlib
import os
import stat
import tempfile
import time
from pathlib import Path

_PREFIX = "mlpg-"
_MAX_SOCKET_PATH = 107
_ABANDONED_SECONDS = 3600.0
_LONGEST_SOCKET_NAME = ".s.PGSQL.65535.lock"


def write_private(path: Path, text: str) -> None:
    """Write a new file of mode 0600, in the place of whatever is there."""
    path.unlink(missing_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)


def short_private_directory() -> Path:
    """A new directory of mode 0700 whose path leaves room for the name of a Unix socket of Postgres.

    Raises OSError when there is no place with a path short enough.
    """
    for place in (Path(tempfile.gettempdir()), Path("/tmp")):
        if len(os.fsencode(place / f"{_PREFIX}xxxxxxxx" / _LONGEST_SOCKET_NAME)) <= _MAX_SOCKET_PATH:
            _sweep(place)
            return Path(tempfile.mkdtemp(prefix=_PREFIX, dir=place))
    raise OSError("no temporary directory with a path short enough for a Unix socket")


def _sweep(place: Path) -> None:
    """Remove directories of killed owners: a running server has its socket in its directory, and one that
    starts does not take an hour, so an empty old directory has no owner."""
    for left in place.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            if time.time() - left.lstat().st_mtime > _ABANDONED_SECONDS:
                left.rmdir()


def ensure_private_directory(path: Path, owners: set[int]) -> None:
    """Create the directory with mode 0700, or make sure that the one there belongs to one of `owners`.

    The check matters where others may write as well: in the shared temporary directory someone else may
    have taken the name since it was last ours. Raises PermissionError then.
    """
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        status = path.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid not in owners:
            raise PermissionError(f"{path} is not a directory of this server's") from None
