"""A client whose journal confirms events without storing them."""

from __future__ import annotations

import runpy

from meterline_client.spool import Journal

if __name__ == "__main__":
    setattr(Journal, "append", lambda *_: True)  # noqa: B010 - mypy knows that it is wrong
    runpy.run_module("tests.support.ending_processes", run_name="__main__", alter_sys=True)
