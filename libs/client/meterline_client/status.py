"""The standard error details (google.rpc) of a failed call.

Their messages come with packages that an application may hold in any version, or not at all; three small
ones are needed, so they are described here, in a descriptor pool of their own where they meet no others.
"""

from __future__ import annotations

from typing import Any, Final

import grpc
from google.protobuf import any_pb2, descriptor_pb2, descriptor_pool, duration_pb2, message_factory
from google.protobuf.message import DecodeError

from meterline_client.retry import Failure

_TRAILER = "grpc-status-details-bin"

_Field = descriptor_pb2.FieldDescriptorProto


def _field(number: int, name: str, kind: Any, type_name: str = "", repeated: bool = False) -> Any:
    label = _Field.LABEL_REPEATED if repeated else _Field.LABEL_OPTIONAL
    return _Field(name=name, number=number, type=kind, label=label, type_name=type_name or None)


def _messages() -> dict[str, Any]:
    message = descriptor_pb2.DescriptorProto
    violation = message(
        name="FieldViolation",
        field=[
            _field(1, "field", _Field.TYPE_STRING),
            _field(2, "description", _Field.TYPE_STRING),
            _field(3, "reason", _Field.TYPE_STRING),
        ],
    )
    violations = _field(
        1, "field_violations", _Field.TYPE_MESSAGE, ".google.rpc.BadRequest.FieldViolation", repeated=True
    )
    file = descriptor_pb2.FileDescriptorProto(
        name="meterline_client/status.proto",
        package="google.rpc",
        syntax="proto3",
        dependency=["google/protobuf/any.proto", "google/protobuf/duration.proto"],
        message_type=[
            message(
                name="Status",
                field=[
                    _field(1, "code", _Field.TYPE_INT32),
                    _field(2, "message", _Field.TYPE_STRING),
                    _field(3, "details", _Field.TYPE_MESSAGE, ".google.protobuf.Any", repeated=True),
                ],
            ),
            message(
                name="RetryInfo",
                field=[_field(1, "retry_delay", _Field.TYPE_MESSAGE, ".google.protobuf.Duration")],
            ),
            message(name="BadRequest", field=[violations], nested_type=[violation]),
        ],
    )
    pool = descriptor_pool.DescriptorPool()
    for module in (any_pb2, duration_pb2):
        pool.AddSerializedFile(module.DESCRIPTOR.serialized_pb)
    pool.AddSerializedFile(file.SerializeToString())
    names = [one.name for one in file.message_type]
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"google.rpc.{name}"))
        for name in names
    }


_MESSAGES: Final = _messages()


def to_failure(call: grpc.Call) -> Failure:
    """A failed call with all that the server said about it. Details that cannot be read are left out."""
    failure = Failure(call.code(), call.details() or "")
    raw = next((value for key, value in call.trailing_metadata() or () if key == _TRAILER), None)
    if not isinstance(raw, bytes):
        return failure
    try:
        return _with_details(failure, raw)
    except DecodeError:
        return failure


def _with_details(failure: Failure, raw: bytes) -> Failure:
    retry_after, field, reason, message = None, "", "", failure.message
    for detail in _MESSAGES["Status"].FromString(raw).details:
        kind = detail.type_url.rpartition(".")[2]
        if kind == "RetryInfo":
            delay = _MESSAGES["RetryInfo"].FromString(detail.value).retry_delay
            retry_after = delay.seconds + delay.nanos / 1e9
        elif kind == "BadRequest":
            for violation in _MESSAGES["BadRequest"].FromString(detail.value).field_violations[:1]:
                field, reason = violation.field, violation.reason
                message = violation.description or message
    return Failure(failure.code, message, retry_after, field, reason)
