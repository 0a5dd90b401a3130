"""An event's trace at a tracing backend, from the capture call to the invoice that bills the event."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest

from tests.support.otlp import collecting

METERLINE = Path(sys.executable).with_name("meterline")
SECONDS = 300


@pytest.mark.slow
@pytest.mark.timeout(SECONDS)
@pytest.mark.req("K4", "X1")
async def test_capture_trace_contains_its_invoice() -> None:
    async with collecting() as collector:
        process = await asyncio.create_subprocess_exec(
            METERLINE,
            "dev",
            "--once",
            "--json",
            "--limit=300",
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=os.environ | collector.environment(),
        )
        output, shown = await asyncio.wait_for(process.communicate(), SECONDS)
        assert process.returncode == 0, shown.decode()[-3_000:]
    # The traces of the calls that captured the events of one invoice line.
    captures = json.loads(output.splitlines()[-1])["explained"]["trace_ids"]

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
