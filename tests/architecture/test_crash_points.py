"""The crash points in the code equal those in the list, so that fault tests can kill at each of them."""

from __future__ import annotations

import ast
from collections import Counter

import pytest
from meterline import crashpoints

from tests.architecture.tree import ROOT, calls, name_of, sources

pytestmark = pytest.mark.req("T7.3", "X7")

DEFINED = ROOT / "libs/runtime/meterline/crashpoints.py"


def test_crash_points_in_the_code_equal_the_list() -> None:
    found: Counter[str] = Counter()
    computed = []
    for path in sources("libs", "services"):
        for call in calls(path, "crash_point"):
            if isinstance(call.args[0], ast.Constant):
                found[str(call.args[0].value)] += 1
            else:
                computed.append(f"{name_of(path)}:{call.lineno}")
    assert computed == [], "a crash point needs a literal name"
    assert len(set(crashpoints.ALL)) == len(crashpoints.ALL)
    assert found == Counter(crashpoints.ALL)
