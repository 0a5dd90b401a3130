"""A signed call is confined to the scope of its configuration, in both rows and columns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from meterline.errors import InvalidArgumentError
from meterline_identity.credentials.rules.capture_configs import MAX_TYPES, Scope
from meterline_ingest.capture.parse import wire
from meterline_ingest.capture.signed_calls import confine
from meterline_protos.identity.v1 import credentials_pb2
from meterline_protos.ingest.v1 import capture_pb2

from tests.support.capture import Sample, columns, rows

pytestmark = pytest.mark.req("T1.4")

Form = Callable[..., capture_pb2.ReportRequest]
both_forms = pytest.mark.parametrize("form", [rows, columns])

CONFIG = credentials_pb2.CaptureConfig(tenant_id="acme", types=["click", "view"], source="web")
OF_ANN = credentials_pb2.CaptureConfig(tenant_id="acme", actor="ann", types=["click"], source="web")
CLICK = Sample(type="click", subject="ann")


def body_of(request: capture_pb2.ReportRequest) -> Any:
    return wire.ReportRequest.FromString(request.SerializeToString())


def reason(request: capture_pb2.ReportRequest, config: credentials_pb2.CaptureConfig = CONFIG) -> str:
    try:
        confine(body_of(request), config)
    except InvalidArgumentError as error:
        return error.reason
    return ""


@both_forms
@pytest.mark.parametrize("named", ["", "acme"])
@pytest.mark.parametrize("source", ["", "web"])
def test_call_may_omit_fields_fixed_by_the_configuration(form: Form, named: str, source: str) -> None:
    request = form(CLICK, replace(CLICK, type="view"), tenant_id=named or "acme", source=source)
    request.tenant_id = named
    body = body_of(request)
    confine(body, CONFIG)
    assert (body.tenant_id, body.source) == ("acme", "web")


@both_forms
@pytest.mark.parametrize(
    ("more", "sample", "expected"),
    [
        ({"tenant_id": "bolt"}, CLICK, "TENANT_OUT_OF_SCOPE"),
        ({"source": "gateway"}, CLICK, "SOURCE_OUT_OF_SCOPE"),
        ({}, replace(CLICK, type="payment"), "TYPE_OUT_OF_SCOPE"),
        ({}, replace(CLICK, type=""), "TYPE_OUT_OF_SCOPE"),
        ({}, replace(CLICK, tenant_id="bolt"), "TENANT_OUT_OF_SCOPE"),
    ],
)
def test_call_out_of_scope_is_refused(
    form: Form, more: dict[str, str], sample: Sample, expected: str
) -> None:
    assert reason(form(CLICK, sample, **({"source": "web"} | more))) == expected


@both_forms
def test_actor_becomes_the_subject_of_all_events(form: Form) -> None:
    request = form(CLICK, replace(CLICK, subject=""), source="web")
    body = body_of(request)
    confine(body, OF_ANN)
    if body.HasField("rows"):
        assert [event.subject for event in body.rows.events] == ["ann", "ann"]
    else:
        assert set(body.columns.subjects) == {"ann"}
        assert len(body.columns.subjects) == 2
    assert reason(form(replace(CLICK, subject="bob"), source="web"), OF_ANN) == "SUBJECT_OUT_OF_SCOPE"
    assert reason(form(replace(CLICK, subject="bob"), source="web"), CONFIG) == ""


def test_columns_without_subjects_get_the_actor_as_subject() -> None:
    request = columns(CLICK, source="web")
    del request.columns.subjects[:]
    body = body_of(request)
    confine(body, OF_ANN)
    assert list(body.columns.subjects) == ["ann"]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"actor": "a" * 257}, "actor"),
        ({"actor": "a\0"}, "actor"),
        ({"types": ()}, "types"),
        ({"types": ("click", "click")}, "types"),
        ({"types": ("a b",)}, "types"),
        ({"types": tuple(f"t{at}" for at in range(MAX_TYPES + 1))}, "types"),
        ({"source": ""}, "source"),
        ({"source": "s" * 129}, "source"),
        ({"lifetime_seconds": 0}, "lifetime_seconds"),
        ({"lifetime_seconds": 7 * 86_400 + 1}, "lifetime_seconds"),
    ],
)
def test_invalid_scope_is_refused(change: dict[str, Any], field: str) -> None:
    scope = Scope("a" * 256, ("click",), "s" * 128, 7 * 86_400)
    with pytest.raises(InvalidArgumentError) as caught:
        replace(scope, **change)
    assert caught.value.field == field
