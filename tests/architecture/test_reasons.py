"""Reasons of refusals are stable codes in upper case; every failed precondition has its own reason."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.architecture.reasons import CODE, PLACES, reason_of
from tests.architecture.tree import calls, name_of, sources

pytestmark = pytest.mark.req("K2")


@pytest.mark.parametrize("failure", PLACES)
def test_reasons_are_codes_in_upper_case(failure: str) -> None:
    wrong = [
        f"{name_of(path)}:{call.lineno} {found.value!r}"
        for path in sources("libs", "services")
        for call in calls(path, failure)
        if isinstance(found := reason_of(call, PLACES[failure]), ast.Constant)
        and not CODE.fullmatch(str(found.value))
    ]
    assert wrong == []


@pytest.mark.parametrize("service", ["identity", "publisher"])
def test_every_failed_precondition_has_a_reason(service: str) -> None:
    assert nameless(sources(f"services/{service}")) == []


def nameless(paths: list[Path]) -> list[str]:
    """The places where a FailedPreconditionError is created without a reason."""
    return [
        f"{path.name}:{call.lineno}"
        for path in paths
        for call in calls(path, "FailedPreconditionError")
        if reason_of(call, PLACES["FailedPreconditionError"]) is None
    ]


def test_error_without_a_reason_is_caught(tmp_path: Path) -> None:
    path = tmp_path / "planted.py"
    path.write_text('raise errors.FailedPreconditionError("a plan", "is wrong")\n', encoding="utf-8")
    assert nameless([path]) == ["planted.py:1"]
