"""Where servers of tests keep their files."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Final

_MEMORY: Final = Path("/dev/shm")
# Several times what the servers of all workers take at once.
_ENOUGH_BYTES: Final = 8 << 30


def keep_files_in_memory() -> None:
    """Lets this process and those that it starts make temporary directories in memory, if there is plenty.

    Servers flush as they do on a disk, and tests do not wait for it. What `tmp_path` names stays on the disk,
    since pytest keeps it after the run. Does nothing where TMPDIR names a place.
    """
    if os.environ.get("TMPDIR") or not os.access(_MEMORY, os.W_OK) or _free_bytes() < _ENOUGH_BYTES:
        return
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
    os.environ["TMPDIR"] = tempfile.tempdir = str(_MEMORY)


def _free_bytes() -> int:
    memory = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min(memory, shutil.disk_usage(_MEMORY).free)
