"""Ingest that waits for the database without a limit: its callers only see their deadlines expire."""

from __future__ import annotations

from meterline_ingest.capture import api as capture_api
from meterline_ingest.capture import group_commit
from meterline_ingest.main import main


def _never() -> None:
    return None


if __name__ == "__main__":
    group_commit.FLUSH_SECONDS = 3_600.0
    capture_api._seconds_left = _never
    main()
