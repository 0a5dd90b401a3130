"""Methods whose requests are not read by the generated code."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Reader = Callable[[bytes], Any]
"""Makes of bytes what the handler gets. Raises InvalidArgumentError for what it does not take."""


Add = Callable[[Any, Any], None]
"""A generated function that registers a servicer with a server."""


def with_readers(add: Add, readers: Mapping[str, Reader]) -> Add:
    """`add`, with other readers for some methods, by their names."""

    def register(servicer: Any, server: Any) -> None:
        add(servicer, _WithReaders(server, readers))

    return register


class _WithReaders:
    """Hands handlers on to a server, with other deserializers."""

    def __init__(self, server: Any, readers: Mapping[str, Reader]) -> None:
        self._server = server
        self._readers = readers

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        """Not needed: see `meterline.rpc.server`."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        read = {
            name: handler._replace(request_deserializer=self._readers.get(name, handler.request_deserializer))
            for name, handler in handlers.items()
        }
        self._server.add_registered_method_handlers(service, read)
