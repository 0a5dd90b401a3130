"""Details of a failed call are read from its trailers; malformed details are ignored."""

from typing import Any, cast

import grpc
import pytest
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from hypothesis import given, settings
from hypothesis import strategies as st
from meterline_client.retry import Failure
from meterline_client.status import to_failure


class Call:
    """An ended call."""

    def __init__(self, code: grpc.StatusCode, trailer: bytes | None) -> None:
        self._code = code
        self._trailer = trailer

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return "said so"

    def trailing_metadata(self) -> list[tuple[str, Any]] | None:
        return None if self._trailer is None else [("x", "y"), ("grpc-status-details-bin", self._trailer)]


def failure(code: grpc.StatusCode, trailer: bytes | None) -> Failure:
    return to_failure(cast("grpc.Call", Call(code, trailer)))


def trailer(*details: Message) -> bytes:
    packed = [any_pb2.Any() for _ in details]
    for one, detail in zip(packed, details, strict=True):
        one.Pack(detail)
    return bytes(status_pb2.Status(code=8, message="said so", details=packed).SerializeToString())


@pytest.mark.req("T1.1", "T2.4")
def test_retry_delay_is_read() -> None:
    info = error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=2, nanos=500_000_000))
    other = error_details_pb2.ErrorInfo(reason="OVERLOADED", domain="meterline")

    found = failure(grpc.StatusCode.RESOURCE_EXHAUSTED, trailer(other, info))

    assert found == Failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "said so", retry_after=2.5)


@pytest.mark.req("T1.1")
def test_field_and_rule_are_read() -> None:
    violation = error_details_pb2.BadRequest.FieldViolation(
        field="columns.types", description="at most 64 characters", reason="TOO_LONG"
    )
    request = error_details_pb2.BadRequest(field_violations=[violation])

    found = failure(grpc.StatusCode.INVALID_ARGUMENT, trailer(request))

    assert found == Failure(
        grpc.StatusCode.INVALID_ARGUMENT,
        "at most 64 characters",
        field="columns.types",
        reason="TOO_LONG",
    )


@pytest.mark.req("T7.1")
@settings(deadline=None)
@given(st.one_of(st.none(), st.binary(max_size=60)))
def test_malformed_details_are_ignored(raw: bytes | None) -> None:
    found = failure(grpc.StatusCode.UNAVAILABLE, raw)

    assert (found.code, found.message) == (grpc.StatusCode.UNAVAILABLE, "said so")
