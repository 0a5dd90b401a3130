"""Named queries are loaded unchanged from their file."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from meterline.db.queries import Queries

pytestmark = pytest.mark.req("K3")

NAMES = st.from_regex(r"[a-z][a-z_0-9]{0,20}", fullmatch=True).filter(lambda name: name != "items")
# Any line except one that begins the next query.
BODIES = st.text(st.characters(codec="utf-8", exclude_characters="\r")).filter(
    lambda body: "-- name:" not in body
)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delitem(sys.modules, "some_service", raising=False)
    folder = tmp_path / "some_service"
    folder.mkdir()
    (folder / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    return folder


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(expected=st.dictionaries(NAMES, BODIES))
def test_query_is_found_by_its_name(package: Path, expected: dict[str, str]) -> None:
    text = "".join(f"-- name: {name}\n{body}\n" for name, body in expected.items())
    (package / "queries.sql").write_bytes(f"-- What this file is.\n{text}".encode())
    queries = Queries("some_service")
    assert queries.items() == {name: body.strip() for name, body in expected.items()}
    assert all(getattr(queries, name) == body.strip() for name, body in expected.items())


def test_unknown_query_is_refused_with_name_and_file(package: Path) -> None:
    (package / "queries.sql").write_text("-- name: one\nSELECT 1\n")
    with pytest.raises(AttributeError, match=r"some_service/queries.sql has no query 'two'"):
        _ = Queries("some_service").two


def test_duplicate_query_name_is_refused(package: Path) -> None:
    (package / "queries.sql").write_text("-- name: one\nSELECT 1\n-- name: one\nSELECT 2\n")
    with pytest.raises(ValueError, match="a name occurs twice"):
        Queries("some_service")
