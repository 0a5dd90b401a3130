"""Log files of child processes: their last lines, and a bound on their size."""

import os
from pathlib import Path

_TAIL_BYTES = 16 * 1024


def tail(path: Path, *, lines: int = 20, since: int = 0) -> str:
    """The last `lines` lines written to the file after byte `since`; empty when there is none."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(since, size - _TAIL_BYTES))
            text = file.read().decode("utf-8", errors="replace")
    except FileNotFoundError:
        return ""
    return "\n".join(text.splitlines()[-lines:])


def size(path: Path) -> int:
    """Bytes in the file, 0 when it does not exist."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def rotate(path: Path, *, above_bytes: int = 32 * 1024 * 1024) -> None:
    """Move a log file that has grown large to `<name>.1`, replacing the one that is there."""
    if size(path) > above_bytes:
        path.replace(path.with_name(f"{path.name}.1"))


def read_from(path: Path, offset: int) -> tuple[str, int]:
    """Text written after byte `offset`, and the offset to go on from."""
    try:
        with path.open("rb") as file:
            file.seek(offset)
            data = file.read()
    except FileNotFoundError:
        return "", offset
    return data.decode("utf-8", errors="replace"), offset + len(data)
