"""The report of a benchmark: the table, the JSON and the verdict."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from rich.console import Console

from tests.bench.disk import Disk, Table
from tests.bench.report import Report, as_json, show
from tests.bench.rows import Row, greatest, median
from tests.bench.workload import Workload

pytestmark = pytest.mark.req("T8.3")


def row(name: str, events_per_s: float | None, **more: Any) -> Row:
    return Row(name=name, title=f"title of {name}", capture_per_s=900.0, events_per_s=events_per_s, **more)


ROWS = [
    row("copy", 800_000.0, exact=True),
    row("textbook", 500.0, exact=True),
    row("columnar-5000", 400_000.0, exact=True, p99_ms=12.0, cpu_us={"ingest": 1.25}, wal_bytes=180.0),
    row("columnar-5000-bare", 500_000.0, exact=True),
    row("ack-50000", 49_000.0, exact=True, offered_per_s=50_000.0),
]


def printed(report: Report) -> str:
    out = io.StringIO()
    show(report, Console(file=out, width=200))
    return out.getvalue()


def test_ratios_compare_end_to_end_rates() -> None:
    rows = {each["name"]: each for each in json.loads(as_json(Report(Workload(), ROWS)))["rows"]}
    assert rows["columnar-5000"]["ratio_to_copy"] == 0.5
    assert rows["columnar-5000"]["ratio_to_textbook"] == 800.0
    assert rows["columnar-5000"]["ratio_to_bare"] == 0.8
    assert rows["columnar-5000-bare"]["ratio_to_bare"] is None
    assert rows["columnar-5000"]["cpu_us"] == {"ingest": 1.25}
    assert rows["ack-50000"]["ratio_to_copy"] is None, "a case with a fixed offered rate has no ratio"
    assert rows["columnar-5000"]["ratio_to_reference"] is None


def test_variant_is_compared_with_its_reference() -> None:
    variant = row("month", 300_000.0, exact=True, reference="columnar-5000")
    body = json.loads(as_json(Report(Workload(), [*ROWS, variant])))["rows"][-1]
    assert (body["reference"], body["ratio_to_reference"]) == ("columnar-5000", 0.75)
    (alone,) = json.loads(as_json(Report(Workload(), [variant])))["rows"]
    assert alone["ratio_to_reference"] is None
    assert "0.75" in printed(Report(Workload(), [*ROWS, variant]))


def test_report_shows_time_slices_of_cases_that_have_them() -> None:
    long = row("sustained", 250_000.0, exact=True, slices=[260_000.4, 240_000.0])
    report = Report(Workload(), [*ROWS, long])
    assert json.loads(as_json(report))["rows"][-1]["slices"] == [260_000, 240_000]
    text = printed(report)
    assert "by slices" in text
    assert "260,000" in text
    assert "by slices" not in printed(Report(Workload(), ROWS))


DISK = Disk(
    1_000,
    [
        Table("ingest.events", 93_000, 54_000, 0),
        Table("aggregate.windows_minute", 10_000, 5_000, 100),
        Table("ingest.series", 500, 400, 0),
        Table("ingest.subjects", 300, 100, 200),
    ],
)


def test_disk_bytes_are_reported_per_event_and_table_with_small_tables_summed() -> None:
    report = Report(Workload(), ROWS, disk={"month": DISK})
    body = json.loads(as_json(report))["disk"]["month"]
    assert body["bytes_per_event"] == 163.6
    assert body["tables"] == {
        "ingest.events": {"heap": 93.0, "indexes": 54.0, "toast": 0.0},
        "aggregate.windows_minute": {"heap": 10.0, "indexes": 5.0, "toast": 0.1},
        "others": {"heap": 0.8, "indexes": 0.5, "toast": 0.2},
    }
    assert "bytes on disk" not in printed(report)
    report.show_disk = True
    text = printed(report)
    for part in ("an event: month", "aggregate.windows_minute", "147.0", "163.6", "59.5"):
        assert part in text


def test_report_without_events_does_not_divide_by_zero() -> None:
    assert Disk(0, [Table("ingest.events", 8_192, 0, 0)]).as_dict()["bytes_per_event"] == 8_192


def test_case_without_reference_has_no_ratio() -> None:
    (only,) = json.loads(as_json(Report(Workload(), [ROWS[2]])))["rows"]
    assert only["ratio_to_copy"] is None
    assert only["ratio_to_textbook"] is None


def test_json_is_one_line_with_load_and_memory() -> None:
    text = as_json(Report(Workload(tenants=7), ROWS, memory={"ingest": {"rss": 90.5, "pss": 80.1}}))
    assert "\n" not in text
    body = json.loads(text)
    assert body["memory_mb"] == {"ingest": {"rss": 90.5, "pss": 80.1}}
    assert body["load"]["tenants"] == 7
    assert body["exact"] is True


def test_table_shows_each_case_and_the_verdict() -> None:
    text = printed(Report(Workload(mixed=True), ROWS, memory={"ingest": {"rss": 90.5, "pss": 80.1}}))
    for each in ROWS:
        assert each.title in text
    for part in ("400,000", "0.50", "800.0", "90.5", "all tenants in each batch", "every sum is exact"):
        assert part in text
    random = printed(Report(Workload(random_ids=True, days=30), ROWS))
    assert "random ids; " in random
    assert "at random over 30 days" in random
    assert "NOT EXACT" not in text


@pytest.mark.parametrize(
    "report",
    [
        Report(Workload(), [*ROWS, row("rows-1000", 1.0, exact=False, differences=["bench-001 lacks 3"])]),
        Report(Workload(), [*ROWS, Row.failed("rows-1000", "rows", "bench-001 lacks 3")]),
        Report(Workload(), ROWS, differences=["bench-001 lacks 3"]),
    ],
)
def test_one_difference_makes_the_verdict_inexact(report: Report) -> None:
    assert not report.exact
    assert json.loads(as_json(report))["exact"] is False
    text = printed(report)
    assert "bench-001 lacks 3" in text
    assert "NOT EXACT" in text


def test_empty_report_is_not_exact() -> None:
    assert not Report(Workload()).exact


def test_report_warns_of_a_busy_machine() -> None:
    assert "busy with something else" in printed(Report(Workload(), ROWS, machine={"busy_before": 0.4}))
    assert "busy with something else" not in printed(Report(Workload(), ROWS, machine={"busy_before": 0.01}))


def test_repeated_runs_report_the_median_and_must_all_be_exact() -> None:
    runs = [row("rows-100", rate, exact=rate != 30.0) for rate in (30.0, 10.0, 20.0)]
    middle = median(runs)
    assert middle.events_per_s == 20.0
    assert list(middle.runs) == [30.0, 10.0, 20.0]
    assert not middle.exact


def test_greatest_load_ignores_undeployed_variants() -> None:
    assert greatest(ROWS) == 400_000.0
    assert greatest([]) == 0.0
