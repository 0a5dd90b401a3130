"""One call to a service of a mesh on this machine: JSON in, JSON out. Behind `meterline call`."""

from __future__ import annotations

import json
import pkgutil
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, Final, cast

import grpc
import meterline_protos
from google.protobuf import descriptor_pool, json_format, message_factory
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from meterline_dev.channels import metadata
from meterline_dev.placement import Placement

_SECONDS: Final = 30.0
# Details of a refusal are read by their names: these are all that services send.
_DETAILS: Final = error_details_pb2.DESCRIPTOR.pool


class CallError(Exception):
    """What is wrong with a call, in words for the person who made it."""


def call(placement: Placement, service: str, method: str, body: str, token: str) -> Iterator[str]:
    """The answers to a request, each as JSON; one unless the method streams them.

    service: for instance `identity`, whose methods are those of `meterline.identity.v1`. Methods that all
        services have need their package: `ingest/operations.v1`
    body: the request as JSON, with names as in the protos or in camel case

    Raises CallError for a service, method or request that does not exist, and for a refusal.
    """
    address, _, package = service.partition("/")
    if address not in placement.addresses:
        raise CallError(f"no service {address!r}; there are {', '.join(placement.addresses)}")
    found = find_method(package or f"{address}.v1", method)
    if found.client_streaming:
        raise CallError(f"{method} takes a stream of requests, which is for programs")
    request = _request(found, body)
    path = f"/{found.containing_service.full_name}/{found.name}"
    answer_class = message_factory.GetMessageClass(found.output_type)
    with grpc.insecure_channel(placement.addresses[address]) as channel:
        # A unary answer can be read as a stream of one.
        ask = channel.unary_stream(path, _serialized, answer_class.FromString)
        try:
            for each in ask(request, metadata=metadata(token), timeout=_SECONDS, wait_for_ready=True):
                yield json_format.MessageToJson(each, preserving_proto_field_name=True, ensure_ascii=False)
        except grpc.RpcError as error:
            raise CallError(_refusal(error)) from error


def find_method(package: str, method: str) -> MethodDescriptor:
    """The method of this name in `meterline.<package>`, which may name a service too. Raises CallError."""
    services = [
        each
        for each in _services(package)
        if each.full_name == f"meterline.{package}" or each.file.package == f"meterline.{package}"
    ]
    methods = [each.methods_by_name[method] for each in services if method in each.methods_by_name]
    if len(methods) == 1:
        return methods[0]
    if methods:
        raise CallError(f"more than one: {', '.join(sorted(each.full_name for each in methods))}")
    known = sorted(each.name for service in services for each in service.methods)
    raise CallError(f"no method {method!r} in {package}; there are {', '.join(known) or 'none'}")


def pick(answer: str, path: str) -> str:
    """The part of an answer at a path such as `lines.0.line_id`; texts without quotes. Raises CallError."""
    found: Any = json.loads(answer)
    for step in path.split("."):
        try:
            found = found[int(step)] if isinstance(found, list) else found[step]
        except (KeyError, IndexError, ValueError, TypeError) as error:
            raise CallError(f"no {path!r} in the answer: {answer}") from error
    return found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)


def _services(package: str) -> list[ServiceDescriptor]:
    """The services of `package`, and of packages that contain it. Stubs of others are not imported."""
    pool = descriptor_pool.Default()
    found: list[ServiceDescriptor] = []
    root = Path(meterline_protos.__path__[0])
    for module in pkgutil.walk_packages(meterline_protos.__path__, f"{meterline_protos.__name__}."):
        parent = module.name.rpartition(".")[0]
        if not module.name.endswith("_pb2") or not f"{root.name}.{package}.".startswith(f"{parent}."):
            continue
        import_module(module.name)
        relative = module.name.removeprefix(f"{meterline_protos.__name__}.").removesuffix("_pb2")
        file = pool.FindFileByName(f"{root.name.removesuffix('_protos')}/{relative.replace('.', '/')}.proto")
        found += file.services_by_name.values()
    return found


def _request(method: MethodDescriptor, body: str) -> Message:
    request = message_factory.GetMessageClass(method.input_type)()
    try:
        return json_format.Parse(body or "{}", request)
    except json_format.ParseError as error:
        raise CallError(f"no {method.input_type.name}: {error}") from error


def _serialized(message: Message) -> bytes:
    return message.SerializeToString()


def _refusal(error: grpc.RpcError) -> str:
    """Status and text, and the details below."""
    # Every failure of a call is the call, which the type does not say.
    status = rpc_status.from_call(cast("grpc.Call", error))
    code, text = error.code().name, error.details()
    if status is None:
        return f"{code}: {text}"
    details = json_format.MessageToJson(status, preserving_proto_field_name=True, descriptor_pool=_DETAILS)
    return f"{code}: {text}\n{details}"
