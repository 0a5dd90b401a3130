"""A gRPC server with authentication, health per service, reflection, tracing, deadlines and rich errors.

Handlers are wrapped once, when they are registered, and not by interceptors, which are built again for
every call.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

import grpc
from grpc import aio
from grpc_health.v1 import health, health_pb2

from meterline.auth.gate import Gate
from meterline.rpc.calls import Methods
from meterline.rpc.doors import Bounds, Doors
from meterline.rpc.library_services import add_library_services
from meterline.rpc.readers import Reader, with_readers

MAX_MESSAGE_BYTES = 4 << 20

Servicer = tuple[str, Callable[[Any, Any], None], object]


def service(
    module: ModuleType, name: str, servicer: object, readers: Mapping[str, Reader] | None = None
) -> Servicer:
    """A servicer as the server takes it. `module` is the generated one that describes the service; `readers`
    read the requests of some methods, by their names, in place of the generated code."""
    add = getattr(importlib.import_module(f"{module.__name__}_grpc"), f"add_{name}Servicer_to_server")
    if readers:
        add = with_readers(add, readers)
    return module.DESCRIPTOR.services_by_name[name].full_name, add, servicer


class Server:
    """`servicers` are (full service name, generated add function, servicer).

    Their calls pass `gate`; health and reflection are open to everybody. `bounds` say how much callers may
    take. Without `credentials` all of it is plain text.
    """

    def __init__(
        self,
        host: str,
        port: int,
        servicers: Sequence[Servicer],
        *,
        gate: Gate,
        bounds: Bounds | None = None,
        credentials: grpc.ServerCredentials | None = None,
        drain: float = 0.0,
        grace: float = 10.0,
    ) -> None:
        self._host = host
        self._port = port
        self._servicers = servicers
        self._gate = gate
        self.doors = Doors(bounds or Bounds())
        self._credentials = credentials
        self._drain = drain
        self._grace = grace
        self._server: aio.Server | None = None
        self._health = health.aio.HealthServicer()
        self.address = ""

    async def start(self) -> None:
        """Binds; raises OSError when the port is taken. Health is NOT_SERVING until `serve`."""
        if self._server is not None:
            return
        server = aio.server(
            options=[
                # Else a second server would bind the same port, silently.
                ("grpc.so_reuseport", 0),
                ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES + (64 << 10)),
                ("grpc.max_send_message_length", 64 << 20),
                *self.doors.bounds.options(),
            ]
        )
        methods = Methods(self._gate, self.doors)
        for _, add, servicer in self._servicers:
            add(servicer, methods)
        server.add_generic_rpc_handlers((methods,))
        names = [name for name, _, _ in self._servicers]
        add_library_services(server, self._health, names, self.doors)
        try:
            port = self._bind(server, f"{self._host}:{self._port}")
        except RuntimeError as error:
            raise OSError(f"cannot bind {self._host}:{self._port}") from error
        self.address = f"{self._host}:{port}"
        await self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        await server.start()
        self._server = server

    def _bind(self, server: aio.Server, address: str) -> int:
        if self._credentials is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, self._credentials)

    async def serve(self) -> None:
        """Everything behind the server is up: answers SERVING."""
        await self._set_health(health_pb2.HealthCheckResponse.SERVING)

    async def stop(self) -> None:
        """NOT_SERVING, wait for load balancers, then finish the calls under way."""
        server, self._server = self._server, None
        if server is None:
            return
        await self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        await asyncio.sleep(self._drain)
        await server.stop(self._grace)

    async def _set_health(self, status: Any) -> None:
        for name in ("", *(name for name, _, _ in self._servicers)):
            await self._health.set(name, status)
