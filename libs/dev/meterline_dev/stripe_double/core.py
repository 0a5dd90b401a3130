"""What every handler works with: the store, the clock, the settings, and the tasks to wake."""

import asyncio
from collections import Counter
from dataclasses import dataclass, field

from .errors import no_such
from .faults import FaultBook
from .own_clock import OwnClock
from .settings import DoubleSettings
from .store import JsonObject, Store


@dataclass(slots=True)
class Core:
    """`counters` count since the start of the process; everything durable is in `store`."""

    store: Store
    settings: DoubleSettings
    clock: OwnClock
    faults: FaultBook = field(default_factory=FaultBook)
    counters: Counter[str] = field(default_factory=Counter)
    wake_timeline: asyncio.Event = field(default_factory=asyncio.Event)
    wake_deliveries: asyncio.Event = field(default_factory=asyncio.Event)
    wake_reports: asyncio.Event = field(default_factory=asyncio.Event)

    def now(self, test_clock: str | None) -> int:
        """Unix seconds on this test clock, or on the double's own clock for None."""
        if test_clock is None:
            return self.clock.now()
        found = self.store.find("test_helpers.test_clock", test_clock)
        if found is None:
            raise no_such("test clock", test_clock, param="test_clock", status=400)
        frozen_time: int = found["frozen_time"]
        return frozen_time

    def require(self, kind: str, identifier: str, *, param: str | None = None) -> JsonObject:
        """The object; 404 if the path names none such, 400 if the parameter `param` does."""
        found = self.store.find(kind, identifier)
        if found is None:
            what = kind.rsplit(".", 1)[-1].replace("_", " ")
            raise no_such(what, identifier, param=param or "id", status=400 if param else 404)
        return found
