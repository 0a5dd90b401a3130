"""Benchmark of binary arrays against the driver's own encoding of lists: `python -m tests.bench.arrays`.

It times only the encoding of parameters, for the columns of a stored batch of 5,000 events.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from meterline.clock import to_datetime
from meterline.db import arrays
from psycopg.adapt import PyFormat, Transformer
from psycopg.types.numeric import Int4, Int8
from rich.console import Console
from rich.table import Table

_ROWS = 5_000
_SECONDS = 0.3


def _by_the_driver(values: Sequence[Any]) -> object:
    return Transformer().get_dumper(values, PyFormat.BINARY).dump(values)


def _microseconds(work: Callable[[], object]) -> float:
    """The mean time of one call over `_SECONDS`."""
    calls, started = 0, time.perf_counter()
    while (spent := time.perf_counter() - started) < _SECONDS:
        work()
        calls += 1
    return spent / calls * 1e6


def _columns() -> dict[str, tuple[Callable[[], object], Callable[[], object]]]:
    """By type: the array, and the list for the driver."""
    numbers = np.random.default_rng(1).integers(0, 1 << 30, _ROWS)
    ids = np.random.default_rng(1).bytes(16 * _ROWS)
    times = numbers + 1_700_000_000_000_000
    return {
        "uuid": (
            lambda: arrays.uuid_array(np.frombuffer(ids, "V16")),
            lambda: _by_the_driver([uuid.UUID(bytes=ids[i : i + 16]) for i in range(0, len(ids), 16)]),
        ),
        "int4": (
            lambda: arrays.int4_array(numbers),
            lambda: _by_the_driver([Int4(number) for number in numbers.tolist()]),
        ),
        "int8": (
            lambda: arrays.int8_array(numbers),
            lambda: _by_the_driver([Int8(number) for number in numbers.tolist()]),
        ),
        "timestamptz": (
            lambda: arrays.timestamptz_array(times),
            lambda: _by_the_driver([to_datetime(us) for us in times.tolist()]),
        ),
    }


def main() -> None:
    table = Table("type", "arrays us", "driver us", "times", title=f"a column of {_ROWS:,} rows")
    for name, (ours, drivers) in _columns().items():
        fast, plain = _microseconds(ours), _microseconds(drivers)
        table.add_row(name, f"{fast:,.1f}", f"{plain:,.1f}", f"{plain / fast:,.0f}")
    Console().print(table)


if __name__ == "__main__":
    main()
