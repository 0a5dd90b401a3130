"""Crash points: those in the code are those in the list, so that a fault test can kill at every one."""

from __future__ import annotations

import ast
from collections import Counter

import pytest
from meterline import crashpoints

from tests.architecture.tree import ROOT, calls, name_of, sources

pytestmark = pytest.mark.req("T7.3", "X7")

DEFINED = ROOT / "libs/runtime/meterline/crashpoints.py"


def test_the_code_has_exactly_the_points_of_the_list() -> None:
    found: Counter[str] = Counter()
    computed = []
    for path in sources("libs", "services"):
        for call in calls(path, "crash_point"):
            if isinstance(call.args[0], ast.Constant):
                found[str(call.args[0].value)] += 1
            else:
                computed.append(f"{name_of(path)}:{call.lineno}")
    assert computed == [], "a point has a literal name, so that it can be found"
    assert len(set(crashpoints.ALL)) == len(crashpoints.ALL)
    assert found == Counter(crashpoints.ALL)
