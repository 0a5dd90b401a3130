"""Benchmark of the client: events a second that it records and encodes on one core.

Run it with `python -m tests.bench.client_recording`. One thread records and encodes chunks of events, without
a network. Times are processor time of the thread, independent of other load on the machine.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from decimal import Decimal
from statistics import median

from meterline_client.batches import cut
from meterline_client.buffer import Buffer
from meterline_client.clock import SystemClock
from meterline_client.recording import Recorder

CHUNK = 5_000
ORIGINS = [f"airport {number}" for number in range(20)]

Quantities = Mapping[str, int | Decimal]
CASES: dict[str, Quantities] = {
    "one integer, one dimension": {"miles": 1400},
    "integer and decimal, one dimension": {"miles": 1400, "air_minutes": Decimal("227.5")},
}


def run(chunks: int, quantities: Quantities) -> tuple[float, float]:
    """Microseconds an event for recording, and for encoding."""
    clock = SystemClock()
    recorder = Recorder("acme", clock, None)
    buffer = Buffer(
        max_events=2 * CHUNK,
        max_bytes=1 << 30,
        chunk_events=CHUNK,
        flush_interval=3_600,
        clock=clock,
        wake=lambda: None,
    )
    subjects = [f"N{number}" for number in range(3_000)]
    dimensions = [{"origin": origin} for origin in ORIGINS]
    recording = encoding = 0.0
    for _ in range(chunks):
        start = time.thread_time()
        for number in range(CHUNK):
            _, row, weight = recorder.row(
                "flight.departed",
                subjects[number % 3_000],
                None,
                dimensions[number % 20],
                quantities,
                None,
                None,
            )
            buffer.add(row, weight)
        middle = time.thread_time()
        chunk = buffer.take(0)
        if chunk is None or sum(batch.count for batch in cut(chunk.rows, "bench/1")) != CHUNK:
            raise AssertionError("events are missing")
        recording += middle - start
        encoding += time.thread_time() - middle
    return recording / chunks / CHUNK * 1e6, encoding / chunks / CHUNK * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=200_000, help="events a run")
    parser.add_argument("--runs", type=int, default=5, help="runs, of which the median is taken")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    options = parser.parse_args()
    rows = []
    for name, quantities in CASES.items():
        runs = [run(max(1, options.events // CHUNK), quantities) for _ in range(options.runs)]
        recording, encoding = median(one for one, _ in runs), median(one for _, one in runs)
        rate = round(1e6 / (recording + encoding))
        rows.append({"name": name, "events_per_s": rate, "record_us": recording, "encode_us": encoding})
        print(f"{name:38} {rate:9,} events/s   record {recording:.2f} us   encode {encoding:.2f} us")
    if options.json:
        print(json.dumps({"rows": rows}))


if __name__ == "__main__":
    main()
