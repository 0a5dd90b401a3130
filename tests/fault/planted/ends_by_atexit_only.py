"""A client that closes only by atexit, which does not run at the end of a multiprocessing process."""

from __future__ import annotations

import runpy

from meterline_client import lifecycle

if __name__ == "__main__":
    lifecycle._watch_multiprocessing = lambda _=None: None
    runpy.run_module("tests.support.ending_processes", run_name="__main__", alter_sys=True)
