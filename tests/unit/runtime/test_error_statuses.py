"""Failures become statuses with the standard details, so that callers need not read texts."""

from __future__ import annotations

import base64
from typing import TypeVar
from urllib.parse import quote

import grpc
import pytest
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from hypothesis import given
from hypothesis import strategies as st
from meterline import errors
from meterline.rpc.errors import DOMAIN, STATUS_CODES, to_status

pytestmark = pytest.mark.req("K2")

M = TypeVar("M", bound=Message)


def detail(status: status_pb2.Status, kind: type[M]) -> M:
    """The one detail of this kind."""
    found = []
    for packed in status.details:
        message = kind()
        if packed.Unpack(message):
            found.append(message)
    (only,) = found
    return only


@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [
        (
            errors.InvalidArgumentError("plan", "must not be empty"),
            code_pb2.INVALID_ARGUMENT,
            "INVALID_ARGUMENT",
        ),
        (errors.NotFoundError("tenant", "acme"), code_pb2.NOT_FOUND, "NOT_FOUND"),
        (errors.AlreadyExistsError("tenant", "acme", "other"), code_pb2.ALREADY_EXISTS, "ALREADY_EXISTS"),
        (
            errors.FailedPreconditionError("invoice", "open"),
            code_pb2.FAILED_PRECONDITION,
            "FAILED_PRECONDITION",
        ),
        (errors.ShreddedError("data", "destroyed"), code_pb2.FAILED_PRECONDITION, "DATA_SHREDDED"),
        (errors.TamperedError("does not fit"), code_pb2.DATA_LOSS, "DATA_TAMPERED"),
        (errors.AbortedError("changed"), code_pb2.ABORTED, "ABORTED"),
        (errors.AbortedError("busy", 1.5), code_pb2.ABORTED, "ABORTED"),
        (errors.OverloadedError("queue", 1.5), code_pb2.RESOURCE_EXHAUSTED, "OVERLOADED"),
        (
            errors.QuotaError({"tenant:acme": "10 a second"}, 1.5),
            code_pb2.RESOURCE_EXHAUSTED,
            "QUOTA_EXCEEDED",
        ),
        (errors.UnavailableError("database"), code_pb2.UNAVAILABLE, "UNAVAILABLE"),
        (errors.RetryLater("not yet"), code_pb2.UNAVAILABLE, "UNAVAILABLE"),
        (errors.MeterlineError("oops"), code_pb2.INTERNAL, "INTERNAL_FAULT"),
    ],
)
def test_every_failure_has_its_code_and_reason(error: errors.MeterlineError, code: int, reason: str) -> None:
    status = to_status(error)
    assert (status.code, status.message) == (code, str(error))
    assert detail(status, error_details_pb2.ErrorInfo) == error_details_pb2.ErrorInfo(
        reason=reason, domain=DOMAIN
    )
    assert STATUS_CODES[status.code].value[0] == code


def test_a_wrong_argument_tells_field_and_rule() -> None:
    status = to_status(errors.InvalidArgumentError("events[3].time", "must not lie ahead", "TIME_RANGE"))
    (violation,) = detail(status, error_details_pb2.BadRequest).field_violations
    assert (violation.field, violation.description, violation.reason) == (
        "events[3].time",
        "must not lie ahead",
        "TIME_RANGE",
    )


@pytest.mark.parametrize(
    "error", [errors.NotFoundError("meter", "miles"), errors.AlreadyExistsError("meter", "miles", "as a sum")]
)
def test_a_thing_is_named_by_kind_and_name(error: errors.MeterlineError) -> None:
    resource = detail(to_status(error), error_details_pb2.ResourceInfo)
    assert (resource.resource_type, resource.resource_name) == ("meter", "miles")


def test_a_state_that_forbids_is_named() -> None:
    status = to_status(errors.FailedPreconditionError("invoice inv-1", "must be open"))
    (violation,) = detail(status, error_details_pb2.PreconditionFailure).violations
    assert (violation.subject, violation.description) == ("invoice inv-1", "must be open")


@pytest.mark.req("T2.4")
@given(st.floats(0, 86_400))
def test_an_overload_tells_when_to_come_back(seconds: float) -> None:
    status = to_status(errors.OverloadedError("queue", seconds))
    delay = detail(status, error_details_pb2.RetryInfo).retry_delay
    assert 0 <= delay.nanos < 1_000_000_000
    assert delay.ToTimedelta().total_seconds() == pytest.approx(seconds, abs=1e-6)


@pytest.mark.req("T4.2")
def test_a_quota_that_is_used_up_names_each_who_is_over_it_and_when_to_come_back() -> None:
    status = to_status(errors.QuotaError({"tenant:acme": "10 a second", "tenant:bolt": "5 a second"}, 0.25))
    violations = detail(status, error_details_pb2.QuotaFailure).violations
    assert {each.subject: each.description for each in violations} == {
        "tenant:acme": "10 a second",
        "tenant:bolt": "5 a second",
    }
    assert detail(status, error_details_pb2.RetryInfo).retry_delay.nanos == 250_000_000


LONG = "\N{GRINNING FACE}" * 5_000


@pytest.mark.parametrize(
    "error",
    [
        errors.InvalidArgumentError(LONG, LONG, "REASON"),
        errors.NotFoundError("tenant", LONG),
        errors.AlreadyExistsError("tenant", LONG, LONG),
        errors.FailedPreconditionError(LONG, LONG),
        errors.AbortedError(LONG),
        errors.QuotaError({f"tenant:{at:063}": "at most 1,000,000,000 a second" for at in range(1_000)}, 1.0),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_failure_that_quotes_much_still_arrives(error: errors.MeterlineError) -> None:
    status = to_status(error)
    # As they travel: the message percent-encoded, the details in base 64. Clients take 8 KiB of metadata.
    travelling = len(quote(status.message)) + len(base64.b64encode(status.SerializeToString()))
    assert travelling < 7_680
    assert STATUS_CODES[status.code] is not grpc.StatusCode.INTERNAL
