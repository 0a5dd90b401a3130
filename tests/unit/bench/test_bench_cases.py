"""What the command line selects."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.bench.cases import CASES, FASTEST, FRESHNESS, selected, turn_about
from tests.bench.options import parse
from tests.bench.workload import Workload

pytestmark = pytest.mark.req("T8.3")


def test_without_a_choice_everything_runs_once() -> None:
    assert selected("") == [case for case in CASES if not case.extra]
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.parametrize(
    "name", ["sustained", "month", "spread-1s", "spread-20s", "random-ids", "duplicates-10"]
)
def test_an_extra_case_runs_when_it_is_named_and_help_names_it(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (case,) = (each for each in CASES if each.name == name)
    assert case.extra
    assert case in selected(name)
    with pytest.raises(SystemExit):
        parse(["--help"])
    extra = capsys.readouterr().out.partition("Only when named:")[2]
    assert name in "".join(extra.split())


def test_who_selects_another_case_does_not_get_an_extra_one() -> None:
    for case in CASES:
        if not case.extra:
            assert not [each for each in selected(case.name) if each.extra], case.name


def test_a_variant_brings_its_reference_along_and_differs_from_it_as_it_says() -> None:
    by_name = {case.name: case for case in CASES}
    for case in CASES:
        if case.reference:
            reference = by_name[case.reference]
            assert {reference, case} <= set(selected(case.name))
            assert not reference.reference
            shape = (case.form, case.batch, case.concurrency, case.stretch, case.rate, case.bare)
            same = (reference.form, reference.batch, reference.concurrency, reference.stretch)
            assert shape == (*same, reference.rate, reference.bare)


def test_a_case_has_the_runs_workload_but_for_its_own_differences() -> None:
    given = Workload(tenants=7, subjects=3, mixed=True, spread_ms=5)
    by_name = {case.name: case for case in CASES}
    assert by_name[FASTEST].workload(given) == given
    assert by_name["spread-20s"].workload(given) == replace(given, spread_ms=20_000)
    assert by_name["random-ids"].workload(given) == replace(given, random_ids=True)
    assert by_name["month"].workload(given) == replace(given, days=30)


def test_parts_of_names_select() -> None:
    chosen = ["rows-100", "rows-1000", "rows-1000-bare", "stream"]
    assert [case.name for case in selected("rows, stream")] == chosen


def test_a_case_and_its_bare_one_take_turns() -> None:
    groups = [[case.name for case in group] for group in turn_about(selected("rows,stream"))]
    assert groups == [["rows-100"], ["rows-1000", "rows-1000-bare"], ["stream"]]
    bare_ones = 0
    for first, *others in turn_about(CASES):
        for bare in (case for case in others if case.bare):
            bare_ones += 1
            assert replace(bare, name=first.name, title=first.title, bare=False) == first
    assert bare_ones == sum(case.bare for case in CASES) > 0


def test_a_case_and_its_variants_take_turns() -> None:
    groups = [[case.name for case in group] for group in turn_about(selected("duplicates,random-ids"))]
    assert groups == [
        ["columnar-1000", "columnar-1000-duplicates"],
        ["columnar-5000", "columnar-5000-duplicates", "duplicates-10", "random-ids"],
    ]


def test_freshness_brings_the_case_that_tells_the_greatest_load() -> None:
    assert [case.name for case in selected(FRESHNESS)] == [FASTEST, FRESHNESS]


def test_an_unknown_case_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
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
def test_senseless_numbers_are_refused(arguments: list[str]) -> None:
    with pytest.raises(SystemExit):
        parse(arguments)


def test_bounds_of_a_case() -> None:
    options = parse(["--seconds", "2", "--events", "3000"])
    by_name = {case.name: case for case in options.cases}
    assert options.bound(by_name["rows-1000"]) == (3_000, 2.0)
    assert options.bound(by_name[FASTEST]) == (5_000, 2.0), "never less than one call"
    assert options.bound(by_name["ack-50000"]) == (3_000, 4.0)
    assert parse([]).bound(by_name["rows-1000"]) == (by_name["rows-1000"].events, 5.0)


def test_a_minute_is_sent_for_and_told_slice_by_slice() -> None:
    options = parse(["--cases", "sustained"])
    (case,) = options.cases
    _, seconds = options.bound(case)
    assert (seconds, case.slice_seconds, case.alone) == (60.0, 10.0, True)


def test_what_the_load_and_the_server_are_told() -> None:
    options = parse(["--spread-ms", "20", "--random-ids", "--days", "34", "--postgres", "work_mem=1MB"])
    assert options.workload == Workload(spread_ms=20, random_ids=True, days=34)
    assert options.postgres == {"work_mem": "1MB"}


def test_capture_only_leaves_aggregate_out() -> None:
    assert parse(["--capture-only"]).services == ("identity", "ingest")
    with pytest.raises(SystemExit):
        parse(["--capture-only", "--profile", "aggregate"])
