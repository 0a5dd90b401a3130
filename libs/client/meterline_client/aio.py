"""The client in asyncio.

`record` never waits, so it is the same call there. Delivery stays in its thread: encoding a batch and writing
it to disk would block an event loop; a busy loop cannot starve a thread. Only flush and close are awaited.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self


class AsyncMethods(ABC):
    """Awaitable forms of the calls that wait."""

    @abstractmethod
    def flush(self, timeout: float | None = 10.0) -> bool: ...

    @abstractmethod
    def close(self, timeout: float = 5.0) -> bool: ...

    async def flush_async(self, timeout: float | None = 10.0) -> bool:
        """`flush`, without blocking the event loop."""
        return await asyncio.to_thread(self.flush, timeout)

    async def close_async(self, timeout: float = 5.0) -> bool:
        """`close`, without blocking the event loop."""
        return await asyncio.to_thread(self.close, timeout)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close_async()
