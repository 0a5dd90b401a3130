"""A TCP proxy that can drop answers or whole connections."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Self

_CHUNK = 1 << 16


class Proxy:
    """Forwards 127.0.0.1:`port` to a port on loopback.

    After `swallow()` answers are dropped, and `swallowed` is set when one of at least `least` bytes was.
    After `blackhole()` nothing passes in either direction, and connections stay open: the other side seems
    to be silent. `forward()` ends both. `cut()` breaks all connections. `inspect` receives each piece of an
    answer and returns whether to forward it; if not, the piece is dropped and the connection is cut.
    """

    def __init__(self, target_port: int, inspect: Callable[[bytes], bool] = lambda _: True) -> None:
        self._target_port = target_port
        self._inspect = inspect
        self._swallowing = False
        self._least = 1
        self._open = asyncio.Event()
        self._open.set()
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.swallowed = asyncio.Event()

    @property
    def port(self) -> int:
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    def swallow(self, *, least: int = 1) -> None:
        """`least`: shorter pieces are no answers, but control data of the protocol."""
        self.swallowed.clear()
        self._swallowing, self._least = True, least

    def blackhole(self) -> None:
        self._open.clear()

    def forward(self) -> None:
        self._swallowing = False
        self._open.set()

    async def cut(self) -> None:
        """Breaks all connections; new ones are accepted."""
        for writer in list(self._connections):
            writer.transport.abort()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        await self.cut()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
        except OSError:
            writer.transport.abort()
            return
        pair = {writer, far_writer}
        self._connections |= pair
        for task in (
            asyncio.create_task(self._pump(reader, far_writer, answers=False)),
            asyncio.create_task(self._pump(far_reader, writer, answers=True)),
        ):
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            task.add_done_callback(lambda _: self._close(pair))

    def _close(self, pair: set[asyncio.StreamWriter]) -> None:
        for writer in pair & self._connections:
            writer.transport.abort()
        self._connections -= pair

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool
    ) -> None:
        try:
            while data := await reader.read(_CHUNK):
                await self._open.wait()
                if answers and self._swallowing:
                    if len(data) >= self._least:
                        self.swallowed.set()
                    continue
                if answers and not self._inspect(data):
                    return
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            return  # the other side has disconnected; the callback closes both
