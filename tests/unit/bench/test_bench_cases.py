"""What the command line selects."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.bench.cases import CASES, FASTEST, FRESHNESS, selected, turn_about
from tests.bench.options import parse

pytestmark = pytest.mark.req("T8.3")


def test_without_a_choice_everything_runs_once() -> None:
    assert selected("") == list(CASES)
    assert len({case.name for case in CASES}) == len(CASES)


def test_parts_of_names_select() -> None:
    chosen = ["rows-100", "rows-1000", "rows-1000-bare", "stream"]
    assert [case.name for case in selected("rows, stream")] == chosen


def test_a_case_and_its_bare_one_take_turns() -> None:
    groups = [[case.name for case in group] for group in turn_about(selected("rows,stream"))]
    assert groups == [["rows-100"], ["rows-1000", "rows-1000-bare"], ["stream"]]
    for guarded, bare in (group for group in turn_about(CASES) if len(group) > 1):
        assert (guarded.bare, bare.bare) == (False, True)
        assert replace(bare, name=guarded.name, title=guarded.title, bare=False) == guarded


def test_freshness_brings_the_case_that_tells_the_greatest_load() -> None:
    assert [case.name for case in selected(FRESHNESS)] == [FASTEST, FRESHNESS]


def test_an_unknown_case_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="nonesuch"):
        selected("rows,nonesuch")
    with pytest.raises(SystemExit):
        parse(["--cases", "nonesuch"])
    assert "no case is called nonesuch" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--seconds", "0"], ["--tenants", "-1"], ["--events", "many"]])
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


def test_capture_only_leaves_aggregate_out() -> None:
    assert parse(["--capture-only"]).services == ("identity", "ingest")
    with pytest.raises(SystemExit):
        parse(["--capture-only", "--profile", "aggregate"])
