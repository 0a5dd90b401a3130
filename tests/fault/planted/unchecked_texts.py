"""Ingest that passes texts with NUL to its handlers, and so to Postgres."""

from __future__ import annotations

from meterline.rpc import calls
from meterline_ingest.main import main

if __name__ == "__main__":
    vars(calls)["check_texts"] = lambda request, unchecked=(): None
    main()
