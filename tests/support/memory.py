"""The place of the files of test servers."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Final

_MEMORY: Final = Path("/dev/shm")
# Several times the size of the files of all workers' servers.
_ENOUGH_BYTES: Final = 8 << 30


def keep_files_in_memory() -> None:
    """Puts temporary directories of this process and its children in memory, if enough is free.

    Servers flush as on a disk, but at once. `tmp_path` stays on the disk: pytest keeps it after the run.
    Does nothing if TMPDIR is set.
    """
    if os.environ.get("TMPDIR") or not os.access(_MEMORY, os.W_OK) or _free_bytes() < _ENOUGH_BYTES:
        return
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
    os.environ["TMPDIR"] = tempfile.tempdir = str(_MEMORY)


def _free_bytes() -> int:
    memory = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min(memory, shutil.disk_usage(_MEMORY).free)
