"""Compiled modules for the processes of tests, stored outside the source tree."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def share_bytecode() -> None:
    """Lets this process and its children store compiled modules in the environment's directory.

    For environments that forbid bytecode next to the source: tests start hundreds of services, and compiling
    the imports of a service takes a second each time. Does nothing where bytecode is allowed.
    """
    if not sys.dont_write_bytecode:
        return
    cache = str(Path(sys.prefix) / "bytecode")
    sys.dont_write_bytecode = False
    sys.pycache_prefix = cache
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["PYTHONPYCACHEPREFIX"] = cache
