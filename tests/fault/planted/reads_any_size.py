"""Ingest that parses requests of any size that the transport lets through, on its event loop."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

from meterline.rpc import calls
from meterline_ingest import access
from meterline_ingest.main import main

from tests.fault.watched import watch

if __name__ == "__main__":
    watch(Path(sys.argv[1]))
    for method, rule in access.RULES.items():
        vars(access)["RULES"][method] = dataclasses.replace(rule, max_bytes=4 << 20)
    vars(calls)["LARGE_REQUEST"] = 64 << 20
    main()
