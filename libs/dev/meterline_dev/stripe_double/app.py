"""The ASGI application: its routes and background tasks."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from . import deliveries, reports, timeline
from .control import Control
from .core import Core
from .endpoint import Endpoint, answer, refused, unrecognized
from .errors import server_error
from .ids import new_id
from .own_clock import OwnClock
from .routes import ROUTES
from .settings import DoubleSettings
from .store import Store

_TASKS: dict[str, Callable[[Core], Coroutine[Any, Any, None]]] = {
    "timeline": timeline.run,
    "reports": reports.run,
    "deliveries": deliveries.run,
}
_log = logging.getLogger(__name__)


class Background:
    """The tasks that make time pass, report errors and deliver webhooks."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        for name, run in _TASKS.items():
            task = asyncio.create_task(run(self._core), name=name)
            task.add_done_callback(_log_failure)
            self._tasks.append(task)
        # What an earlier process left undone.
        self._core.wake_reports.set()

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def failed(self) -> str | None:
        """The name of a task that is no longer running, if there is one."""
        return next((task.get_name() for task in self._tasks if task.done()), None)


def _log_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()):
        _log.error("background task %s failed", task.get_name(), exc_info=error)


def create_app(db: str, settings: DoubleSettings) -> Starlette:
    """The double on the SQLite file `db` (or ":memory:"). The file is opened here and closed on shutdown.

    Call it in the thread that will run the application: SQLite binds the connection to it.
    """
    store = Store(db)
    core = Core(store, settings, OwnClock(store))
    background = Background(core)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        background.start()
        try:
            yield
        finally:
            await background.stop()
            store.close()

    async def crashed(_: Request, __: Exception) -> Response:
        return answer(refused(server_error()), new_id("req", 14))

    routes = [Route(path, Endpoint(core, handler).call, methods=[method]) for method, path, handler in ROUTES]
    anything = Route("/{rest:path}", Endpoint(core, unrecognized).call, methods=["GET", "POST", "DELETE"])
    control = Control(core, background.failed).routes()
    return Starlette(
        routes=[*routes, *control, anything], lifespan=lifespan, exception_handlers={Exception: crashed}
    )
