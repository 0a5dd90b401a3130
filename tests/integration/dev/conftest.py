"""Directories of servers that these tests start themselves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from meterline_dev.testing import scratch_directory


@pytest.fixture
def place() -> Iterator[Path]:
    """Like `tmp_path`, but in memory, where Postgres creates its data at half the CPU of a disk's."""
    with scratch_directory() as directory:
        yield directory
