"""Code that runs for all tenants at once is listed in one table, with its reason."""

from __future__ import annotations

import re

import pytest

from tests.architecture.tree import ROOT, name_of, names, sources

pytestmark = pytest.mark.req("T4.1")

DEFINED = "libs/runtime/meterline/db/scope.py"
_SECTION = re.compile(r"^## Tenants are kept apart$(.*?)^## ", re.MULTILINE | re.DOTALL)
_PATH = re.compile(r"`((?:libs|services)/[\w/]+\.py)`")


def listed(text: str) -> list[str]:
    section = _SECTION.search(text)
    assert section is not None
    return _PATH.findall(section[1])


def test_code_that_runs_for_all_tenants_is_listed() -> None:
    used = {name_of(path) for path in sources("libs", "services") if "ALL_TENANTS" in names(path)}
    found = listed((ROOT / "docs" / "architecture.md").read_text(encoding="utf-8"))
    assert sorted(found) == sorted(used - {DEFINED})


def test_only_the_table_of_its_section_is_read() -> None:
    text = (
        "`libs/a.py`\n## Tenants are kept apart\n| x | `libs/b.py`, `services/c.py` |\n## Next\n`libs/d.py`"
    )
    assert listed(text) == ["libs/b.py", "services/c.py"]
