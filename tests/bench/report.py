"""The report of the benchmark: a table, and a JSON object for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tests.bench.cases import BARE, COPY, TEXTBOOK
from tests.bench.disk import Disk
from tests.bench.rows import Row, as_dict, ratio
from tests.bench.workload import MADE_PER_SECOND, MAX_UNITS, REGIONS, SCALE, Workload

_SERVICES = ("ingest", "aggregate", "identity", "publisher")
_PROCESSES = (*_SERVICES, TEXTBOOK, "postgres", "nats", "load", "bench")
# If other processes use more than this share of the cores before the start, figures are unreliable.
_BUSY = 0.15
_METHOD = " ".join(
    (
        "end to end: accepted events by the time from the first call until QueryUsage (month totals of both",
        "meters, all tenants) equals the load's own integer sums; asked after the last acknowledgement,",
        "every 10 ms, the tenant of the last call first.",
        "p50, p99: of the acknowledgement; in an open loop from the moment a call was due.",
        "freshness: a tenant of its own sends one event every 25 ms, and its count is asked for every 10 ms;",
        "from when the event was due until an answer counts it.",
        "CPU and WAL: from the first call until all is visible, by the events accepted.",
        "copy: prepared buffers into a table of the same columns and key, without another index.",
        "slices: of the time of sending, ten seconds each, by the acknowledgements.",
        "of plain: against the case that this is a variant of; duplicates count nowhere in events/s.",
        "guards: bounds of the quantity, values of the dimension, what is required, and for every tenant a",
        "limit that is never reached; without them a type is a name, a quantity and a dimension.",
    )
)


@dataclass(slots=True)
class Report:
    """All results of a run.

    disk: by the case that filled the mesh, or all cases
    differences: of the final check
    """

    workload: Workload
    rows: list[Row] = field(default_factory=list)
    memory: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    disk: dict[str, Disk] = field(default_factory=dict)
    differences: Sequence[str] = ()
    spans: Mapping[str, Any] | None = None
    show_disk: bool = False
    profiles: list[str] = field(default_factory=list)
    machine: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def exact(self) -> bool:
        return bool(self.rows) and not self.differences and all(row.exact for row in self.rows)


def load_text(workload: Workload) -> str:
    """A description of the load."""
    batches = "events of all tenants in each batch" if workload.mixed else "one tenant a batch"
    ids = "made batch after batch"
    if workload.spread_ms:
        ids = f"made over {workload.spread_ms} ms a batch"
    ids = "random ids" if workload.random_ids else f"UUIDv7 ids {ids}"
    times = f"at random over {workload.days} days" if workload.days else f"{MADE_PER_SECOND} events a second"
    return (
        f"{workload.tenants} tenants, {batches}; {workload.subjects} subjects a tenant; {ids};"
        f" one count and one sum meter, grouped by one dimension of {REGIONS} values; quantities of up to"
        f" {MAX_UNITS} units at scale {SCALE}; times up to now, {times}"
    )


def as_json(report: Report) -> str:
    """The report as one line of JSON."""
    workload = report.workload
    body = {
        "rows": [as_dict(report.rows, row) for row in report.rows],
        "exact": report.exact,
        "memory_mb": report.memory,
        "disk": {name: disk.as_dict() for name, disk in report.disk.items()},
        "load": {
            "tenants": workload.tenants,
            "mixed": workload.mixed,
            "subjects": workload.subjects,
            "regions": REGIONS,
            "spread_ms": workload.spread_ms,
            "random_ids": workload.random_ids,
            "days": workload.days,
            "text": load_text(workload),
            **report.settings,
        },
        "machine": report.machine,
        "differences": list(report.differences[:20]),
    }
    if report.spans is not None:
        body["spans"] = report.spans
    return json.dumps(body)


def show(report: Report, console: Console) -> None:
    """Prints everything except the JSON."""
    for profile in report.profiles:
        console.print(profile, markup=False, highlight=False, soft_wrap=True)
    console.print(_table(report.rows))
    console.print(_costs(report.rows))
    if any(row.slices for row in report.rows):
        console.print(_slices(report.rows))
    if report.show_disk:
        for name, disk in report.disk.items():
            console.print(_disk(name, disk))
    if report.memory:
        console.print(_memory(report.memory))
    if report.spans is not None:
        console.print(f"spans: {report.spans['total']} ({_pairs(report.spans['services'])})")
    console.print(f"load: {load_text(report.workload)}", highlight=False)
    console.print(f"machine: {_pairs(report.machine)}; {_pairs(report.settings)}", highlight=False)
    console.print(_METHOD, style="dim", highlight=False)
    for each in [*(text for row in report.rows for text in row.differences[:5]), *report.differences[:10]]:
        console.print(Text(each, style="red"))
    if report.machine.get("busy_before", 0.0) > _BUSY:
        console.print(Text("the machine was busy with something else: figures are too low", style="yellow"))
    verdict = "every sum is exact" if report.exact else "NOT EXACT"
    console.print(Text(verdict, style="bold green" if report.exact else "bold red"))


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in values.items())


def _table(rows: Sequence[Row]) -> Table:
    table = Table(title="events a second", title_justify="left")
    table.add_column("case", no_wrap=True)
    for column in (
        "captured",
        "end to end",
        "of copy",
        "x textbook",
        "of bare",
        "of plain",
        "p50 ms",
        "p99 ms",
        "exact",
    ):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            row.title,
            _rate(row.capture_per_s),
            _rate(row.events_per_s),
            _number(ratio(rows, row, COPY), 2),
            _number(ratio(rows, row, TEXTBOOK), 1),
            _number(ratio(rows, row, row.name + BARE), 2),
            _number(ratio(rows, row, row.reference), 2),
            _number(row.p50_ms, 1),
            _number(row.p99_ms, 1) + ("*" if row.measures == "freshness" else ""),
            Text("yes", style="green") if row.exact else Text("NO", style="bold red"),
        )
    if any(row.measures == "freshness" for row in rows):
        table.caption = "* freshness: from capture to visible in QueryUsage"
        table.caption_justify = "left"
    return table


def _costs(rows: Sequence[Row]) -> Table:
    costs = [_together(row.cpu_us) for row in rows]
    processes = [name for name in _PROCESSES if any(cost.get(name, 0.0) >= 0.005 for cost in costs)]
    table = Table(title="CPU microseconds by process, and bytes of WAL, an event", title_justify="left")
    table.add_column("case", no_wrap=True)
    for column in (*processes, "all", "WAL"):
        table.add_column(column, justify="right", no_wrap=True)
    for row, cost in zip(rows, costs, strict=True):
        table.add_row(
            row.title,
            *(_number(cost.get(name), 2) for name in processes),
            _number(sum(row.cpu_us.values()), 2),
            _number(row.wal_bytes, 0),
        )
    return table


def _together(cpu_us: Mapping[str, float]) -> dict[str, float]:
    """Sums the processes of the textbook pipeline."""
    found: dict[str, float] = {}
    for name, spent in cpu_us.items():
        process = TEXTBOOK if name.startswith(TEXTBOOK) else name
        found[process] = found.get(process, 0.0) + spent
    return found


def _memory(memory: Mapping[str, Mapping[str, float]]) -> Table:
    table = Table(title="memory after the load, MB", title_justify="left")
    table.add_column("process")
    for column in ("RSS", "PSS"):
        table.add_column(column, justify="right")
    for name, figures in memory.items():
        table.add_row(name, f"{figures['rss']:.1f}", f"{figures['pss']:.1f}")
    return table


def _slices(rows: Sequence[Row]) -> Table:
    table = Table(title="events/s by slices", title_justify="left")
    table.add_column("case", no_wrap=True)
    for at in range(max(len(row.slices) for row in rows)):
        table.add_column(f"{at + 1}", justify="right", no_wrap=True)
    for row in rows:
        if row.slices:
            table.add_row(row.title, *(_rate(each) for each in row.slices))
    return table


def _disk(name: str, disk: Disk) -> Table:
    table = Table(title=f"bytes on disk an event: {name}", title_justify="left")
    table.add_column("table", no_wrap=True)
    for column in ("heap", "indexes", "toast", "all"):
        table.add_column(column, justify="right", no_wrap=True)
    for each in disk.shown():
        sizes = (each.heap, each.indexes, each.toast, each.total)
        table.add_row(each.name, *(_number(disk.an_event(size), 1) for size in sizes))
    sums = [
        sum(sizes)
        for sizes in zip(*((t.heap, t.indexes, t.toast, t.total) for t in disk.tables), strict=True)
    ]
    table.add_row("all tables", *(_number(disk.an_event(size), 1) for size in sums))
    return table


def _rate(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:,.{digits}f}"
