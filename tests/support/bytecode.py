"""Compiled modules for the processes of tests, kept where they dirty nothing."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def share_bytecode() -> None:
    """Lets this process and those that it starts keep compiled modules in the environment's directory.

    For whoever forbids Python to keep them beside the source: tests start hundreds of services, and compiling
    what a service imports takes a second each time. Does nothing where nobody forbids it.
    """
    if not sys.dont_write_bytecode:
        return
    cache = str(Path(sys.prefix) / "bytecode")
    sys.dont_write_bytecode = False
    sys.pycache_prefix = cache
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["PYTHONPYCACHEPREFIX"] = cache
