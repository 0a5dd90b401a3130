"""The bench itself, once, small: on the real mesh, exact, and gone afterwards."""

from __future__ import annotations

import asyncio
import json
import signal
import sys

import psutil
import pytest

from tests.bench.pipes import ROOT
from tests.support.polling import eventually

pytestmark = [pytest.mark.req("T8.3", "X2"), pytest.mark.slow, pytest.mark.timeout(300)]

SMALL = ["--seconds", "1", "--events", "50000", "--tenants", "5", "--json"]


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


async def test_a_case_runs_against_its_reference_and_is_exact() -> None:
    process = await start("--cases", "columnar-5000,copy", *SMALL)
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    body = json.loads(out.decode().splitlines()[-1])
    rows = {row["name"]: row for row in body["rows"]}
    assert set(rows) == {"copy", "columnar-5000", "columnar-5000-bare", "columnar-5000-duplicates"}
    assert all(row["exact"] for row in rows.values())
    assert all(row["events_per_s"] > 0 for row in rows.values())
    assert rows["columnar-5000"]["accepted"] > 0
    assert rows["columnar-5000"]["ratio_to_copy"] > 0
    assert rows["columnar-5000"]["ratio_to_bare"] > 0
    assert rows["columnar-5000"]["wal_bytes"] > 100
    assert rows["columnar-5000-duplicates"]["duplicate"] > 0
    assert {"identity", "ingest", "aggregate", "postgres", "nats"} <= set(body["memory_mb"])
    assert body["load"]["tenants"] == 5


async def test_being_stopped_leaves_nothing_running() -> None:
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
