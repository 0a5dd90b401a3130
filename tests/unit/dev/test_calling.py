"""`meterline call`: finding the method by its name, and selecting a part of the answer."""

from __future__ import annotations

from pathlib import Path

import pytest
from meterline_dev.calling import CallError, call, find_method, pick
from meterline_dev.placement import Placement

pytestmark = pytest.mark.req("X4")

PLACEMENT = Placement(Path(), {"identity": "127.0.0.1:1"}, "http://127.0.0.1:1")


@pytest.mark.parametrize(
    ("package", "method", "full_name"),
    [
        ("identity.v1", "OnboardTenant", "meterline.identity.v1.TenantsService.OnboardTenant"),
        ("ingest.v1", "Report", "meterline.ingest.v1.CaptureService.Report"),
        (
            "operations.v1",
            "ListDeadLetters",
            "meterline.operations.v1.DeadLettersService.ListDeadLetters",
        ),
        (
            "ingest.v1.QuarantineService",
            "ReplayQuarantined",
            "meterline.ingest.v1.QuarantineService.ReplayQuarantined",
        ),
    ],
)
def test_method_is_found_by_name(package: str, method: str, full_name: str) -> None:
    assert find_method(package, method).full_name == full_name


def test_unknown_name_is_refused_with_the_existing_names() -> None:
    with pytest.raises(CallError, match=r"no method 'Onboard' in identity\.v1; there are BatchGetTenants, "):
        find_method("identity.v1", "Onboard")
    with pytest.raises(CallError, match="no service 'billing'; there are identity"):
        next(call(PLACEMENT, "billing", "GetTenant", "{}", ""))
    with pytest.raises(CallError, match=r"no GetTenantRequest: .*tenant"):
        next(call(PLACEMENT, "identity", "GetTenant", '{"tenant": "acme"}', ""))


@pytest.mark.parametrize(
    ("path", "part"),
    [("id", "a b"), ("lines.1.id", "2"), ("lines.0", '{"id": "1"}'), ("ok", "true"), ("lines.1.of.x", "ü")],
)
def test_part_of_an_answer_is_selected(path: str, part: str) -> None:
    answer = '{"id": "a b", "ok": true, "lines": [{"id": "1"}, {"id": "2", "of": {"x": "ü"}}]}'
    assert pick(answer, path) == part


@pytest.mark.parametrize("path", ["", "lines.2", "lines.x", "id.x", "nothing"])
def test_missing_part_of_an_answer_is_refused(path: str) -> None:
    with pytest.raises(CallError, match="in the answer"):
        pick('{"id": "a", "lines": [1, 2]}', path)


def test_error_without_a_mesh_explains_how_to_start_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no mesh in .*; this starts one: make run"):
        Placement.read(tmp_path)
    placed = Placement(tmp_path, {"ingest": "127.0.0.1:7"}, "http://127.0.0.1:8")
    placed.write()
    assert Placement.read(tmp_path) == placed
