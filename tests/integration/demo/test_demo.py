"""`meterline dev` from the command line: the whole mesh and the demo, on a sample of the flights.

The demo runs twice on the same data: as a user runs it, until Ctrl-C and with a tracing backend; and with
`--once`, after a single mile was added at Stripe.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from meterline_dev.demo.meters import METERS
from meterline_dev.testing import scratch_directory

from tests.support.dev_process import METERLINE, SECONDS, Running, Stopped, assert_mesh_ran_until_stopped
from tests.support.otlp import Collector, collecting

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2 * SECONDS)]

FLIGHTS = 1_500


@dataclass(frozen=True)
class Done:
    """The result of a finished run."""

    code: int
    body: dict[str, Any]
    shown: str


@dataclass(frozen=True)
class FirstRun:
    """body: the outcome that it printed as JSON"""

    stopped: Stopped
    body: dict[str, Any]
    collector: Collector


async def run_until_stopped(place: Path, data: Path) -> FirstRun:
    """Runs the demo with a tracing backend, and then stops the mesh, which runs on, by Ctrl-C."""
    async with collecting() as collector:
        options = ("--json", f"--data={data}", f"--limit={FLIGHTS}")
        running = Running(place, *options, environment=collector.environment())
        try:
            await running.until("Ctrl-C ends all of it")
            stopped = await running.stopped(signal.SIGINT)
        finally:
            running.end()
    (body,) = (json.loads(line) for line in stopped.output.splitlines() if line.startswith("{"))
    return FirstRun(stopped, body, collector)


def run_once(data: Path, limit: int = FLIGHTS) -> Done:
    command = [str(METERLINE), "dev", "--once", "--json", f"--data={data}", f"--limit={limit}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    lines = done.stdout.splitlines()
    assert lines, done.stderr[-3_000:]
    return Done(done.returncode, json.loads(lines[-1]), done.stderr)


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    with scratch_directory() as directory:
        yield directory


@pytest.fixture(scope="module")
def first(place: Path) -> FirstRun:
    return asyncio.run(run_until_stopped(place, place / "data"))


@pytest.fixture(scope="module")
def second(first: FirstRun, place: Path) -> tuple[Done, int]:
    """A run after a mile was added to one meter event at Stripe, and the event's value before that."""
    assert first.stopped.code == 0, first.stopped.output[-3_000:]
    value = add_mile_to_first_meter_event(place / "data" / "stripe.sqlite")
    return run_once(place / "data"), value


def add_mile_to_first_meter_event(database: Path) -> int:
    """Returns the old value. Not a departure, which would count as an event that was counted twice."""
    miles = next(meter.billing_event_name for meter in METERS if meter.name == "miles")
    query = "SELECT seq, value FROM meter_events WHERE event_name = ? ORDER BY seq LIMIT 1"
    with sqlite3.connect(database) as connection:
        row = connection.execute(query, (miles,)).fetchone()
        connection.execute("UPDATE meter_events SET value = value + 1 WHERE seq = ?", (row[0],))
    connection.close()
    return int(row[1])


@pytest.mark.req("X4", "X1", "X2", "T3.5", "K3")
def test_demo_checks_pass(first: FirstRun) -> None:
    assert first.stopped.code == 0, first.stopped.output[-3_000:]
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


@pytest.mark.req("X4")
def test_demo_prints_its_findings(first: FirstRun) -> None:
    for shown in ("SUBJECT_REQUIRED", "QUANTITY_REQUIRED", "American Airlines", "lost 0   doubled 0"):
        assert shown in first.stopped.output


@pytest.mark.req("X4")
def test_mesh_runs_after_the_demo_until_stopped(first: FirstRun) -> None:
    assert_mesh_ran_until_stopped(first.stopped)


@pytest.mark.req("K4", "X1")
def test_capture_trace_contains_its_invoice(first: FirstRun) -> None:
    """At a tracing backend, from the capture call to the invoice that bills the event."""
    collector = first.collector
    # The traces of the calls that captured the events of one invoice line.
    captures = first.body["explained"]["trace_ids"]
    assert captures
    for trace_id in captures:
        seen = collector.of_trace(trace_id)
        services = {service for service, _ in seen}
        assert {"meterline-ingest", "meterline-aggregate", "meterline-publisher"} <= services, seen
        assert ("meterline-ingest", "meterline.ingest.v1.CaptureService/Report") in seen
        assert ("meterline-aggregate", "process EVENTS") in seen
    invoices = [span for service, span in collector.spans if span.name == "invoice"]
    linked = {link.trace_id.hex() for span in invoices for link in span.links}
    assert set(captures) <= linked


@pytest.mark.req("T1.2", "T3.1", "S6", "X4")
def test_second_demo_run_counts_nothing_twice(first: FirstRun, second: tuple[Done, int]) -> None:
    again, _ = second
    events, before = again.body["events"], first.body["events"]
    # Events replayed after the fix are duplicates too, and the fix is still in effect.
    taken, left = before["accepted"] + before["replayed"], before["rejected"] - before["replayed"]
    assert events == {**before, "accepted": 0, "replayed": 0, "duplicate": taken, "rejected": left}
    assert (again.body["lost"], again.body["doubled"]) == (0, 0)
    assert again.body["invoices"] == first.body["invoices"]
    assert again.body["explained"]["line"] == first.body["explained"]["line"]


@pytest.mark.req("X2", "X3", "T3.5")
def test_single_extra_unit_at_stripe_is_detected(second: tuple[Done, int]) -> None:
    """The mile is the only difference that a second run finds."""
    spoilt, value = second
    assert spoilt.code == 1
    assert spoilt.body["sums_agree"] is False
    _, _, differences = spoilt.shown.partition("lost 0   doubled 0\n")
    difference, *_ = differences.splitlines()
    assert difference.startswith("Stripe's own summaries: ")
    assert difference.endswith(f": {value + 1:,}, and {value:,} by the file")
    assert (spoilt.shown.count("✗"), spoilt.shown.count("by the file")) == (1, 1)


@pytest.mark.req("X4")
def test_data_of_another_demo_is_not_changed(first: FirstRun, place: Path) -> None:
    assert first.stopped.code == 0
    other = run_once(place / "data", limit=900)
    assert other.code == 1
    assert "a sample of 1,500 flights" in other.body["error"]
