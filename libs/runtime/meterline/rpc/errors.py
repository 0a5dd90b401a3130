"""Failures as gRPC statuses with the standard details (google.rpc.BadRequest, RetryInfo, …)."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Any

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc import aio
from grpc_status import rpc_status

from meterline import errors

DOMAIN = "meterline"

# A status travels in metadata, of which clients accept 8 KiB by default; of a larger one they see neither
# code nor text. A character outside ASCII takes up to 12 bytes in the message and 6 in the details.
_LONGEST = 256
_MOST_VIOLATIONS = 8


def to_status(error: errors.MeterlineError) -> status_pb2.Status:
    """The status a caller gets. It contains only the error's own text, of which long parts are cut."""
    match error:
        case errors.InvalidArgumentError():
            violation = error_details_pb2.BadRequest.FieldViolation(
                field=_cut(error.field), description=_cut(error.rule), reason=error.reason
            )
            return _status(
                code_pb2.INVALID_ARGUMENT, error, error_details_pb2.BadRequest(field_violations=[violation])
            )
        case errors.UnauthenticatedError():
            return _status(code_pb2.UNAUTHENTICATED, error, metadata=error.details)
        case errors.PermissionDeniedError():
            return _status(code_pb2.PERMISSION_DENIED, error)
        case errors.NotFoundError():
            return _status(code_pb2.NOT_FOUND, error, _resource(error.kind, error.name))
        case errors.AlreadyExistsError():
            return _status(code_pb2.ALREADY_EXISTS, error, _resource(error.kind, error.name))
        case errors.FailedPreconditionError():
            violation = error_details_pb2.PreconditionFailure.Violation(
                type=error.reason, subject=_cut(error.subject), description=_cut(error.rule)
            )
            return _status(
                code_pb2.FAILED_PRECONDITION,
                error,
                error_details_pb2.PreconditionFailure(violations=[violation]),
            )
        case errors.TamperedError():
            return _status(code_pb2.DATA_LOSS, error)
        case errors.AbortedError():
            wait = [] if error.retry_after is None else [_retry(error.retry_after)]
            return _status(code_pb2.ABORTED, error, *wait)
        case errors.OverloadedError():
            return _status(code_pb2.RESOURCE_EXHAUSTED, error, _retry(error.retry_after))
        case errors.QuotaError():
            return _status(
                code_pb2.RESOURCE_EXHAUSTED, error, _quota(error.violations), _retry(error.retry_after)
            )
        case errors.UnavailableError() | errors.RetryLater():
            return _status(code_pb2.UNAVAILABLE, error, _retry(0.5))
        case _:
            return _status(code_pb2.INTERNAL, error)


async def abort(context: aio.ServicerContext[Any, Any], status: status_pb2.Status) -> None:
    """Ends a call with this status, details included. Raises grpc.aio.AbortError, as the library wants it."""
    rich = rpc_status.to_status(status)
    await context.abort(rich.code, rich.details, rich.trailing_metadata)


def _status(
    code: int,
    error: errors.MeterlineError,
    *details: Message,
    metadata: Mapping[str, str] | None = None,
) -> status_pb2.Status:
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=metadata)
    return status_pb2.Status(
        code=code, message=_cut(str(error)), details=[_packed(detail) for detail in (info, *details)]
    )


def _packed(detail: Message) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(detail)
    return packed


def _resource(kind: str, name: str) -> error_details_pb2.ResourceInfo:
    return error_details_pb2.ResourceInfo(resource_type=kind, resource_name=_cut(name))


def _quota(violations: Mapping[str, str]) -> error_details_pb2.QuotaFailure:
    return error_details_pb2.QuotaFailure(
        violations=[
            error_details_pb2.QuotaFailure.Violation(subject=subject, description=limit)
            for subject, limit in islice(violations.items(), _MOST_VIOLATIONS)
        ]
    )


def _cut(text: str) -> str:
    """What was sent may be quoted, and be of any length."""
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}\N{HORIZONTAL ELLIPSIS}"


def _retry(seconds: float) -> error_details_pb2.RetryInfo:
    nanos = int(seconds * 1e9)
    delay = duration_pb2.Duration(seconds=nanos // 1_000_000_000, nanos=nanos % 1_000_000_000)
    return error_details_pb2.RetryInfo(retry_delay=delay)


STATUS_CODES = {code.value[0]: code for code in grpc.StatusCode}
