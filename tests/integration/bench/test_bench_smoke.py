"""A small run of the benchmark on a real mesh, with exact results and no process left."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from typing import Any

import psutil
import pytest

from tests.bench.pipes import ROOT
from tests.support.polling import eventually

pytestmark = [pytest.mark.req("T8.3", "X2"), pytest.mark.slow, pytest.mark.timeout(300)]

SMALL = ["--seconds", "0.3", "--events", "20000", "--tenants", "5", "--warm-wal-mb", "16", "--json"]


async def start(*arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.bench",
        *arguments,
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def test_bench_cases_are_exact_and_compared_with_references() -> None:
    cases = ("columnar-5000,copy,month,sustained", "--disk", "--postgres", "work_mem=5MB")
    process = await start("--cases", *cases, *SMALL)
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    body = json.loads(out.decode().splitlines()[-1])
    rows = {row["name"]: row for row in body["rows"]}
    columns = {"columnar-5000", "columnar-5000-bare", "columnar-5000-duplicates", "month"}
    assert set(rows) == {"copy", "sustained", *columns}
    assert all(row["exact"] for row in rows.values())
    assert all(row["events_per_s"] > 0 for row in rows.values())
    assert rows["columnar-5000"]["accepted"] > 0
    assert rows["columnar-5000"]["ratio_to_copy"] > 0
    assert rows["columnar-5000"]["ratio_to_bare"] > 0
    assert rows["columnar-5000"]["wal_bytes"] > 100
    assert rows["columnar-5000-duplicates"]["duplicate"] > 0
    assert rows["month"]["reference"] == "columnar-5000"
    assert rows["month"]["ratio_to_reference"] > 0
    assert_disk(body["disk"], rows)
    assert {"identity", "ingest", "aggregate", "postgres", "nats"} <= set(body["memory_mb"])
    assert body["load"]["tenants"] == 5


def assert_disk(disk: dict[str, Any], rows: dict[str, Any]) -> None:
    """The sustained case has its own mesh; both meshes were warmed up with 10,000 events."""
    assert set(disk) == {"all cases", "sustained"}
    together = sum(row["accepted"] for name, row in rows.items() if name not in ("copy", "sustained"))
    assert disk["all cases"]["events"] == together + 10_000
    assert disk["sustained"]["events"] == rows["sustained"]["accepted"] + 10_000
    for each in disk.values():
        sizes = each["tables"]["ingest.events"]
        # A row of 64 bytes of columns with its header, and its key of 20.
        assert 80 < sizes["heap"] < 200
        assert 30 < sizes["indexes"] < 200
        assert each["bytes_per_event"] == pytest.approx(
            sum(sum(table.values()) for table in each["tables"].values()), abs=2
        )
    # Events spread over a month fill more minute windows of each group.
    minutes = {name: each["tables"]["aggregate.windows_minute"]["heap"] for name, each in disk.items()}
    assert minutes["all cases"] > 10 * minutes["sustained"]


async def test_stopped_bench_leaves_no_process() -> None:
    process = await start("--cases", "columnar-5000", *SMALL)
    try:
        # The postmaster, the broker, the double and the three services, at the least.
        started = await eventually(
            lambda: psutil.Process(process.pid).children(recursive=True),
            seconds=60,
            until=lambda children: len(children) > 6,
        )
    finally:
        process.send_signal(signal.SIGTERM)
        await process.communicate()
    assert process.returncode == 130
    await eventually(lambda: not any(each.is_running() for each in started))
