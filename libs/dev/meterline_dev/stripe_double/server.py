"""The double served over HTTP on the loopback interface, in this thread or in one of its own."""

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from .app import create_app
from .settings import DoubleSettings

HOST = "127.0.0.1"


class AbortableProtocol(H11Protocol):
    """Lets a handler cut its connection without a byte: how a call that timed out looks to the caller."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.app_state = {**self.app_state, "abort": transport.abort}


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_ready()


class DoubleServer:
    """One double on one port (0 chooses a free one). The port is bound, and known, from the start."""

    def __init__(self, db: str = ":memory:", port: int = 0, settings: DoubleSettings | None = None) -> None:
        self._db = db
        self._settings = settings or DoubleSettings()
        # The protocol is named because asyncio turns Nagle's delay off only where it is; with 0 (any),
        # every answer would wait 40 ms for the caller's delayed acknowledgement.
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind((HOST, port))
        self._server: _Server | None = None

    @property
    def address(self) -> str:
        """`http://127.0.0.1:<port>`: what the library takes as its api base."""
        return f"http://{HOST}:{self._socket.getsockname()[1]}"

    def run(self, on_ready: Callable[[], None]) -> None:
        """Serve until `stop` or a signal; `on_ready` is called once connections are accepted."""
        config = uvicorn.Config(
            create_app(self._db, self._settings),
            http=AbortableProtocol,
            loop="asyncio",
            lifespan="on",
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=1,
        )
        self._server = _Server(config, on_ready)
        self._server.run(sockets=[self._socket])

    def stop(self) -> None:
        """Ask a running server to end; harmless before and after."""
        if self._server is not None:
            self._server.should_exit = True


@dataclass(frozen=True, slots=True)
class RunningDouble:
    """A double that serves in a thread of this process."""

    address: str
    db: str


@contextmanager
def running_double(
    db: str = ":memory:", *, port: int = 0, settings: DoubleSettings | None = None
) -> Iterator[RunningDouble]:
    """A double in a thread, ready on entry and gone on exit. RuntimeError if it does not come up."""
    server = DoubleServer(db, port, settings)
    ready = threading.Event()

    def serve() -> None:
        try:
            server.run(ready.set)
        finally:
            ready.set()

    thread = threading.Thread(target=serve, name="stripe-double", daemon=True)
    thread.start()
    ready.wait()
    if not thread.is_alive():
        raise RuntimeError("the Stripe double did not start")
    try:
        yield RunningDouble(server.address, db)
    finally:
        server.stop()
        thread.join()
