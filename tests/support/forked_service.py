"""`python -m tests.support.forked_service PARENT`: a process that has imported all services, and forks them.

It reads one JSON order a line from its standard input: `module`, `arguments`, `env`, `log`. For each it forks
a process that runs the module as `python -m` would, and writes the id of that process. The process is a child
of PARENT, which must be a subreaper meanwhile, and ends with it.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import runpy
import signal
import sys
from typing import Any, Final

from meterline import crashpoints

IMPORTED: Final = (
    "meterline_identity.main",
    "meterline_ingest.main",
    "meterline_aggregate.main",
    "meterline_publisher.main",
    "meterline_dev.stripe_double.__main__",
)
_PR_SET_PDEATHSIG: Final = 1


def fork_for(parent: int) -> int:
    """Forks a process with a session of its own and the parent `parent`; returns its id, and 0 in it.

    The process between the two ends at once, so that the kernel hands its child over to the subreaper.
    """
    reader, writer = os.pipe()
    ended, ends = os.pipe()
    between = os.fork()
    if between == 0:
        if os.fork():
            os._exit(0)
        os.setsid()
        os.write(writer, b"%d" % os.getpid())
        for each in (reader, writer, ends):
            os.close(each)
        # Until the process between has ended.
        os.read(ended, 1)
        os.close(ended)
        _end_with(parent)
        return 0
    os.waitpid(between, 0)
    os.close(writer)
    pid = int(os.read(reader, 32))
    for each in (reader, ended, ends):
        os.close(each)
    return pid


def _end_with(parent: int) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def become(order: dict[str, Any]) -> None:
    """Turns this process into that of the order; returns when the module has ended."""
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    os.environ.clear()
    os.environ.update(order["env"])
    importlib.reload(crashpoints)
    sys.argv = [order["module"], *order["arguments"]]
    # `runpy` warns about a module that was imported before.
    sys.modules.pop(order["module"], None)
    runpy.run_module(order["module"], run_name="__main__", alter_sys=True)


def main(parent: int) -> None:
    for name in IMPORTED:
        importlib.import_module(name)
    # Collections of forks would copy all pages of these objects.
    gc.collect()
    gc.freeze()
    while line := sys.stdin.buffer.readline():
        order = json.loads(line)
        pid = fork_for(parent)
        if pid == 0:
            return become(order)
        os.write(1, b"%d\n" % pid)
    return None


if __name__ == "__main__":
    main(int(sys.argv[1]))
