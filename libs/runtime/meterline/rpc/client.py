"""Channels to other services: token, trace context and deadline go along with every call."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc
from google.rpc import error_details_pb2
from grpc import aio
from grpc_status import rpc_status

from meterline.deadline import time_left
from meterline.errors import InvalidArgumentError, UnavailableError
from meterline.telemetry import propagation

T = TypeVar("T")

# Retries happen in one layer only, and this is it for calls between services. All of them may be repeated.
_SERVICE_CONFIG = """{"methodConfig": [{"name": [{}], "retryPolicy": {"maxAttempts": 4,
 "initialBackoff": "0.05s", "maxBackoff": "1s", "backoffMultiplier": 2,
 "retryableStatusCodes": ["UNAVAILABLE"]}}]}"""


@dataclass(frozen=True, slots=True)
class Caller:
    """How a service presents itself: `token` answers one that is valid now. None: no token, plain text."""

    token: Callable[[], str] | None = None
    credentials: grpc.ChannelCredentials | None = None


class _Forward(aio.UnaryUnaryClientInterceptor):
    """Adds the token, the trace context, and the caller's deadline when none is set."""

    def __init__(self, default_timeout: float, token: Callable[[], str] | None) -> None:
        self._default_timeout = default_timeout
        self._token = token

    async def intercept_unary_unary(
        self, continuation: Callable[..., Any], details: aio.ClientCallDetails, request: Any
    ) -> Any:
        metadata = aio.Metadata(*(details.metadata or ()))
        for key, value in propagation.inject({}).items():
            metadata.add(key, value)
        if self._token is not None:
            metadata.add("authorization", f"Bearer {self._token()}")
        left = time_left.get()
        caller = left() if left else None
        timeout = details.timeout or min(self._default_timeout, caller or self._default_timeout)
        return await continuation(
            aio.ClientCallDetails(
                details.method, timeout, metadata, details.credentials, details.wait_for_ready
            ),
            request,
        )


def channel(address: str, caller: Caller, *, default_timeout: float = 10.0) -> aio.Channel:
    """A channel for calls that may be repeated. Create it after fork, inside the event loop."""
    options: list[tuple[str, Any]] = [
        ("grpc.service_config", _SERVICE_CONFIG),
        ("grpc.max_receive_message_length", 64 << 20),
        ("grpc.keepalive_time_ms", 30_000),
    ]
    interceptors: list[aio.ClientInterceptor] = [_Forward(default_timeout, caller.token)]
    if caller.credentials is None:
        return aio.insecure_channel(address, options=options, interceptors=interceptors)
    return aio.secure_channel(address, caller.credentials, options=options, interceptors=interceptors)


class Link:
    """A channel to another service as a part of this one: closed when this one stops."""

    def __init__(self, name: str, address: str, caller: Caller) -> None:
        """`address` is host:port; when it is empty, every question fails as UNAVAILABLE."""
        self.name = name
        self._channel = channel(address, caller) if address else None

    @property
    def channel(self) -> aio.Channel:
        """Raises UnavailableError."""
        if self._channel is None:
            raise UnavailableError(f"no address of {self.name} is configured")
        return self._channel

    async def start(self) -> None:
        """Does nothing: a channel connects when it is first used."""

    async def stop(self) -> None:
        if self._channel is not None:
            await self._channel.close()

    async def ask(self, call: Awaitable[T]) -> T:
        """Raises UnavailableError."""
        try:
            return await call
        except aio.AioRpcError as error:
            raise as_unavailable(self.name, error) from error


def as_unavailable(what: str, error: aio.AioRpcError) -> UnavailableError:
    """What a failed call to another service means to our own caller."""
    return UnavailableError(f"{what}: {error.code().name} {error.details()}")


def as_invalid(error: aio.AioRpcError, fields: Collection[str]) -> InvalidArgumentError | None:
    """What our own caller did wrong, when a call to another service failed for one of `fields`, which were
    handed on as they came; None when it failed for anything else."""
    if error.code() is not grpc.StatusCode.INVALID_ARGUMENT:
        return None
    status = rpc_status.from_call(error)  # type: ignore[arg-type]
    for detail in status.details if status else ():
        request = error_details_pb2.BadRequest()
        if detail.Unpack(request):
            for violation in request.field_violations:
                if violation.field in fields:
                    return InvalidArgumentError(violation.field, violation.description, violation.reason)
    return None


def is_not_found(error: aio.AioRpcError) -> bool:
    return error.code() == grpc.StatusCode.NOT_FOUND
