"""`meterline dev` from the command line: the whole mesh and the demo, on a sample of the flights."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from meterline_dev.testing import scratch_directory

METERLINE = Path(sys.executable).with_name("meterline")
SECONDS = 300


@dataclass(frozen=True)
class Done:
    """The result of a finished run."""

    code: int
    body: dict[str, Any]
    shown: str


def run(data: Path, limit: int = 1_500) -> Done:
    command = [str(METERLINE), "dev", "--once", "--json", f"--data={data}", f"--limit={limit}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    lines = done.stdout.splitlines()
    assert lines, done.stderr[-3_000:]
    return Done(done.returncode, json.loads(lines[-1]), done.stderr)


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    with scratch_directory() as place:
        yield place / "data"


@pytest.fixture(scope="module")
def first(directory: Path) -> Done:
    return run(directory)


@pytest.mark.slow
@pytest.mark.timeout(SECONDS)
@pytest.mark.req("X4", "X1", "X2", "T3.5", "K3")
def test_demo_checks_pass(first: Done) -> None:
    assert first.code == 0, first.shown[-3_000:]
    events = first.body["events"]
    assert events["read"] > 1_000
    assert events["read"] == events["accepted"] + events["rejected"]
    assert events["duplicate"] == 0
    assert events["rejected"] > 0
    assert (first.body["lost"], first.body["doubled"], first.body["sums_agree"]) == (0, 0, True)
    # The sample spans three calendar months, or four if it begins within a month.
    assert first.body["invoices"] in (3 * 16, 4 * 16)
    explained = first.body["explained"]
    assert explained["line"]
    assert len(set(explained["events"])) == len(explained["events"]) > 0
    assert all(len(trace) == 32 for trace in explained["trace_ids"])
    assert first.body["seconds"] > 0


@pytest.mark.slow
@pytest.mark.timeout(SECONDS)
@pytest.mark.req("X4")
def test_demo_prints_its_findings(first: Done) -> None:
    for shown in ("SUBJECT_REQUIRED", "QUANTITY_REQUIRED", "American Airlines", "lost 0   doubled 0"):
        assert shown in first.shown


@pytest.mark.slow
@pytest.mark.timeout(2 * SECONDS)
@pytest.mark.req("T1.2", "T3.1", "S6", "X4")
def test_second_demo_run_counts_nothing_twice(first: Done, directory: Path) -> None:
    again = run(directory)
    assert again.code == 0, again.shown[-3_000:]
    events, before = again.body["events"], first.body["events"]
    # Events replayed after the fix are duplicates too, and the fix is still in effect.
    taken, left = before["accepted"] + before["replayed"], before["rejected"] - before["replayed"]
    assert events == {**before, "accepted": 0, "replayed": 0, "duplicate": taken, "rejected": left}
    assert (again.body["lost"], again.body["doubled"], again.body["sums_agree"]) == (0, 0, True)
    assert again.body["invoices"] == first.body["invoices"]
    assert again.body["explained"]["line"] == first.body["explained"]["line"]


@pytest.mark.slow
@pytest.mark.timeout(2 * SECONDS)
@pytest.mark.req("X2", "X3", "T3.5")
def test_single_extra_unit_at_stripe_is_detected(first: Done, directory: Path) -> None:
    assert first.code == 0
    changed = _change_one_meter_event(directory / "stripe.sqlite", by=1)
    try:
        spoilt = run(directory)
    finally:
        _change_one_meter_event(directory / "stripe.sqlite", by=-1)
    assert spoilt.code == 1
    assert spoilt.body["sums_agree"] is False
    assert f"{changed + 1:,}, and {changed:,} by the file" in spoilt.shown


def _change_one_meter_event(database: Path, by: int) -> int:
    """Changes the value of the first meter event; returns its old value."""
    with sqlite3.connect(database) as connection:
        row = connection.execute("SELECT seq, value FROM meter_events ORDER BY seq LIMIT 1").fetchone()
        connection.execute("UPDATE meter_events SET value = value + ? WHERE seq = ?", (by, row[0]))
    connection.close()
    return int(row[1])


@pytest.mark.slow
@pytest.mark.timeout(2 * SECONDS)
@pytest.mark.req("X4")
def test_data_of_another_demo_is_not_changed(first: Done, directory: Path) -> None:
    assert first.code == 0
    other = run(directory, limit=900)
    assert other.code == 1
    assert "a sample of 1,500 flights" in other.body["error"]
