"""The benchmark cases that the command line selects."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.bench.cases import CASES, FASTEST, FRESHNESS, selected, turn_about
from tests.bench.options import parse
from tests.bench.workload import Workload

pytestmark = pytest.mark.req("T8.3")


def test_default_selection_runs_every_case_once() -> None:
    assert selected("") == [case for case in CASES if not case.extra]
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.parametrize(
    "name", ["sustained", "month", "spread-1s", "spread-20s", "random-ids", "duplicates-10"]
)
def test_extra_case_runs_only_by_name_and_is_in_the_help(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (case,) = (each for each in CASES if each.name == name)
    assert case.extra
    assert case in selected(name)
    with pytest.raises(SystemExit):
        parse(["--help"])
    extra = capsys.readouterr().out.partition("Only when named:")[2]
    assert name in "".join(extra.split())


def test_selection_adds_no_extra_case() -> None:
    for case in CASES:
        if not case.extra:
            assert not [each for each in selected(case.name) if each.extra], case.name


def test_variant_runs_with_its_reference_and_differs_as_documented() -> None:
    by_name = {case.name: case for case in CASES}
    for case in CASES:
        if case.reference:
            reference = by_name[case.reference]
            assert {reference, case} <= set(selected(case.name))
            assert not reference.reference
            shape = (case.form, case.batch, case.concurrency, case.stretch, case.rate, case.bare)
            same = (reference.form, reference.batch, reference.concurrency, reference.stretch)
            assert shape == (*same, reference.rate, reference.bare)


def test_case_overrides_parts_of_the_default_workload() -> None:
    given = Workload(tenants=7, subjects=3, mixed=True, spread_ms=5)
    by_name = {case.name: case for case in CASES}
    assert by_name[FASTEST].workload(given) == given
    assert by_name["spread-20s"].workload(given) == replace(given, spread_ms=20_000)
    assert by_name["random-ids"].workload(given) == replace(given, random_ids=True)
    assert by_name["month"].workload(given) == replace(given, days=30)


def test_part_of_a_name_selects_cases() -> None:
    chosen = ["rows-100", "rows-1000", "rows-1000-bare", "stream"]
    assert [case.name for case in selected("rows, stream")] == chosen


def test_case_and_its_bare_variant_alternate() -> None:
    groups = [[case.name for case in group] for group in turn_about(selected("rows,stream"))]
    assert groups == [["rows-100"], ["rows-1000", "rows-1000-bare"], ["stream"]]
    bare_ones = 0
    for first, *others in turn_about(CASES):
        for bare in (case for case in others if case.bare):
            bare_ones += 1
            assert replace(bare, name=first.name, title=first.title, bare=False) == first
    assert bare_ones == sum(case.bare for case in CASES) > 0


def test_case_and_its_variants_alternate() -> None:
    groups = [[case.name for case in group] for group in turn_about(selected("duplicates,random-ids"))]
    assert groups == [
        ["columnar-1000", "columnar-1000-duplicates"],
        ["columnar-5000", "columnar-5000-duplicates", "duplicates-10", "random-ids"],
    ]


def test_freshness_selects_the_case_that_measures_the_greatest_load() -> None:
    assert [case.name for case in selected(FRESHNESS)] == [FASTEST, FRESHNESS]


def test_unknown_case_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="nonesuch"):
        selected("rows,nonesuch")
    with pytest.raises(SystemExit):
        parse(["--cases", "nonesuch"])
    assert "no case is called nonesuch" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["--seconds", "0"],
        ["--tenants", "-1"],
        ["--events", "many"],
        ["--spread-ms", "-1"],
        ["--days", "35"],
        ["--days", "1.5"],
        ["--postgres", "work_mem"],
        ["--postgres", "=1"],
    ],
)
def test_numbers_out_of_range_are_refused(arguments: list[str]) -> None:
    with pytest.raises(SystemExit):
        parse(arguments)


def test_bounds_of_a_case() -> None:
    options = parse(["--seconds", "2", "--events", "3000"])
    by_name = {case.name: case for case in options.cases}
    assert options.bound(by_name["rows-1000"]) == (3_000, 2.0)
    assert options.bound(by_name[FASTEST]) == (5_000, 2.0), "at least one call"
    assert options.bound(by_name["ack-50000"]) == (3_000, 4.0)
    assert parse([]).bound(by_name["rows-1000"]) == (by_name["rows-1000"].events, 5.0)


def test_sustained_case_lasts_a_minute_and_reports_each_slice() -> None:
    options = parse(["--cases", "sustained"])
    (case,) = options.cases
    _, seconds = options.bound(case)
    assert (seconds, case.slice_seconds, case.alone) == (60.0, 10.0, True)


def test_options_reach_the_load_generator_and_the_server() -> None:
    options = parse(["--spread-ms", "20", "--random-ids", "--days", "34", "--postgres", "work_mem=1MB"])
    assert options.workload == Workload(spread_ms=20, random_ids=True, days=34)
    assert options.postgres == {"work_mem": "1MB"}


def test_capture_only_excludes_aggregate() -> None:
    assert parse(["--capture-only"]).services == ("identity", "ingest")
    with pytest.raises(SystemExit):
        parse(["--capture-only", "--profile", "aggregate"])
